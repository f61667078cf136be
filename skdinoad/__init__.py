"""Visual anomaly detection that feels like scikit-learn."""

from importlib import import_module
from typing import TYPE_CHECKING

from skdinoad._compat.imports import uncollected
from skdinoad._version import __version__

#: Public names, and the module that each comes from. They are imported when they are
#: first asked for: torch, timm and OpenCV take seconds.
_PLACES = {
    "DFR": "detectors",
    "DMAD": "detectors",
    "AffineAligner": "alignment",
    "AnomalyDINO": "detectors",
    "CNNFeatures": "features",
    "DinoFeatures": "features",
    "DinoPatch": "detectors",
    "Dinomaly": "detectors",
    "DiskCache": "features",
    "ForegroundMask": "alignment",
    "LinearDFR": "detectors",
    "LocalBank": "banks",
    "MemoryBank": "banks",
    "Outline": "alignment",
    "PCAAligner": "alignment",
    "Pipeline": "pipeline",
    "Region": "regions",
    "RegionMask": "alignment",
    "Result": "results",
    "ReverseDistillation": "detectors",
    "Runtime": "features",
    "ScoreCleaning": "detectors",
    "SubspaceAD": "detectors",
    "ThresholdTunerCV": "model_selection",
    "Tiles": "features",
    "Training": "training",
    "as_classifier": "model_selection",
    "dump": "persistence",
    "find_regions": "regions",
    "iter_maps": "pipeline",
    "iter_results": "results",
    "load": "persistence",
    "make_pipeline": "pipeline",
    "predict_map": "pipeline",
    "regions_table": "regions",
    "save": "persistence",
    "suggest": "model_selection",
    "to_labels": "_inputs.labels",
}

#: Modules that ``import skdinoad`` makes reachable, likewise.
_MODULES = (
    "datasets",
    "metrics",
    "model_selection",
    "monitoring",
    "plotting",
    "scale",
)

__all__ = [*_PLACES, "__version__"]


if TYPE_CHECKING:  # the same names once more, for what reads code without running it
    from skdinoad import datasets as datasets
    from skdinoad import metrics as metrics
    from skdinoad import model_selection as model_selection
    from skdinoad import monitoring as monitoring
    from skdinoad import plotting as plotting
    from skdinoad import scale as scale
    from skdinoad._inputs.labels import to_labels as to_labels
    from skdinoad.alignment import AffineAligner as AffineAligner
    from skdinoad.alignment import ForegroundMask as ForegroundMask
    from skdinoad.alignment import Outline as Outline
    from skdinoad.alignment import PCAAligner as PCAAligner
    from skdinoad.alignment import RegionMask as RegionMask
    from skdinoad.banks import LocalBank as LocalBank
    from skdinoad.banks import MemoryBank as MemoryBank
    from skdinoad.detectors import DFR as DFR
    from skdinoad.detectors import DMAD as DMAD
    from skdinoad.detectors import AnomalyDINO as AnomalyDINO
    from skdinoad.detectors import Dinomaly as Dinomaly
    from skdinoad.detectors import DinoPatch as DinoPatch
    from skdinoad.detectors import LinearDFR as LinearDFR
    from skdinoad.detectors import ReverseDistillation as ReverseDistillation
    from skdinoad.detectors import ScoreCleaning as ScoreCleaning
    from skdinoad.detectors import SubspaceAD as SubspaceAD
    from skdinoad.features import CNNFeatures as CNNFeatures
    from skdinoad.features import DinoFeatures as DinoFeatures
    from skdinoad.features import DiskCache as DiskCache
    from skdinoad.features import Runtime as Runtime
    from skdinoad.features import Tiles as Tiles
    from skdinoad.model_selection import ThresholdTunerCV as ThresholdTunerCV
    from skdinoad.model_selection import as_classifier as as_classifier
    from skdinoad.model_selection import suggest as suggest
    from skdinoad.persistence import dump as dump
    from skdinoad.persistence import load as load
    from skdinoad.persistence import save as save
    from skdinoad.pipeline import Pipeline as Pipeline
    from skdinoad.pipeline import iter_maps as iter_maps
    from skdinoad.pipeline import make_pipeline as make_pipeline
    from skdinoad.pipeline import predict_map as predict_map
    from skdinoad.regions import Region as Region
    from skdinoad.regions import find_regions as find_regions
    from skdinoad.regions import regions_table as regions_table
    from skdinoad.results import Result as Result
    from skdinoad.results import iter_results as iter_results
    from skdinoad.training import Training as Training
else:

    def __getattr__(name):
        if name in _PLACES:
            with uncollected():
                value = getattr(import_module(f"skdinoad.{_PLACES[name]}"), name)
            globals()[name] = value
            return value
        if name in _MODULES:
            with uncollected():
                return import_module(f"skdinoad.{name}")
        raise AttributeError(f"module 'skdinoad' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__, *_MODULES])
