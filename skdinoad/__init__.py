"""Visual anomaly detection that feels like scikit-learn."""

from importlib import import_module

__version__ = "0.1.0.dev0"

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
    "ForegroundMask": "alignment",
    "PCAAligner": "alignment",
    "Pipeline": "pipeline",
    "Region": "regions",
    "RegionMask": "alignment",
    "SubspaceAD": "detectors",
    "ThresholdTunerCV": "model_selection",
    "as_classifier": "model_selection",
    "dump": "persistence",
    "find_regions": "regions",
    "iter_maps": "pipeline",
    "load": "persistence",
    "make_pipeline": "pipeline",
    "predict_map": "pipeline",
    "regions_table": "regions",
    "save": "persistence",
    "suggest": "model_selection",
    "to_labels": "_inputs.labels",
}

#: Modules that ``import skdinoad`` makes reachable, likewise.
_MODULES = ("datasets", "metrics", "model_selection", "monitoring", "plotting")

__all__ = [*_PLACES, "__version__"]


def __getattr__(name):
    if name in _PLACES:
        value = getattr(import_module(f"skdinoad.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"skdinoad.{name}")
    raise AttributeError(f"module 'skdinoad' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__, *_MODULES])
