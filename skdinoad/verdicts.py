"""What a model says of images, in plain numbers: for rows, files and answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.normal_scores import NormalScores, rate_interval
from skdinoad._arrays.thresholds import as_threshold, conformal_rank, known_threshold
from skdinoad.pipeline import decider, final_detector, pixel_decider

__all__ = [
    "Judge",
    "as_json",
    "described",
    "held_out_scores",
    "rescued",
    "review_of",
    "target_of",
    "threshold_of",
    "verdict_of",
]


@dataclass
class Judge:
    """A model, and what its verdicts are made from."""

    model: object
    threshold: float
    held: np.ndarray
    limits: tuple
    pixel_threshold: float
    review: float | None = None

    @classmethod
    def of(cls, model):
        """Read threshold, held-out scores and display limits from a model."""
        check_is_fitted(decider(model))
        detector = final_detector(model)
        limits = tuple(float(x) for x in detector.map_limits_)
        # Models saved before detectors had one lack it.
        pixel = getattr(pixel_decider(model), "pixel_threshold_", np.nan)
        pixel = float(pixel) if np.isfinite(pixel) else limits[1]
        held = np.sort(held_out_scores(model))
        return cls(model, threshold_of(model), held, limits, pixel, review_of(model))

    def row(self, path, score):
        """Return what is said of an image."""
        n = len(self.held)
        as_odd = np.searchsorted(self.held, score, side="right")
        review = {} if self.review is None else {"review_threshold": self.review}
        return {
            "path": path,
            "verdict": verdict_of(score, self.threshold, self.review),
            "score": float(score),
            "threshold": self.threshold,
            **review,
            "p_value": (1 + int(as_odd)) / (n + 1) if n else None,
            "error": "",
        }


def described(model: Any) -> dict:
    """Return what a reader of a report should know of a model.

    "false_alarm_interval" holds the rate of false alarms with 90 % confidence, judging
    by how many held-out good images the threshold flags.
    """
    check_is_fitted(decider(model))
    held, detector = held_out_scores(model), final_detector(model)
    out = {
        "estimator": " ".join(repr(model).split()),
        "threshold": threshold_of(model),
        "held_out_images": len(held),
    }
    if (rate := target_of(model)) is not None:
        out["target_fpr"] = rate
    if (review := review_of(model)) is not None:
        out["review_threshold"] = review
    if len(held):
        out["held_out_scores"] = [round(float(f(held)), 6) for f in (min, max)]
        out["held_out_flagged"] = int((held < out["threshold"]).sum())
        n = int(np.isfinite(held).sum())  # a tuner's splits may leave some out
        interval = rate_interval(out["held_out_flagged"], n)
        out["false_alarm_interval"] = [round(float(x), 4) for x in interval]
    out["suspects"] = [
        f"{s.path or f'row {s.row}'}: {s.ratio:.1f} times the usual anomaly score"
        for s in getattr(detector, "suspects_", ())
    ]
    features: Any = getattr(detector, "features_", None)
    if hasattr(features, "weights_name_"):
        out["weights"] = features.weights_name_
        out["weights_sha256"] = features.weights_digest_
    return out


def target_of(model: Any) -> float | None:
    """Return the rate of false alarms that a model's threshold stands for.

    None if the threshold was chosen otherwise, for example set by hand.
    """
    judging = decider(model)
    rate = getattr(judging, "target_fpr", None)
    if rate is None or getattr(judging, "scoring", None) is not None:
        return None
    held = held_out_scores(model)
    held = held[np.isfinite(held)]
    if hasattr(judging, "p_values"):
        rank = conformal_rank(len(held), rate)
        usual = np.sort(held)[rank - 1] if rank else None
    else:
        usual = -NormalScores(-held).threshold(rate) if len(held) else None
    return rate if usual == threshold_of(model) else None


def threshold_of(model: Any) -> float:
    """Return the score below which a model flags images; it must have one."""
    threshold = decider(model).offset_
    if isinstance(threshold, dict):
        raise ValueError(
            f"the model has a threshold for each of {list(threshold)}, and images here "
            "say nothing of groups: score them in Python."
        )
    threshold = as_threshold(threshold)
    if np.isnan(threshold):
        raise ValueError(
            "the model has no threshold, since no good image was held out: learn from "
            "two or more, or choose one with skdinoad tune."
        )
    return threshold


def review_of(model: Any) -> float | None:
    """Return the score from which images are accepted; None if none are looked at."""
    review = getattr(decider(model), "review_offset_", None)
    return None if review is None else known_threshold(review, "review_offset_")


def verdict_of(score: float, threshold: float, review: float | None = None) -> str:
    """Return what a score means: "good", "defect", or between two thresholds "look".

    Examples
    --------
    >>> from skdinoad.verdicts import verdict_of
    >>> [verdict_of(score, -2.0, -1.0) for score in (-3, -2, -1)]
    ['defect', 'look', 'good']
    """
    if score < threshold:
        return "defect"
    return "look" if review is not None and score < review else "good"


def held_out_scores(model: Any) -> np.ndarray:
    """Return scores of good training images, each by a model without it."""
    judging = decider(model)
    scores = np.asarray(judging.holdout_scores_, float)
    return scores[getattr(judging, "labels_", np.ones(len(scores))) == 1]


def rescued(work, paths):
    """Yield (path, result, error) of each path: a broken image takes no other along.

    Parameters
    ----------
    work : callable
        Takes a list of paths, returns a result for each; raises if one is broken.
    paths : list of str
    """
    try:
        results = work(paths)
    except (OSError, ValueError, TypeError) as error:
        if len(paths) == 1:
            yield paths[0], None, " ".join(str(error).split())
            return
        for path in paths:  # which one is it?
            yield from rescued(work, [path])
        return
    yield from ((path, result, "") for path, result in zip(paths, results))


def as_json(region):
    """Return a region as plain numbers; (row, column) order."""
    return {
        "box": list(region.box),
        "area": region.area,
        "peak": round(region.peak, 6),
        "mean": round(region.mean, 6),
        "place": list(region.place),
    }
