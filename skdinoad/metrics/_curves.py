"""Areas and optima of curves, from what stands at and above each threshold.

A level is a threshold at which something anomalous has its score; ``above`` and
``from_here`` are the shares of normal things with a higher, and with at least that
score. No optimum of these figures lies anywhere else.
"""

import numpy as np

__all__ = ["average_precision", "f1_max", "partial_area"]


def partial_area(above, from_here, weights, limit) -> float:
    """Return the area under a curve up to ``limit`` on its x-axis, over ``limit``.

    Parameters
    ----------
    above, from_here : ndarray of shape (m,)
        x before and after each level; equal scores are joined by a straight line.
    weights : ndarray of shape (m,)
        How much each level raises y; their sum is 1.
    limit : float
    """
    left = limit - above
    slope = from_here - above  # > 0 where normal things have the same score
    partly = left**2 / (2 * np.maximum(slope, np.finfo(float).tiny))
    area = np.where(from_here <= limit, left - slope / 2, partly)
    area = np.where(left > 0, area, 0)
    return float((area * weights).sum() / limit)


def average_precision(found, false, total) -> float:
    """Return the sum over levels of precision times the gain in recall.

    Parameters
    ----------
    found, false : ndarray of shape (m,)
        How many anomalous and normal things score at least as high as each level,
        the highest level first.
    total : float
        How many anomalous things there are.
    """
    gained = np.diff(found, prepend=0) / total
    return float((found / np.maximum(found + false, 1) * gained).sum())


def f1_max(found, false, total) -> float:
    """Return the best F1 over all levels; parameters as in ``average_precision``."""
    return float((2 * found / (total + found + false)).max())
