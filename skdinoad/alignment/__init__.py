"""Transformers that bring parts into one pose."""

from skdinoad.alignment._pca import PCAAligner

__all__ = ["PCAAligner"]
