"""Results of a fitted estimator: one ``Result`` per image, from a single pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from skdinoad._inputs.images import Images
from skdinoad._inputs.labels import named_array
from skdinoad._typing import DetectorLike, ImagesLike
from skdinoad.pipeline import (
    as_input,
    iter_scored,
    threshold_owner,
    warn_without_alpha,
)
from skdinoad.regions import Region, find_regions
from skdinoad.verdicts import DecisionRule

__all__ = ["Result", "iter_results"]

#: Errors that an image may cause. Any other error ends the iteration.
_OF_IMAGES = (OSError, ValueError, TypeError)

#: Number of images scored together with ``errors="keep"``.
_PART = 32


@dataclass(frozen=True, eq=False)
class Result:
    """Result of a fitted estimator for one image.

    Attributes
    ----------
    score : float
        Higher = more normal; NaN if the image could not be scored.
    decision : float or None
        ``score`` minus the threshold; negative = anomalous. None without a threshold.
    label : {1, -1} or None
        +1 normal, -1 anomalous; None without a threshold.
    review : bool or None
        Whether a person should inspect the image: it is not anomalous, but its score
        is below ``review_offset_``. None if the estimator has no such threshold.
    p_value : float or None
        Conformal p-value: share of the held-out good images, with this image counted
        as one of them, that score no higher than this image. None if the estimator
        held out no good image.
    heat : ndarray of shape (H, W), float32, or None
        The heat map in the pixel coordinates of the image, higher = more anomalous.
    regions : list of Region or None
        The regions of ``heat`` above ``pixel_threshold_``, the highest peak first.
    error : Exception or None
        The error if the image could not be scored. ``score`` is then NaN, and all other
        attributes are None.
    """

    score: float
    decision: float | None = None
    label: int | None = None
    review: bool | None = None
    p_value: float | None = None
    heat: np.ndarray | None = None
    regions: list[Region] | None = None
    error: Exception | None = None

    @property
    def verdict(self) -> str | None:
        """Verdict: "good", "review", "defect" or "broken"; None without a threshold.

        "broken" means that the image could not be scored.

        Examples
        --------
        >>> from skdinoad import Result
        >>> [Result(-1.0, label=label, review=True).verdict for label in (1, -1)]
        ['review', 'defect']
        """
        if self.error is not None:
            return "broken"
        if self.label is None:
            return None
        if self.label == -1:
            return "defect"
        return "review" if self.review else "good"


def iter_results(
    estimator: DetectorLike,
    X: ImagesLike,
    *,
    maps: bool = True,
    regions: bool = False,
    errors: Literal["raise", "keep"] = "raise",
    groups: ArrayLike | None = None,
) -> Iterator[Result]:
    """Yield a :class:`Result` for each image: score, label, heat map and more.

    Each image is read, aligned and compared with the good images only once, whichever
    outputs are requested, and memory holds one batch of images. Calling
    ``score_samples``, ``predict`` and ``predict_map`` repeats this work three times.

    Parameters
    ----------
    estimator : estimator
        A detector, a Pipeline (scikit-learn's or this library's, also nested), a
        search such as GridSearchCV, a ThresholdTunerCV, a FrozenEstimator, or another
        meta-estimator that stores its fitted estimator in ``best_estimator_`` or
        ``estimator_``.
    X : array, list of images or paths
        Any input that ``estimator.predict`` accepts.
    maps : bool, default=True
        Whether results include heat maps.
    regions : bool, default=False
        Whether results include the regions of heat maps.
    errors : {"raise", "keep"}, default="raise"
        What to do if an image cannot be read or scored. "raise" raises the error.
        "keep" yields a Result that holds the error and continues with the next image.
    groups : array-like of shape (n,) or None, default=None
        The group of each image, such as its product, for a ThresholdTunerCV that was
        fitted with groups. Without groups such a tuner has no threshold.

    Yields
    ------
    result : Result
        One for each image, in order.

    Raises
    ------
    ValueError
        If ``errors`` is not one of the options, ``groups`` does not match X or the
        groups in ``fit``, or ``regions`` is True for an estimator without a threshold
        on heat maps.
    TypeError
        As in :func:`predict_map`.

    See Also
    --------
    iter_maps : Yield only the heat maps.
    find_regions : Find the regions of given heat maps.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoFeatures, DinoPatch, iter_results
    >>> X = np.random.default_rng(0).random((4, 40, 50, 3))
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> detector = DinoPatch(features=features).fit(X)
    >>> images = [X[0], np.zeros((0, 50, 3)), X[1]]
    >>> for result in iter_results(detector, images, errors="keep"):
    ...     print(result.verdict, None if result.heat is None else result.heat.shape)
    good (40, 50)
    broken None
    good (40, 50)
    """
    if errors not in ("raise", "keep"):
        raise ValueError(f"errors={errors!r}: expected 'raise' or 'keep'.")
    X = as_input(estimator, X)
    rules = _rules(estimator, groups, len(X))
    if regions:
        _check_pixel_thresholds(rules)
    if errors == "keep":
        found = _iter_kept(estimator, X, maps or regions)
    else:
        found = iter_scored(estimator, X, maps=maps or regions)
    return _iter_decided(estimator, X, found, rules, Bunch(maps=maps, regions=regions))


def _rules(estimator, groups, n):
    """Return the decision rule of each of n images."""
    if groups is None:
        return [DecisionRule.of(estimator)] * n
    if not isinstance(threshold_owner(estimator).offset_, dict):
        raise ValueError("groups were given, but fit had none.")
    groups = named_array(groups, "groups")
    if groups.shape != (n,):
        raise ValueError(f"groups has shape {groups.shape}, expected ({n},).")
    try:
        rules = {g: DecisionRule.of(estimator, g) for g in set(groups.tolist())}
    except KeyError as error:
        raise ValueError(f"Group {error} is unknown: fit had no such group.") from error
    return [rules[group] for group in groups.tolist()]


def _check_pixel_thresholds(rules):
    if any(rule.pixel_threshold is None for rule in rules):
        raise ValueError(
            "The estimator has no threshold on heat maps (pixel_threshold_), so "
            "regions cannot be found. Fit on at least two good images, set "
            "pixel_threshold_, or pass groups if a ThresholdTunerCV was fitted with "
            "groups."
        )


def _iter_kept(estimator, X, maps):
    """Yield the score and heat map, or the error, of each image."""
    for start in range(0, len(X), _PART):
        yield from _kept(estimator, X, start, min(start + _PART, len(X)), maps)


def _kept(estimator, X, start, stop, maps):
    """Yield the same for rows start to stop, halved until the failing image is found.

    Images in batches before that of the failing image are not scored again.
    """
    try:
        for pair in iter_scored(estimator, X[start:stop], maps=maps):
            yield pair
            start += 1
    except _OF_IMAGES as error:
        if stop - start == 1:
            yield error if isinstance(X, Images) else _renamed(error, start)
            return
        middle = (start + stop) // 2
        yield from _kept(estimator, X, start, middle, maps)
        yield from _kept(estimator, X, middle, stop, maps)


def _renamed(error, row):
    """Return the same error, naming a feature grid by its row in the whole X."""
    return type(error)(str(error).replace("X[0]", f"X[{row}]"))


def _iter_decided(estimator, X, found, rules, wanted):
    for rule, item in zip(rules, found):
        if isinstance(item, Exception):
            yield Result(np.nan, error=item)
        else:
            yield _decided(rule, *item, wanted)
    warn_without_alpha(estimator, X)


def _decided(rule, score, heat, wanted):
    decision = label = review = None
    if rule.threshold is not None:
        decision = score - rule.threshold
        label = -1 if decision < 0 else 1
    if rule.review_threshold is not None:
        review = label != -1 and bool(score < rule.review_threshold)
    return Result(
        score,
        decision,
        label,
        review,
        rule.p_value(score),
        heat if wanted.maps else None,
        find_regions(heat, rule.pixel_threshold) if wanted.regions else None,
    )
