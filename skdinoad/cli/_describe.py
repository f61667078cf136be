"""``inspect`` and ``weights``."""

import hashlib
import json

import numpy as np

from skdinoad import CNNFeatures, DinoFeatures
from skdinoad.cli._paths import load_model
from skdinoad.pipeline import decider, final_detector

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
    held, detector = held_out_scores(model), final_detector(model)
    out = {
        "estimator": " ".join(repr(model).split()),
        "threshold": threshold_of(model),
        "held_out_images": len(held),
    }
    if len(held):
        out["held_out_scores"] = [round(float(f(held)), 6) for f in (min, max)]
    features = getattr(detector, "features_", None)
    if hasattr(features, "weights_name_"):
        out["weights"] = features.weights_name_
        out["weights_sha256"] = features.weights_digest_
    return out


def threshold_of(model) -> float:
    """Return the score below which a model flags images; it must have one."""
    threshold = decider(model).offset_
    if isinstance(threshold, dict):
        raise ValueError(
            f"the model has a threshold for each of {list(threshold)}, and images here "
            "say nothing of groups: score them in Python."
        )
    if np.isnan(threshold):
        raise ValueError(
            "the model has no threshold, since no good image was held out: learn from "
            "two or more, or choose one with skdinoad tune."
        )
    return float(threshold)


def held_out_scores(model) -> np.ndarray:
    """Return scores of good training images, each by a model without it."""
    judging = decider(model)
    scores = np.asarray(judging.holdout_scores_, float)
    return scores[getattr(judging, "labels_", np.ones(len(scores))) == 1]


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
