"""Images scored against each other, without any reference."""

import numpy as np
from tqdm.auto import tqdm

from skdinoad._neighbors._flat import nearest
from skdinoad._neighbors._norms import squared_norms

__all__ = ["mutual_distances"]


def mutual_distances(grids, scored, fraction, *, device="cpu", verbose=False):
    """Return how far each patch is from the patches of all other images.

    Parameters
    ----------
    grids : list of ndarray of shape (h, w, c), float32
        Vectors; NaN = invalid.
    scored : list of ndarray of shape (h, w), bool
        Patches for which a distance is wanted; the others are looked at only.
    fraction : float
        Of the N vectors of the other images, the k = floor(fraction * N) nearest
        count: the mean goes over those strictly nearer than the k-th, or is the
        distance to the nearest if there is none.

    Returns
    -------
    list of ndarray of shape (h, w), float32
        Mean squared distances; NaN where not scored.
    """
    valid = [np.isfinite(grid).all(-1) for grid in grids]
    bank = np.concatenate([grid[v] for grid, v in zip(grids, valid)])
    owner = np.repeat(np.arange(len(grids)), [v.sum() for v in valid])
    squares = squared_norms(bank)
    out = []
    for i in tqdm(range(len(grids)), desc="score", unit="image", disable=not verbose):
        others = np.where(owner == i, np.float32(np.inf), squares)
        k = max(1, int(fraction * np.isfinite(others).sum() + 1e-9))
        D = np.full(scored[i].shape, np.nan, np.float32)
        part = grids[i][scored[i]]
        squared, _ = nearest(part, bank, others, k=k, device=device)
        D[scored[i]] = _mean_below_last(squared)
        out.append(D)
    return out


def _mean_below_last(squared):
    """Mean of each row's values below its last; its first value if there are none."""
    below = squared < squared[:, -1:]
    below[:, 0] = True
    return np.where(below, squared, 0).sum(1) / below.sum(1)
