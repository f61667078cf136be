"""The detectors."""

from skdinoad.detectors._anomalydino import AnomalyDINO
from skdinoad.detectors._dfr import DFR
from skdinoad.detectors._dinomaly import Dinomaly
from skdinoad.detectors._dinopatch import DinoPatch

__all__ = ["DFR", "AnomalyDINO", "DinoPatch", "Dinomaly"]
