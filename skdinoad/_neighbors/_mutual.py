"""Score images against each other, without reference images."""

import numpy as np
from tqdm.auto import tqdm

from skdinoad._neighbors._flat import nearest
from skdinoad._neighbors._norms import squared_norms

__all__ = ["mutual_distances"]

#: Share and minimum number of the other images that count as nearest. A few images with
#: the same defect must remain a minority among them.
_IMAGES, _LEAST_IMAGES = 0.3, 3


def mutual_distances(grids, scored, first, rule, *, device="cpu", verbose=False):
    """Return the distance of each patch to the patches of the other images.

    Parameters
    ----------
    grids : list of ndarray of shape (h, w, c), float32
        Vectors; NaN = invalid.
    scored : list of ndarray of shape (h, w), bool
        Patches to score; the others are only used as references.
    first : ndarray of shape (n,), int
        Images with equal numbers are copies and are not compared with each other.
    rule : "images", "musc" or float
        "images": the mean squared distance to the nearest patch of each of the nearest
        30 % of the other images, at least three. "musc": the mean Euclidean distance
        to those of the nearest ``int(0.3 * n)`` other images, at least one, as in the
        official code of MuSc. A number: of the N vectors of the other images, take the
        k = floor(rule * N) nearest and average over those strictly nearer than the
        k-th; if there is none, use the distance to the nearest vector.

    Returns
    -------
    list of ndarray of shape (h, w), float32
        Mean distances, squared except for "musc"; NaN where not scored.
    """
    vectors = [grid[np.isfinite(grid).all(-1)] for grid in grids]
    squares = [squared_norms(part) for part in vectors]
    out = []
    for i in tqdm(range(len(grids)), desc="score", unit="image", disable=not verbose):
        queries, D = grids[i][scored[i]], np.full(scored[i].shape, np.nan, np.float32)
        others = np.flatnonzero(first != first[i])
        banks = [(vectors[j], squares[j]) for j in others]
        if isinstance(rule, str):
            D[scored[i]] = _by_images(queries, banks, rule == "musc", device)
        else:
            D[scored[i]] = _by_patches(queries, banks, rule, device)
        out.append(D)
    return out


def _by_images(queries, banks, musc, device):
    """Return the mean distance to the nearest images, by their nearest vectors."""
    squared = [nearest(queries, *bank, device=device)[0][:, 0] for bank in banks]
    squared = np.sort(np.stack(squared, axis=1), axis=1)
    if musc:
        return np.sqrt(squared[:, : max(1, int(_IMAGES * len(banks)))]).mean(1)
    return squared[:, : max(_LEAST_IMAGES, round(_IMAGES * len(banks)))].mean(1)


def _by_patches(queries, banks, fraction, device):
    """Return the mean distance to the nearest vectors of all other images."""
    bank, squares = map(np.concatenate, zip(*banks))
    k = max(1, int(fraction * len(bank) + 1e-9))
    squared, _ = nearest(queries, bank, squares, k=k, device=device)
    below = squared < squared[:, -1:]
    below[:, 0] = True
    return np.where(below, squared, 0).sum(1) / below.sum(1)
