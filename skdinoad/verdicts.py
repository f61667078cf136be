"""Thresholds and held-out scores that determine a fitted model's verdicts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.normal_scores import NormalScores, rate_interval
from skdinoad._arrays.thresholds import (
    as_threshold,
    conformal_p_values,
    conformal_rank,
    known_threshold,
)
from skdinoad.pipeline import final_detector, pixel_threshold_owner, threshold_owner

__all__ = [
    "DecisionRule",
    "described",
    "held_out_scores",
    "review_threshold_of",
    "target_of",
    "threshold_of",
]


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """The thresholds of a fitted estimator and the held-out scores of good images.

    Parameters
    ----------
    threshold : float or None
        Images that score below it are anomalous; None if the model has no threshold.
    review_threshold : float or None
        Images that score below it, but not below ``threshold``, need a review.
    pixel_threshold : float or None
        Regions of a heat map lie above it.
    held_out_scores : ndarray of shape (n,)
        Sorted scores of good images, each by a model that has not seen it.
    """

    threshold: float | None
    review_threshold: float | None
    pixel_threshold: float | None
    held_out_scores: np.ndarray

    @classmethod
    def of(cls, model: Any, group: Any = None) -> "DecisionRule":
        """Read the rule from a fitted model; with ``group``, the rule of that group.

        A model with one threshold per group has none for images without a group.
        """
        owner = threshold_owner(model)
        check_is_fitted(owner)
        pixels = getattr(pixel_threshold_owner(model), "pixel_threshold_", np.nan)
        review = getattr(owner, "review_offset_", None)
        return cls(
            _number(owner.offset_, "offset_", group),
            None if review is None else _checked(review, "review_offset_", group),
            _number(pixels, "pixel_threshold_", group),
            np.sort(held_out_scores(model, group)),
        )

    def p_value(self, score: float) -> float | None:
        """Return the conformal p-value of a score; None if no good image was held out.

        This is the share of good images, with the new image counted as one of them,
        that score no higher.
        """
        if not len(self.held_out_scores):
            return None
        return float(conformal_p_values(self.held_out_scores, score))


def _number(threshold, name, group):
    """Return a threshold, of ``group`` if there is one per group; None if NaN."""
    if isinstance(threshold, dict):
        threshold = np.nan if group is None else threshold[group]
    value = as_threshold(threshold, name)
    return None if np.isnan(value) else value


def _checked(review, name, group):
    """Return the review threshold, of ``group`` if there is one per group."""
    if isinstance(review, dict):
        return None if group is None else known_threshold(review[group], name)
    return known_threshold(review, name)


def described(model: Any) -> dict:
    """Return the description of a model that reports show.

    "false_alarm_interval" is the 90 % confidence interval of the false alarm rate. It
    is computed from the number of held-out good images that the threshold flags.
    """
    check_is_fitted(threshold_owner(model))
    held, detector = held_out_scores(model), final_detector(model)
    out = {
        "estimator": " ".join(repr(model).split()),
        "threshold": threshold_of(model),
        "held_out_images": len(held),
    }
    if (rate := target_of(model)) is not None:
        out["target_fpr"] = rate
    if (review := review_threshold_of(model)) is not None:
        out["review_threshold"] = review
    if len(held):
        out["held_out_scores"] = [round(float(f(held)), 6) for f in (min, max)]
        out["held_out_flagged"] = int((held < out["threshold"]).sum())
        interval = rate_interval(out["held_out_flagged"], len(held))
        out["false_alarm_interval"] = [round(float(x), 4) for x in interval]
    out["suspects"] = [
        f"{s.path or f'row {s.row}'}: {s.ratio:.1f} times the usual anomaly score"
        for s in getattr(detector, "suspects_", ())
    ]
    features: Any = getattr(detector, "features_", None)
    if hasattr(features, "weights_name_"):
        out["weights"] = features.weights_name_
        out["weights_sha256"] = features.weights_digest_
    if evidence := settings_of_weights(features):
        out["settings_of_weights"] = evidence
    return out


def settings_of_weights(features: Any) -> list[str]:
    """Return the parameters of fitted features that follow the weights, and why."""
    evidence = getattr(features, "evidence_", {})
    return [
        f"{name}={getattr(features, f'{name}_')} ({text})"
        for name, text in evidence.items()
    ]


def target_of(model: Any) -> float | None:
    """Return the target false alarm rate of a model's threshold.

    None if the threshold was chosen in another way, for example set by hand.
    """
    judging = threshold_owner(model)
    rate = getattr(judging, "target_fpr", None)
    if rate is None or getattr(judging, "scoring", None) is not None:
        return None
    held = held_out_scores(model)
    if hasattr(judging, "p_values"):
        rank = conformal_rank(len(held), rate)
        usual = np.sort(held)[rank - 1] if rank else None
    else:
        usual = -NormalScores(-held).threshold(rate) if len(held) else None
    return rate if usual == threshold_of(model) else None


def threshold_of(model: Any) -> float:
    """Return the score below which a model flags images; an error if it has none."""
    threshold = threshold_owner(model).offset_
    if isinstance(threshold, dict):
        raise ValueError(
            f"the model has a threshold for each of {list(threshold)}, but groups "
            "cannot be passed here. Score the images in Python with iter_results."
        )
    threshold = as_threshold(threshold)
    if np.isnan(threshold):
        raise ValueError(
            "the model has no threshold because no good image was held out. Learn from "
            "at least two good images, or choose a threshold with skdinoad tune."
        )
    return threshold


def review_threshold_of(model: Any) -> float | None:
    """Return the score from which images need no review; None if the model has none."""
    review = getattr(threshold_owner(model), "review_offset_", None)
    return None if review is None else known_threshold(review, "review_offset_")


def held_out_scores(model: Any, group: Any = None) -> np.ndarray:
    """Return scores of good training images, each by a model that has not seen it.

    Exact copies count once. A tuner contributes only the rows that ``cv`` held out.
    With ``group``, only the scores of that group are returned.
    """
    owner = threshold_owner(model)
    if hasattr(owner, "normal_holdout_scores"):
        return owner.normal_holdout_scores(group)
    return np.asarray(owner.holdout_scores_, float)
