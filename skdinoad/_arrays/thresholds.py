"""Thresholds from scores that were held out: with a promise, or best on labels.

Scores are higher = more normal: an image is flagged if its score is below the
threshold. Pixels are counted in bins of rising map values (higher = more anomalous)
and flagged above the threshold.
"""

from numbers import Real

import numpy as np

from skdinoad._inputs.labels import named_array

__all__ = [
    "OBJECTIVES",
    "as_threshold",
    "best_bin",
    "best_threshold",
    "conformal_p_values",
    "conformal_rank",
    "controlled_bin",
    "cost_objective",
    "display_limits",
    "hottest_of",
    "known_threshold",
    "normals_needed",
    "recall_objective",
]


def as_threshold(value, name="offset_") -> float:
    """Return a threshold, which users may set, as a float; NaN = no threshold.

    Examples
    --------
    >>> from skdinoad._arrays.thresholds import as_threshold
    >>> as_threshold("a")
    Traceback (most recent call last):
    TypeError: offset_='a': expected a number, a score. Set it to one, or fit again.
    """
    value = value.item() if isinstance(value, np.ndarray) and not value.ndim else value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(
            f"{name}={value!r}: expected a number, a score. Set it to one, or fit "
            "again."
        )
    return float(value)


def known_threshold(value, name) -> float:
    """Return a threshold as a float; raise an error if it is NaN."""
    threshold = as_threshold(value, name)
    if np.isnan(threshold):
        raise ValueError(f"{name} is NaN: set it to a number, or fit again.")
    return threshold


def conformal_rank(n: int, rate: float) -> int:
    """Return the rank k of the threshold among n held-out normal scores, 0 = too few.

    A new normal score has each rank among all n + 1 scores with equal probability, so
    it is below the k-th lowest with probability k / (n + 1) <= rate.

    Examples
    --------
    >>> from skdinoad._arrays.thresholds import conformal_rank
    >>> conformal_rank(99, 0.01), conformal_rank(98, 0.01), conformal_rank(19, 0.1)
    (1, 0, 2)
    """
    return min(n, int((n + 1) * rate + 1e-9))


def normals_needed(rate: float) -> int:
    """Return the number of held-out normal images that guarantee a rate."""
    wanted = 1 / max(rate, 2**-53)  # 1 / 1e-320 overflows
    return max(1, int(np.ceil(wanted - 1e-9)) - 1)


def display_limits(grids) -> tuple:
    """Return display limits: the hottest patch of a normal image is in the middle."""
    low = float(np.median(np.concatenate([grid[np.isfinite(grid)] for grid in grids])))
    high = low + 2 * (float(np.median(hottest_of(grids))) - low)
    return low, max(high, low + np.finfo(np.float32).eps)


def hottest_of(grids) -> np.ndarray:
    """Return the largest finite value of each grid that has one."""
    finite = [grid[np.isfinite(grid)] for grid in grids]
    return np.array([values.max() for values in finite if values.size])


def conformal_p_values(held_out, scores) -> np.ndarray:
    """Return conformal p-values: the share of normal scores that are not higher.

    The score itself counts as one of the normal scores. A p-value is at most ``rate``
    if and only if the score is below the threshold of that rate. Bates et al., "Testing
    for Outliers with Conformal p-values", Annals of Statistics 51, 2023, eq. 3.
    """
    below = np.searchsorted(np.sort(held_out), scores, side="right")
    return (1 + below) / (len(held_out) + 1)


# -- the best on labels -------------------------------------------------------------

#: Functions of (flagged defects, false alarms, all defects, all good images).
#: Higher = better.
OBJECTIVES = {
    "f1": lambda found, false, bad, good: 2 * found / (bad + found + false),
    "balanced_accuracy": lambda found, false, bad, good: (
        (found / bad + 1 - false / good) / 2
    ),
}


def recall_objective(rate):
    """Return the objective: recall, if at most a share of good images is flagged."""
    return lambda found, false, bad, good: np.where(
        false <= rate * good * (1 + 1e-12), found / bad, -np.inf
    )


def cost_objective(matrix):
    """Return minus the total cost; rows are true, columns predicted -1, +1."""
    matrix = named_array(matrix, "cost_matrix", float)
    if matrix.shape != (2, 2) or not np.isfinite(matrix).all():
        raise ValueError(
            f"cost_matrix={matrix.tolist()}: expected 2 rows (true -1, +1) of 2 finite "
            "costs (predicted -1, +1)."
        )
    (hit, miss), (alarm, passed) = matrix
    return lambda found, false, bad, good: (
        -(hit * found + miss * (bad - found) + alarm * false + passed * (good - false))
    )


def best_threshold(normal, scores, objective) -> float:
    """Return the lowest threshold that maximises an objective.

    Parameters
    ----------
    normal : ndarray of shape (n,), bool
    scores : ndarray of shape (n,)
        Higher = more normal.
    objective : callable
        Of arrays (found, false) and numbers (bad, good), see ``OBJECTIVES``.

    Returns
    -------
    threshold : float
        Halfway between two neighbouring scores.
    """
    levels, where = np.unique(scores, return_inverse=True)
    counts = [
        np.bincount(where[rows], minlength=len(levels)) for rows in (~normal, normal)
    ]
    found, false = (np.append(0, part.cumsum()) for part in counts)
    best = _best(objective, found, false, (~normal).sum(), normal.sum())
    if best in (0, len(levels)):  # flag none of these scores, or all
        return float(levels[0] if best == 0 else np.nextafter(levels[-1], np.inf))
    below, above = levels[best - 1 : best + 1]
    return float(max((below + above) / 2, np.nextafter(below, np.inf)))


def best_bin(bad, good, objective) -> int:
    """Return the highest bin above which flagging pixels maximises an objective.

    Parameters
    ----------
    bad, good : ndarray of shape (m,), int
        Anomalous and normal pixels in bins of rising map values.
    objective : callable
    """
    found, false = bad[::-1].cumsum()[::-1], good[::-1].cumsum()[::-1]
    used = np.flatnonzero(bad)[::-1]  # other bins would only add false alarms
    flagged = (np.append(0, part[used]) for part in (found, false))
    best = _best(objective, *flagged, found[0], false[0])
    return len(bad) - 1 if best == 0 else int(used[best - 1]) - 1


def _best(objective, found, false, bad, good):
    """Return the index of the best value; NaN (0 / 0) is never the best."""
    if not bad or not good:
        raise ValueError(
            f"{bad} anomalous and {good} normal images are held out; an optimum needs "
            "both."
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.asarray(objective(found, false, bad, good), float)
    if np.isnan(values).all():
        raise ValueError("The figure to optimise is NaN at every threshold.")
    return int(np.argmax(np.where(np.isnan(values), -np.inf, values)))


def controlled_bin(shares, n: int, rate: float) -> int:
    """Return the lowest bin above which a normal map is flagged at most at a rate.

    Parameters
    ----------
    shares : ndarray of shape (m,)
        Sum over n normal maps of the share of their pixels in each bin.
    n : int
    rate : float
        Largest expected share of a new normal map that lies above the bin.

    Notes
    -----
    Angelopoulos et al., "Conformal Risk Control", ICLR 2024, eq. 4, with loss <= 1.
    """
    if n < normals_needed(rate):
        raise ValueError(
            f"A rate of {rate} needs {normals_needed(rate)} normal images to be held "
            f"out, and there are {n}."
        )
    above = shares.sum() - shares.cumsum()
    allowed = rate * (n + 1) - 1 + 1e-9
    return int(np.argmax(above <= allowed))
