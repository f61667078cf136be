"""Metrics of image scores: +1 normal, -1 anomalous, scores higher = more normal."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from skdinoad._inputs.labels import check_labels, named_array

__all__ = ["f1_max_score", "image_ap_score", "image_auroc_score", "recall_at_fpr_score"]


def image_auroc_score(y: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve.

    Parameters
    ----------
    y : array-like of shape (n,)
        +1 normal, -1 anomalous.
    scores : array-like of shape (n,)
        Higher = more normal, as returned by ``score_samples``, ``decision_function``.

    Returns
    -------
    score : float
        In 0..1, higher = better, 0.5 for scores without information.

    Raises
    ------
    ValueError
        If labels are not +1 / -1, all labels are equal, or scores are not finite.

    Examples
    --------
    >>> from skdinoad.metrics import image_auroc_score
    >>> image_auroc_score([1, 1, -1], [-0.2, -0.5, -0.9])
    1.0
    """
    return float(roc_auc_score(*_checked(y, scores)))


def image_ap_score(y: ArrayLike, scores: ArrayLike) -> float:
    """Return the average precision of the anomalous class.

    Parameters
    ----------
    y : array-like of shape (n,)
        +1 normal, -1 anomalous.
    scores : array-like of shape (n,)
        Higher = more normal.

    Returns
    -------
    score : float
        In 0..1, higher = better. Scores without information give the share of
        anomalous images. ``sklearn.metrics.average_precision_score(y, scores)`` gives
        the average precision of the normal class instead.

    Raises
    ------
    ValueError
        If labels are not +1 / -1, all labels are equal, or scores are not finite.

    Examples
    --------
    >>> from skdinoad.metrics import image_ap_score
    >>> image_ap_score([1, 1, -1], [-0.2, -0.9, -0.5])
    0.5
    """
    return float(average_precision_score(*_checked(y, scores)))


def f1_max_score(y: ArrayLike, scores: ArrayLike) -> float:
    """Return the best F1 of the anomalous class over all thresholds.

    Parameters
    ----------
    y : array-like of shape (n,)
        +1 normal, -1 anomalous.
    scores : array-like of shape (n,)
        Higher = more normal.

    Returns
    -------
    score : float
        In 0..1, higher = better. The threshold is chosen on the test labels, as in the
        papers, so the score is optimistic. For the F1 of a fitted threshold use
        ``sklearn.metrics.f1_score(y, predict(X), pos_label=-1)``.

    Raises
    ------
    ValueError
        If labels are not +1 / -1, all labels are equal, or scores are not finite.

    Examples
    --------
    >>> from skdinoad.metrics import f1_max_score
    >>> f1_max_score([1, 1, -1, -1], [-0.2, -0.6, -0.5, -0.9])
    0.8
    """
    precision, recall, _ = precision_recall_curve(*_checked(y, scores))
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def recall_at_fpr_score(y: ArrayLike, scores: ArrayLike, *, fpr: float = 0.05) -> float:
    """Return the recall of anomalous images at a given false alarm rate.

    Parameters
    ----------
    y : array-like of shape (n,)
        +1 normal, -1 anomalous.
    scores : array-like of shape (n,)
        Higher = more normal.
    fpr : float, default=0.05
        Largest share of the normal images that may be flagged.

    Returns
    -------
    score : float
        In 0..1, higher = better: the largest recall of any threshold within ``fpr``.
        With n normal images, any rate below 1 / n allows no false alarm.

    Raises
    ------
    ValueError
        If labels are not +1 / -1, all labels are equal, or scores are not finite.

    Examples
    --------
    >>> from skdinoad.metrics import recall_at_fpr_score
    >>> recall_at_fpr_score([1, 1, -1, -1], [-0.2, -0.6, -0.5, -0.9], fpr=0)
    0.5
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr={fpr!r}: expected a share in 0..1.")
    false, found, _ = roc_curve(*_checked(y, scores), drop_intermediate=False)
    return float(found[false <= fpr + 1e-12].max())


def _checked(y, scores):
    """Return a mask of anomalous images, and scores with higher = more anomalous."""
    y, scores = check_labels(y), named_array(scores, "scores", float)
    if scores.shape != y.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"scores has shape {scores.shape} with {(~np.isfinite(scores)).sum()} NaN "
            f"or inf; expected one finite score for each of {len(y)} labels."
        )
    if len(set(y.tolist())) < 2:
        raise ValueError(f"All labels are {y[0]}; both +1 and -1 are needed.")
    return y == -1, -scores
