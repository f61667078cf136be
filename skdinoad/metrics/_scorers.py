"""Scorers for GridSearchCV and cross_validate: ``scoring=pixel_aupro_scorer``."""

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

__all__ = [
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


def image_auroc_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`image_auroc_score` of ``score_samples``; y: labels or masks.

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
    """Return :func:`image_ap_score` of ``score_samples``; y: labels or masks."""
    return image_ap_score(labels_of(y, len(X)), estimator.score_samples(X))


def f1_max_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return :func:`f1_max_score` of ``score_samples``; y: labels or masks."""
    return f1_max_score(labels_of(y, len(X)), estimator.score_samples(X))


def recall_at_fpr_scorer(
    estimator: DetectorLike, X: ImagesLike, y: LabelsLike, *, fpr: float = 0.05
) -> float:
    """Return :func:`recall_at_fpr_score` of ``score_samples``; y: labels or masks.

    Another rate: ``functools.partial(recall_at_fpr_scorer, fpr=0.1)``.
    """
    labels = labels_of(y, len(X))
    return recall_at_fpr_score(labels, estimator.score_samples(X), fpr=fpr)


def recall_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return the share of anomalous images that ``predict`` flags; y: labels or masks.

    It judges the estimator's own threshold. NaN if there is no anomalous image.
    """
    return _share(estimator.predict(X) == -1, labels_of(y, len(X)) == -1)


def specificity_scorer(estimator: DetectorLike, X: ImagesLike, y: LabelsLike) -> float:
    """Return the share of good images that ``predict`` lets pass; y: labels or masks.

    1 minus the rate of false alarms, at the estimator's own threshold. NaN if there is
    no good image.
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
        Another one: ``functools.partial(pixel_aupro_scorer, fpr_limit=0.05)``.

    Returns
    -------
    score : float
        Higher = better, within about 1e-3 of the exact figure: maps are counted, one
        by one, by :class:`StreamingPixelMetrics`.

    Raises
    ------
    ValueError
        If y holds no masks, or pixels of one kind only.
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
            "Pixel scorers need masks as y, (n, H, W) or a list of (H, W), in which at "
            "least one is given; got labels or None alone."
        )
    metrics = StreamingPixelMetrics()
    for row, heat in enumerate(iter_maps(estimator, X)):
        metrics.update([masks[row]], [heat])
    return metrics
