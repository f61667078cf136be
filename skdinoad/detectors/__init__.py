"""The detectors."""

from skdinoad.detectors._anomalydino import AnomalyDINO
from skdinoad.detectors._dfr import DFR
from skdinoad.detectors._dinomaly import Dinomaly
from skdinoad.detectors._dinopatch import DinoPatch
from skdinoad.detectors._dmad import DMAD
from skdinoad.detectors._subspacead import SubspaceAD

__all__ = ["DFR", "DMAD", "AnomalyDINO", "DinoPatch", "Dinomaly", "SubspaceAD"]
