"""Labels: +1 normal, -1 anomalous, as for every outlier detector of scikit-learn."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["are_masks", "check_labels", "labels_of", "normal_rows", "to_labels"]


def to_labels(y: ArrayLike, *, defect: Any = 1) -> np.ndarray:
    """Translate any binary labels to +1 (normal) and -1 (anomalous).

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels of any kind: 0/1, booleans, names of defect kinds.
    defect : scalar or sequence, default=1
        The value, or values, that mean "anomalous"; all others mean normal.

    Returns
    -------
    ndarray of shape (n,), int

    Raises
    ------
    ValueError
        If ``y`` is not one-dimensional, holds -1 and thus is translated already, or
        holds names of which none is ``defect``.

    Examples
    --------
    >>> from skdinoad import to_labels
    >>> to_labels([0, 0, 1])
    array([ 1,  1, -1])
    >>> to_labels(["good", "crack", "hole"], defect=["crack", "hole"])
    array([ 1, -1, -1])
    """
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"y has shape {y.shape}; expected one label per image, (n,).")
    anomalous = np.isin(y, np.atleast_1d(defect))
    if y.dtype.kind in "if" and (y == -1).any():
        raise ValueError("y holds -1: these are +1 / -1 labels already.")
    if y.dtype.kind in "OUS" and not anomalous.any():
        raise ValueError(
            f"No label is {defect!r}; y holds {np.unique(y)[:5].tolist()}. Name the "
            "labels that mean a defect: to_labels(y, defect=[...])."
        )
    return np.where(anomalous, -1, 1)


def normal_rows(y, n: int) -> np.ndarray:
    """Return the indices of the rows that ``y`` does not call anomalous.

    Parameters
    ----------
    y : None, array-like of shape (n,), or masks
        Labels +1 / -1; or masks of shape (n, H, W), or a list of (H, W) masks, where
        any true pixel makes the image anomalous and None stands for an empty mask.
    n : int
        Number of samples.

    Returns
    -------
    ndarray of int

    Raises
    ------
    ValueError
        If labels are not +1 / -1, lengths differ, or no normal row is left.

    Examples
    --------
    >>> from skdinoad._inputs.labels import normal_rows
    >>> normal_rows([1, -1, 1], 3)
    array([0, 2])
    """
    if y is None:
        return np.arange(n)
    rows = np.flatnonzero(labels_of(y, n) == 1)
    if not len(rows):
        raise ValueError(f"All {n} rows are labelled anomalous; fit needs normal ones.")
    return rows


def labels_of(y, n: int) -> np.ndarray:
    """Return +1 / -1 for each of n samples, from labels or masks.

    Parameters are as in :func:`normal_rows`, None excepted.
    """
    if not hasattr(y, "__len__"):
        raise ValueError(f"y is {y!r}; expected labels (n,) or masks (n, H, W).")
    if len(y) != n:
        raise ValueError(f"y has {len(y)} entries, X has {n} samples.")
    if are_masks(y):
        return np.array([-1 if _marks(mask, row) else 1 for row, mask in enumerate(y)])
    return check_labels(y)


def _marks(mask, row):
    """Whether a mask has a true pixel; None stands for an empty one."""
    if mask is None:
        return False
    if np.ndim(mask) != 2:  # the alpha of an RGBA picture would mark every image
        raise ValueError(
            f"y[{row}] has shape {np.shape(mask)}; expected a mask (H, W) in each row, "
            "or None where nothing is anomalous."
        )
    return bool(np.any(mask))


def are_masks(y):
    """Whether y holds masks; labels otherwise."""
    return any(np.ndim(entry) >= 2 for entry in y)


def check_labels(y):
    """Return labels as an array, or say what is wrong with them."""
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iuf" or not np.isin(y, [1, -1]).all():
        found = list(dict.fromkeys(y.ravel().tolist()))[:5]
        raise ValueError(
            f"y holds {found} (shape {y.shape}, dtype {y.dtype}); expected +1 (normal) "
            "and -1 (anomalous), as everywhere in scikit-learn's outlier detection. "
            "With 0/1 labels scikit-learn's roc_auc would silently give 1 - AUC. "
            "Translate them, and say which value means a defect: skdinoad.to_labels(y, "
            "defect=1) if 1 or True is a defect, to_labels(is_good, defect=False) if "
            "True is good, to_labels(y, defect=['crack']) for names. (If you gave "
            "+1/-1: cross_val_predict(method='decision_function') makes 0/1 of them by "
            "itself; give it normal images and y=None.)"
        )
    return y
