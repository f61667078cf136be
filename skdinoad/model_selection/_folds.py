"""Folds of a threshold's choice: what each model finds on images it has not seen."""

import warnings
from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import PredefinedSplit, check_cv
from sklearn.utils import Bunch

from skdinoad._inputs.images import take
from skdinoad._inputs.labels import named_array
from skdinoad.metrics._pixel import check_pair
from skdinoad.metrics._streaming import N_BINS, bins_of
from skdinoad.pipeline import iter_scored

__all__ = [
    "check_scores",
    "checked_groups",
    "count_once",
    "fitted",
    "merged",
    "score_fold",
    "splits_of",
    "spread",
]


def checked_groups(groups, n):
    """Return the group of each row as an array; all the same if there are none."""
    if groups is None:
        return np.zeros(n, int)
    groups = named_array(groups, "groups")
    if groups.shape != (n,):
        raise ValueError(
            f"groups has shape {groups.shape}; expected one of {n} images."
        )
    try:
        np.unique(groups)
    except TypeError as error:
        raise TypeError(
            f"groups cannot be sorted: {error}. Expected numbers or names."
        ) from error
    if groups.dtype.kind == "f" and np.isnan(groups).any():
        raise ValueError("groups holds NaN, which is no group; expected numbers.")
    return groups


def spread(labels, groups, first, folds, rng):
    """Return the fold of each row: every label of every group in as many as can be.

    ``first`` names for each row the first one that shows the same: they share a fold.
    """
    out, start = np.empty(len(labels), int), 0
    alone = first == np.arange(len(first))
    for label in (1, -1):
        for group in np.unique(groups):
            wanted = alone & (labels == label) & (groups == group)
            rows = rng.permutation(np.flatnonzero(wanted))
            out[rows] = (start + np.arange(len(rows))) % folds
            start += len(rows)
    return out[first]


def count_once(first, groups, splits):
    """Return which rows count: of copies in one group the first that is held out."""
    held = np.concatenate([test for _, test in splits])
    _, group = np.unique(groups, return_inverse=True)
    pairs = np.stack([first, group], axis=1)[held]
    _, places = np.unique(pairs, axis=0, return_index=True)
    counted = np.zeros(len(first), bool)
    counted[held[places]] = True
    return counted


def fitted(estimator, X, rows):
    """Return a copy of an estimator, fitted on some rows, all of them normal."""
    return clone(estimator).fit(take(X, rows), None)


def score_fold(estimator, X, labels, groups, masks, counted, keep, train, test):
    """Fit on the normal rows of one fold and look at the others.

    Parameters
    ----------
    estimator : detector or Pipeline
    X, labels, groups, masks
        All rows; ``masks`` may be None.
    counted : ndarray of shape (n,), bool, or None
        Rows of whose heat maps the pixels are counted; None = of none.
    keep : bool
        Whether to return the model.
    train, test : ndarray of int

    Returns
    -------
    Bunch
        ``rows``, their ``scores``, ``counts`` {group: what its maps hold, by bin} and
        ``model``.
    """
    with warnings.catch_warnings():  # the final model names odd images, once
        warnings.filterwarnings("ignore", ".*look odd among the others", UserWarning)
        model = fitted(estimator, X, train[labels[train] == 1])
    kept = model if keep else None
    if counted is None:
        scores = model.score_samples(take(X, test))
        check_scores(scores, test)
        return Bunch(rows=test, scores=scores, counts={}, model=kept)
    scores, pixels = [], {group: _Pixels() for group in set(groups[test].tolist())}
    for row, (score, heat) in zip(test, iter_scored(model, take(X, test))):
        scores.append(score)
        if counted[row]:
            mask = None if masks is None else masks[row]
            pixels[groups[row].item()].add(heat, labels[row], mask, row)
    counts = {group: found.counts() for group, found in pixels.items()}
    scores = np.array(scores)
    return Bunch(rows=test, scores=scores, counts=counts, model=kept)


def check_scores(scores, rows):
    """Raise ValueError, naming the row, unless all scores are finite."""
    if not np.isfinite(scores).all():
        row = rows[np.flatnonzero(~np.isfinite(scores))[0]]
        raise ValueError(
            f"The score of X[{row}] is not finite; no threshold holds then."
        )


class _Pixels:
    """Pixels of the heat maps of one group, counted in bins of map values."""

    def __init__(self):
        self.shares, self.n = np.zeros(N_BINS), 0
        self.bad, self.good = np.zeros(N_BINS, np.int64), np.zeros(N_BINS, np.int64)

    def add(self, heat, label, mask, row):
        """Count a heat map; of an anomalous image only if its mask is known."""
        bins = bins_of(heat).ravel()
        if label == 1:
            counted = np.bincount(bins, minlength=N_BINS)
            self.shares += counted / len(bins)
            self.good += counted
            self.n += 1
        elif mask is not None:
            mask = check_pair(mask, heat, row)[0].ravel()
            self.good += np.bincount(bins[~mask], minlength=N_BINS)
            self.bad += np.bincount(bins[mask], minlength=N_BINS)

    def counts(self):
        """Return shares, number of normal maps, bad and good pixels; arrays by bin."""
        return _sparse(self.shares), self.n, _sparse(self.bad), _sparse(self.good)


def _sparse(counts):
    """Return the bins that hold anything, and what they hold: far less to keep."""
    used = np.flatnonzero(counts)
    return used, counts[used]


def merged(folds, group):
    """Return the counts of one group in all folds together.

    Sum of the shares of normal maps by bin, number of normal maps, bad and good pixels
    by bin.
    """
    parts = [counts[group] for counts in folds if group in counts]
    out = [np.zeros(N_BINS), 0, np.zeros(N_BINS, np.int64), np.zeros(N_BINS, np.int64)]
    for shares, n, bad, good in parts:
        out[1] += n
        for i, (used, held) in ((0, shares), (2, bad), (3, good)):
            out[i][used] += held
    return out


def splits_of(cv, labels, groups, first, random_state):
    """Return (train, test) pairs of row numbers; no row is held out twice.

    What is held out teaches nothing, neither do its copies.
    """
    splits = [
        (a[~np.isin(first[a], first[b])], b)
        for a, b in _pairs(cv, labels, groups, first, random_state)
    ]
    if not splits:
        raise ValueError(f"cv={cv!r} makes no split; an iterator, used up?")
    held = np.concatenate([test for _, test in splits])
    if len(np.unique(held)) < len(held):
        raise ValueError(f"cv={cv!r} holds out some rows twice; use folds.")
    return splits


def _pairs(cv, labels, groups, first, random_state):
    """Return the row numbers of the splits of a cv that scikit-learn may take."""
    n = len(labels)
    if isinstance(cv, Integral):
        cv = _folds(cv, labels, groups, first, random_state)
    try:
        return [
            tuple(np.arange(n)[np.atleast_1d(part)] for part in (train, test))
            for train, test in check_cv(cv).split(np.zeros(n), labels)
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"cv={cv!r} gives no pairs (train, test) of numbers of {n} rows: {error}."
        ) from error


def _folds(n, labels, groups, first, random_state):
    n = min(n, len(np.unique(first[labels == 1])))
    if n < 2:
        raise ValueError(
            "One normal image, or copies of one, cannot be held out and learned from."
        )
    rng = np.random.default_rng(random_state)
    return PredefinedSplit(spread(labels, groups, first, n, rng))
