"""Transformers of images: parts into one pose, ground out of sight."""

from skdinoad.alignment._affine import AffineAligner
from skdinoad.alignment._foreground import ForegroundMask
from skdinoad.alignment._outline import Outline
from skdinoad.alignment._pca import PCAAligner
from skdinoad.alignment._region import RegionMask

__all__ = ["AffineAligner", "ForegroundMask", "Outline", "PCAAligner", "RegionMask"]
