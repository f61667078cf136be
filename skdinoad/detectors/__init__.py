"""Anomaly detectors, one class per method."""

from skdinoad.detectors._dinopatch import DinoPatch

__all__ = ["DinoPatch"]
