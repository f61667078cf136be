"""The detectors."""

from skdinoad.detectors._anomalydino import AnomalyDINO
from skdinoad.detectors._cleaning import ScoreCleaning
from skdinoad.detectors._dfr import DFR
from skdinoad.detectors._dinomaly import Dinomaly
from skdinoad.detectors._dinopatch import DinoPatch
from skdinoad.detectors._dmad import DMAD
from skdinoad.detectors._linear_dfr import LinearDFR
from skdinoad.detectors._reverse_distillation import ReverseDistillation
from skdinoad.detectors._subspacead import SubspaceAD

__all__ = [
    "DFR",
    "DMAD",
    "AnomalyDINO",
    "DinoPatch",
    "Dinomaly",
    "LinearDFR",
    "ReverseDistillation",
    "ScoreCleaning",
    "SubspaceAD",
]
