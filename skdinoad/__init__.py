"""Visual anomaly detection that feels like scikit-learn."""

from skdinoad._inputs.labels import to_labels
from skdinoad.alignment import AffineAligner, ForegroundMask, PCAAligner
from skdinoad.detectors import (
    DFR,
    DMAD,
    AnomalyDINO,
    Dinomaly,
    DinoPatch,
    SubspaceAD,
)
from skdinoad.features import CNNFeatures, DinoFeatures
from skdinoad.model_selection import ThresholdTunerCV, suggest
from skdinoad.persistence import dump
from skdinoad.pipeline import Pipeline, make_pipeline, predict_map
from skdinoad.regions import Region, find_regions

__version__ = "0.1.0.dev0"

__all__ = [
    "DFR",
    "DMAD",
    "AffineAligner",
    "AnomalyDINO",
    "CNNFeatures",
    "DinoFeatures",
    "DinoPatch",
    "Dinomaly",
    "ForegroundMask",
    "PCAAligner",
    "Pipeline",
    "Region",
    "SubspaceAD",
    "ThresholdTunerCV",
    "__version__",
    "dump",
    "find_regions",
    "make_pipeline",
    "predict_map",
    "suggest",
    "to_labels",
]
