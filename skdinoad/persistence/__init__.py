"""Save and load models: joblib files, and a format that runs no code."""

from skdinoad.persistence._archive import ModelFileError, load, save
from skdinoad.persistence._dump import dump

__all__ = ["ModelFileError", "dump", "load", "save"]
