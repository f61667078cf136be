"""Scorers for GridSearchCV and cross_validate: ``scoring=pixel_aupro_scorer``."""

from typing import Any

import numpy as np

from skdinoad._inputs.labels import are_masks, labels_of
from skdinoad._typing import DetectorLike, ImagesLike, LabelsLike
from skdinoad.metrics._image import (
    f1_max_score,
    image_ap_score,
    image_auroc_score,
    recall_at_fpr_score,
)
from skdinoad.metrics._streaming import StreamingPixelMetrics
from skdinoad.pipeline import iter_maps
from skdinoad.results import iter_results

__all__ = [
    "detection_scorer",
    "f1_max_scorer",
    "image_ap_scorer",
    "image_auroc_scorer",
    "pixel_ap_scorer",
    "pixel_aupro_scorer",
    "pixel_auroc_scorer",
    "pixel_f1_max_scorer",
    "recall_at_fpr_scorer",
    "recall_scorer",
    "specificity_scorer",
]


def detection_scorer(
    estimator: DetectorLike, X: ImagesLike, y: LabelsLike
) -> dict[str, float]:
    """Compute all metrics of images and heat maps in one pass over X.

    Pass it as ``scoring`` to ``GridSearchCV`` or ``cross_validate``, which report each
    metric; ``GridSearchCV`` then needs ``refit="image_auroc"`` or another metric. A
    dict of scorers would score every image once per scorer.

    Parameters
    ----------
    estimator : fitted detector, Pipeline or other estimator that ends in one
    X : array, list of images or paths
    y : array-like of shape (n,), or masks (n, H, W) or list of (H, W)
        +1 normal, -1 anomalous; in masks, True = anomalous.

    Returns
    -------
    figures : dict of str to float
        "image_auroc", "image_ap", "f1_max", "recall" and "specificity", the last two at
        the estimator's threshold. With masks also "aupro" (false positive rates up to
        30 %), "pixel_auroc", "pixel_ap" and "pixel_f1_max". Higher = better.

    Raises
    ------
    ValueError
        If y holds only normal or only anomalous images or pixels, or the estimator has
        no threshold.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoPatch
    >>> from skdinoad.metrics import detection_scorer
    >>> F = np.random.default_rng(0).random((6, 2, 2, 8))    # features of images
    >>> F[4:] += 5
    >>> detector = DinoPatch().fit(F[:3])
    >>> sorted(detection_scorer(detector, F[3:], [1, -1, -1]))
    ['f1_max', 'image_ap', 'image_auroc', 'recall', 'specificity']
    """
    labels, pixels = labels_of(y, len(X)), are_masks(y)
    masks: Any = y if pixels else None
    metrics, scores, found = StreamingPixelMetrics(), [], []
    for row, result in enumerate(iter_results(estimator, X, maps=pixels)):
        scores.append(result.score)
        if result.label is None:
            raise ValueError("The estimator has no threshold: set offset_.")
        found.append(result.label)
        if pixels:
            heat: Any = result.heat
            metrics.update([masks[row]], [heat])
    flagged = np.array(found) == -1
    figures = {
        "image_auroc": image_auroc_score(labels, scores),
        "image_ap": image_ap_score(labels, scores),
        "f1_max": f1_max_score(labels, scores),
        "recall": _share(flagged, labels == -1),
        "specificity": _share(~flagged, labels == 1),
    }
    if pixels:
        figures["aupro"] = metrics.aupro()
        figures["pixel_auroc"] = metrics.auroc()
        figures["pixel_ap"] = metrics.average_precision()
        figures["pixel_f1_max"] = metrics.f1_max()
    return figures


def image_auroc_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`image_auroc_score` of ``score_samples``; y holds labels or masks.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skdinoad import DinoPatch
    >>> from skdinoad.metrics import image_auroc_scorer
    >>> search = GridSearchCV(
    ...     DinoPatch(), {"neighborhood": [0, 1]}, scoring=image_auroc_scorer
    ... )
    """
    return image_auroc_score(labels_of(y, len(X)), estimator.score_samples(X))


def image_ap_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`image_ap_score` of ``score_samples``; y holds labels or masks."""
    return image_ap_score(labels_of(y, len(X)), estimator.score_samples(X))


def f1_max_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`f1_max_score` of ``score_samples``; y holds labels or masks."""
    return f1_max_score(labels_of(y, len(X)), estimator.score_samples(X))


def recall_at_fpr_scorer(
    estimator: DetectorLike, X: ImagesLike, y: LabelsLike, *, fpr: float = 0.05
) -> float:
    """Return :func:`recall_at_fpr_score` of ``score_samples``; y: labels or masks.

    For another rate use ``functools.partial(recall_at_fpr_scorer, fpr=0.1)``.
    """
    labels = labels_of(y, len(X))
    return recall_at_fpr_score(labels, estimator.score_samples(X), fpr=fpr)


def recall_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return the share of anomalous images that ``predict`` flags; y: labels or masks.

    Uses the estimator's threshold. NaN if there is no anomalous image.
    """
    return _share(estimator.predict(X) == -1, labels_of(y, len(X)) == -1)


def specificity_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return the share of good images that ``predict`` accepts; y: labels or masks.

    Equals 1 minus the false alarm rate at the estimator's threshold. NaN if there is no
    good image.
    """
    return _share(estimator.predict(X) == 1, labels_of(y, len(X)) == 1)


def _share(right, rows):
    return float(right[rows].mean()) if rows.any() else float("nan")


def pixel_aupro_scorer(
    estimator: DetectorLike, X: ImagesLike, y: LabelsLike, *, fpr_limit: float = 0.3
) -> float:
    """Return :func:`aupro_score` of the heat maps.

    Parameters
    ----------
    estimator : fitted detector, Pipeline or other estimator that ends in one
    X : array, list of images or paths
    y : masks (n, H, W), a list of (H, W) masks, or lazy masks
        True = anomalous; None in a list is an empty mask.
    fpr_limit : float, default=0.3
        For another limit use ``functools.partial(pixel_aupro_scorer, fpr_limit=0.05)``.

    Returns
    -------
    score : float
        Higher = better, within about 1e-3 of the exact value, because
        :class:`StreamingPixelMetrics` bins the map values.

    Raises
    ------
    ValueError
        If y holds no masks, or only normal or only anomalous pixels.
    """
    return _streamed(estimator, X, y).aupro(fpr_limit)


def pixel_auroc_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`pixel_auroc_score` of the heat maps; y: masks."""
    return _streamed(estimator, X, y).auroc()


def pixel_ap_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`pixel_ap_score` of the heat maps; y: masks."""
    return _streamed(estimator, X, y).average_precision()


def pixel_f1_max_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`pixel_f1_max_score` of the heat maps; y: masks."""
    return _streamed(estimator, X, y).f1_max()


def _streamed(estimator, X, masks):
    if not are_masks(masks):
        raise ValueError(
            "Pixel scorers need masks as y, (n, H, W) or a list of (H, W) with at "
            "least one mask; got labels or only None."
        )
    metrics = StreamingPixelMetrics()
    for row, heat in enumerate(iter_maps(estimator, X)):
        metrics.update([masks[row]], [heat])
    return metrics
