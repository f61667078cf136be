"""``inspect`` and ``weights``."""

import hashlib
import json

import numpy as np

from skdinoad import CNNFeatures, DinoFeatures
from skdinoad.cli._paths import load_model
from skdinoad.pipeline import final_detector

__all__ = ["inspect", "weights"]


def inspect(options) -> int:
    """Print what a model is, and what it was made from."""
    model = load_model(options.model)
    said = described(model)
    said["file_sha256"] = hashlib.sha256(options.model.read_bytes()).hexdigest()
    if options.json:
        print(json.dumps(said))
    else:
        for name, value in said.items():
            print(f"{name.replace('_', ' '):18} {value}")
    return 0


def described(model) -> dict:
    """Return what a reader of a report should know of a model."""
    detector = final_detector(model)
    held = np.asarray(getattr(detector, "holdout_scores_", []), float)
    out = {
        "estimator": " ".join(repr(model).split()),
        "threshold": float(model.offset_),
        "held_out_images": len(held),
    }
    if len(held):
        out["held_out_scores"] = [round(float(f(held)), 6) for f in (min, max)]
    features = getattr(detector, "features_", None)
    if hasattr(features, "weights_name_"):
        out["weights"] = features.weights_name_
        out["weights_sha256"] = features.weights_digest_
    return out


def weights(options) -> int:
    """Print which weights each kind of network finds, and where."""
    source = {"weights": "hub"} if options.fetch else {}
    for kind in (DinoFeatures(**source), CNNFeatures(standardize=False, **source)):
        try:
            found = kind.fit()
            print(
                f"{kind.model}: {found.weights_name_}, {found.weights_digest_[:12]}..."
            )
        except RuntimeError as error:
            print(f"{kind.model}: {error}")
    return 0
