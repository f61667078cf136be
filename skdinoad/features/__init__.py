"""Feature extractors, which turn images into grids of features."""

from skdinoad.features._cnn import CNNFeatures
from skdinoad.features._dino import DinoFeatures
from skdinoad.features._parts import DiskCache, Runtime, Tiles
from skdinoad.features._state import WeightsNotFoundError

__all__ = [
    "CNNFeatures",
    "DinoFeatures",
    "DiskCache",
    "Runtime",
    "Tiles",
    "WeightsNotFoundError",
]
