"""Validate labels: +1 normal, -1 anomalous, as in scikit-learn's outlier detection."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "are_masks",
    "check_labels",
    "labels_of",
    "named_array",
    "normal_rows",
    "to_labels",
]


def named_array(value, name, dtype=None) -> np.ndarray:
    """Convert a value to an array, or raise a ValueError that names it."""
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as an array: {error}.") from error


def to_labels(y: ArrayLike, *, defect: Any = 1) -> np.ndarray:
    """Translate any binary labels to +1 (normal) and -1 (anomalous).

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels of any kind: 0/1, booleans, names of defect kinds.
    defect : scalar or sequence, default=1
        The value or values that mean "anomalous"; all others mean "normal".

    Returns
    -------
    ndarray of shape (n,), int

    Raises
    ------
    ValueError
        If ``y`` is not one-dimensional, already holds -1, or holds names of which none
        is ``defect``.

    Examples
    --------
    >>> from skdinoad import to_labels
    >>> to_labels([0, 0, 1])
    array([ 1,  1, -1])
    >>> to_labels(["good", "crack", "hole"], defect=["crack", "hole"])
    array([ 1, -1, -1])
    """
    y = named_array(y, "y")
    if y.ndim != 1:
        raise ValueError(f"y has shape {y.shape}; expected one label per image, (n,).")
    anomalous = np.isin(y, np.atleast_1d(named_array(defect, "defect")))
    if y.dtype.kind in "if" and (y == -1).any():
        raise ValueError("y holds -1: these are +1 / -1 labels already.")
    if y.dtype.kind in "OUS" and not anomalous.any():
        raise ValueError(
            f"No label is {defect!r}; y holds {list(map(repr, y[:5]))}. Name the "
            "labels that mean a defect: to_labels(y, defect=[...])."
        )
    return np.where(anomalous, -1, 1)


def normal_rows(y, n: int) -> np.ndarray:
    """Return the indices of the rows that ``y`` labels as normal.

    Parameters
    ----------
    y : None, array-like of shape (n,), or masks
        Labels +1 / -1; or masks of shape (n, H, W), or a list of (H, W) masks. An image
        with any True pixel is anomalous; None stands for an empty mask.
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

    Parameters are as in :func:`normal_rows`, except that y must not be None.
    """
    if not hasattr(y, "__len__") or (isinstance(y, np.ndarray) and not y.ndim):
        raise ValueError(f"y is {y!r}; expected labels (n,) or masks (n, H, W).")
    if len(y) != n:
        raise ValueError(f"y has {len(y)} entries, X has {n} samples.")
    if are_masks(y):
        return np.array([-1 if _marks(mask, row) else 1 for row, mask in enumerate(y)])
    return check_labels(y)


def _marks(mask, row):
    """Whether a mask has a True pixel; None stands for an empty mask."""
    if mask is None:
        return False
    mask = named_array(mask, f"y[{row}]")
    if mask.ndim != 2:  # an RGBA image's alpha would mark every image as anomalous
        raise ValueError(
            f"y[{row}] has shape {mask.shape}; expected a mask (H, W) in each row, "
            "or None if nothing is anomalous."
        )
    if mask.dtype.kind not in "buif" or (mask != mask).any():  # NaN would be true
        raise ValueError(
            f"y[{row}] has dtype {mask.dtype} or holds NaN; expected a mask of True "
            "and False."
        )
    return bool(np.any(mask))


def are_masks(y):
    """Whether y holds masks rather than labels."""
    return any(_dimensions(entry) >= 2 for entry in y)


def _dimensions(entry):
    """Return np.ndim, or 1 for ragged lists, which cannot be masks."""
    try:
        return np.ndim(entry)
    except ValueError:  # rows of different lengths
        return 1


def check_labels(y):
    """Return labels as an array, or raise a ValueError that explains the problem."""
    y = named_array(y, "y")
    if y.ndim != 1 or y.dtype.kind not in "iuf" or not np.isin(y, [1, -1]).all():
        found = list(dict.fromkeys(map(repr, y.ravel().tolist())))[:5]
        raise ValueError(
            f"y holds [{', '.join(found)}] (shape {y.shape}, dtype {y.dtype}); "
            "expected +1 (normal) and -1 (anomalous), as everywhere in scikit-learn's "
            "outlier detection. With 0/1 labels scikit-learn's roc_auc would silently "
            "give 1 - AUC. Convert them, and say which value means a defect: "
            "skdinoad.to_labels(y, "
            "defect=1) if 1 or True is a defect, to_labels(is_good, defect=False) if "
            "True is good, to_labels(y, defect=['crack']) for names. (If you gave "
            "+1/-1: cross_val_predict(method='decision_function') converts them to "
            "0/1 itself; give it normal images and y=None.)"
        )
    return y
