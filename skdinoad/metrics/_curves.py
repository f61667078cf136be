"""Compute areas under curves and optima from counts at and above each threshold.

A level is the score of an anomalous item (image or pixel), used as a threshold.
``above`` and ``from_here`` are the shares of normal items with a score above the level
and with at least that score. The optimum of each metric is at a level.
"""

import numpy as np

__all__ = ["average_precision", "f1_max", "partial_area"]


def partial_area(above, from_here, weights, limit) -> float:
    """Return the area under a curve for x up to ``limit``, divided by ``limit``.

    Parameters
    ----------
    above, from_here : ndarray of shape (m,)
        x before and after each level; ties are interpolated linearly.
    weights : ndarray of shape (m,)
        Increase of y at each level; the sum is 1.
    limit : float
    """
    left = limit - above
    slope = from_here - above  # > 0 where normal items have the same score
    partly = left**2 / (2 * np.maximum(slope, np.finfo(float).tiny))
    area = np.where(from_here <= limit, left - slope / 2, partly)
    area = np.where(left > 0, area, 0)
    return float((area * weights).sum() / limit)


def average_precision(found, false, total) -> float:
    """Return the sum over levels of precision times the gain in recall.

    Parameters
    ----------
    found, false : ndarray of shape (m,)
        Numbers of anomalous and normal items with at least the score of each level,
        the highest level first.
    total : float
        Number of anomalous items.
    """
    gained = np.diff(found, prepend=0) / total
    return float((found / np.maximum(found + false, 1) * gained).sum())


def f1_max(found, false, total) -> float:
    """Return the best F1 over all levels; parameters as in ``average_precision``."""
    return float((2 * found / (total + found + false)).max())
