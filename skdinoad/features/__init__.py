"""Patch features of pretrained networks."""

from skdinoad.features._dino import DinoFeatures
from skdinoad.features._weights import WeightsNotFoundError

__all__ = ["DinoFeatures", "WeightsNotFoundError"]
