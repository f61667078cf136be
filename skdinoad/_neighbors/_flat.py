"""Exact nearest neighbours in one flat bank, tiled with a running minimum."""

import numpy as np
import torch

from skdinoad._compat.products import linear
from skdinoad._compat.torch import resident

__all__ = ["nearest"]

#: Queries and bank vectors per tile: 8 MiB of scores, which fit into the cache.
_QUERIES, _BANK = 1024, 2048

#: Group size of the first stage of a tile's minimum, which vectorises.
_GROUP = 128


@torch.inference_mode()
def nearest(queries, bank, squares, *, k=1, device="cpu"):
    """Return the k bank vectors nearest to each query.

    Parameters
    ----------
    queries : ndarray of shape (q, c), float32
    bank : ndarray of shape (m, c), float32 or float16
    squares : ndarray of shape (m,), float32
        Squared norms from :func:`squared_norms`; a vector with an infinite norm is
        never a neighbour.
    k : int
        Number of neighbours; limited to m.
    device : str or torch.device

    Returns
    -------
    squared : ndarray of shape (q, k), float32
        Squared Euclidean distances, ascending; infinity if fewer than k vectors are
        valid. Computed from the difference, so that they are accurate near 0.
    index : ndarray of shape (q, k), int64

    Notes
    -----
    Memory beyond the bank is limited to a few tiles; the (q, m) distances are never
    stored. Of neighbours at equal distance, within float32 precision, the first in the
    bank is returned.
    """
    k = min(k, len(bank))
    bank, squares = resident(bank, device), resident(squares, device)
    squared, index = np.empty((len(queries), k), np.float32), None
    index = np.empty(squared.shape, np.int64)
    for start in range(0, len(queries), _QUERIES):
        rows = slice(start, start + _QUERIES)
        part = torch.from_numpy(np.ascontiguousarray(queries[rows])).to(device)
        value, found = _search(part, bank, squares, k)
        exact, order = _rescore(part, bank, value, found).sort(dim=1, stable=True)
        squared[rows] = exact.cpu().numpy()
        index[rows] = found.gather(1, order).cpu().numpy()
    return squared, index


def _search(part, bank, squares, k):
    """Return the k lowest |b|^2 - 2 q.b of each query and their indices."""
    best = part.new_full((len(part), k), torch.inf)
    index = torch.zeros(best.shape, dtype=torch.int64, device=part.device)
    scaled = part * -2
    for start in range(0, len(bank), _BANK):
        tile = bank[start : start + _BANK].float()
        scores = linear(scaled, tile, squares[start : start + _BANK])
        value, found = _lowest(scores, min(k, len(tile)))
        best, index = _merge(best, index, value, found + start, k)
    return best, index


def _merge(best, index, value, found, k):
    """Keep the k lowest of two lists; ties go to the first list."""
    if k == 1:
        closer = value < best
        return torch.where(closer, value, best), torch.where(closer, found, index)
    value, order = torch.cat([best, value], 1).sort(dim=1, stable=True)
    return value[:, :k], torch.cat([index, found], 1).gather(1, order[:, :k])


def _lowest(scores, k):
    """Return the k lowest values of each row and their columns."""
    if k > 1:
        return scores.topk(k, largest=False)
    if scores.shape[1] % _GROUP:
        return scores.min(1, keepdim=True)
    # min() with an index is not vectorised, amin() is: first find the group that holds
    # the minimum, then search this group only.
    groups = scores.view(len(scores), -1, _GROUP)
    value, group = groups.amin(-1).min(1, keepdim=True)
    inside = groups.gather(1, group[..., None].expand(-1, -1, _GROUP))[:, 0]
    return value, group * _GROUP + inside.argmin(1, keepdim=True)


def _rescore(part, bank, value, found):
    """Return |q - b|^2 of the neighbours found; infinity is kept."""
    columns = [(part - bank[j].float()).square().sum(1) for j in found.T]
    exact = torch.stack(columns, 1)
    return torch.where(value == torch.inf, torch.inf, exact)
