"""Score images against each other, without reference images."""

import numpy as np
from tqdm.auto import tqdm

from skdinoad._neighbors._flat import nearest
from skdinoad._neighbors._norms import squared_norms

__all__ = ["mutual_distances"]

#: Share and minimum number of the other images that count as nearest. A few images with
#: the same defect must remain a minority among them.
_IMAGES, _LEAST_IMAGES = 0.3, 3


def mutual_distances(grids, scored, first, fraction, *, device="cpu", verbose=False):
    """Return the distance of each patch to the patches of the other images.

    Parameters
    ----------
    grids : list of ndarray of shape (h, w, c), float32
        Vectors; NaN = invalid.
    scored : list of ndarray of shape (h, w), bool
        Patches to score; the others are only used as references.
    first : ndarray of shape (n,), int
        Images with equal numbers are copies and are not compared with each other.
    fraction : float or None
        None: the mean distance to the nearest patch of each of the nearest 30 % of the
        other images, at least three. A number: of the N vectors of the other images,
        take the k = floor(fraction * N) nearest and average over those strictly nearer
        than the k-th; if there is none, use the distance to the nearest vector.

    Returns
    -------
    list of ndarray of shape (h, w), float32
        Mean squared distances; NaN where not scored.
    """
    vectors = [grid[np.isfinite(grid).all(-1)] for grid in grids]
    squares = [squared_norms(part) for part in vectors]
    out = []
    for i in tqdm(range(len(grids)), desc="score", unit="image", disable=not verbose):
        queries, D = grids[i][scored[i]], np.full(scored[i].shape, np.nan, np.float32)
        others = np.flatnonzero(first != first[i])
        banks = [(vectors[j], squares[j]) for j in others]
        if fraction is None:
            D[scored[i]] = _by_images(queries, banks, device)
        else:
            D[scored[i]] = _by_patches(queries, banks, fraction, device)
        out.append(D)
    return out


def _by_images(queries, banks, device):
    """Return the mean distance to the nearest images, by their nearest vectors."""
    nearest_of = [nearest(queries, *bank, device=device)[0][:, 0] for bank in banks]
    count = min(max(_LEAST_IMAGES, round(_IMAGES * len(banks))), len(banks))
    return np.sort(np.stack(nearest_of, 1), axis=1)[:, :count].mean(1)


def _by_patches(queries, banks, fraction, device):
    """Return the mean distance to the nearest vectors of all other images."""
    bank, squares = map(np.concatenate, zip(*banks))
    k = max(1, int(fraction * len(bank) + 1e-9))
    squared, _ = nearest(queries, bank, squares, k=k, device=device)
    below = squared < squared[:, -1:]
    below[:, 0] = True
    return np.where(below, squared, 0).sum(1) / below.sum(1)
