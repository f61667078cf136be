"""Extractors: images to grids of features, and where their weights come from."""

from skdinoad.features._cnn import CNNFeatures
from skdinoad.features._dino import DinoFeatures
from skdinoad.features._state import WeightsNotFoundError

__all__ = ["CNNFeatures", "DinoFeatures", "WeightsNotFoundError"]
