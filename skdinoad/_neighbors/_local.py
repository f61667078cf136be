"""Exact nearest neighbours at or near the same location, tiled."""

import torch

from skdinoad._compat.products import linear
from skdinoad._compat.torch import resident

__all__ = ["nearest_local"]

#: Number of distances stored at a time (64 MiB of float32).
_TILE = 2**24

#: Maximum number of grid columns per matrix product.
_COLUMNS = 8


@torch.inference_mode()
def nearest_local(
    queries, bank, squares, *, radius=0, own=None, owner=None, device="cpu"
):
    """Return each patch's distance to the nearest bank vector near its location.

    Parameters
    ----------
    queries : ndarray of shape (n, h, w, c), float32
        NaN vector = invalid patch.
    bank : ndarray of shape (h, w, m, c), float32 or float16
        The m nominal vectors of every location; any finite values where invalid.
    squares : ndarray of shape (h, w, m), float32
        Their squared norms from :func:`squared_norms`.
    radius : int
        Locations up to this distance in rows and columns are searched, too.
    own : ndarray of shape (n,), int, or None
        Image i of ``queries`` ignores the vectors with owner own[i], for leave-one-out
        search if the queries are images of the bank.
    owner : ndarray of shape (h, w, m), int, or None
        The image of each bank vector; required with ``own``.
    device : str or torch.device

    Returns
    -------
    ndarray of shape (n, h, w), float32
        Euclidean distance >= 0; NaN if the query is invalid or no bank vector is within
        the radius.
    """
    queries = resident(queries, device, keep=False)
    bank, squares = resident(bank, device), resident(squares, device)
    search = _search_window if radius else _search_location
    out = torch.empty(queries.shape[:3], device=queries.device)
    if own is not None:
        own, owner = resident(own, device, keep=False), resident(owner, device)
    images = torch.arange(len(queries))
    for rows in images.split(_images_at_once(bank, radius)):
        mine = None if own is None else (own[rows], owner)
        out[rows] = search(queries[rows], bank, squares, mine, radius)
    return out.cpu().numpy()


def _images_at_once(bank, radius):
    """Return the number of images whose scores fit into a tile."""
    h, w, m, _ = bank.shape
    rows, columns = min(2 * radius + 1, h), min(_COLUMNS + 2 * radius, w)
    return max(1, _TILE // (rows * _COLUMNS * columns * m)) if radius else _TILE


def _search_location(queries, bank, squares, own, _):
    """Search the same location only, by one batched product over locations."""
    n, h, w, c = queries.shape
    queries = queries.permute(1, 2, 0, 3).reshape(h * w, n, c)
    bank, squares = bank.reshape(h * w, -1, c), squares.reshape(h * w, -1)
    out = queries.new_empty(h * w, n)
    step = max(1, _TILE // (n * max(bank.shape[1], c)))
    for first in range(0, h * w, step):
        part = slice(first, first + step)
        vectors = bank[part].float()
        scores = squares[part, None] - 2 * torch.bmm(queries[part], vectors.mT)
        if own is not None:
            mine, owner = own[0], own[1].reshape(h * w, 1, -1)[part]
            scores.masked_fill_(owner == mine[:, None], torch.inf)
        value, index = scores.min(-1)
        nearest = vectors.gather(1, index[..., None].expand(-1, -1, c))
        out[part] = _distance(queries[part], nearest, value)
    return out.reshape(h, w, n).permute(2, 0, 1)


def _search_window(queries, bank, squares, own, radius):
    """Search within the radius, by one product per row and block of columns.

    The loop runs over rows of the bank. Each row is read once per block and compared
    with all query rows within the radius, because reading the bank limits the speed for
    a single image.
    """
    n, h, w, c = queries.shape
    out = queries.new_empty(h, n, w)
    # Products also compute columns beyond the radius in vain, so blocks are only as
    # large as needed to keep the processor busy.
    columns = min(_COLUMNS, max(2, 32 // n))
    for left in range(0, w, columns):
        right = min(left + columns, w)
        start, stop = max(0, left - radius), min(w, right + radius)
        query = queries[:, :, left:right].transpose(0, 1).contiguous()
        scaled = query * -2
        best = query.new_full(query.shape[:3], torch.inf)
        index = torch.zeros_like(best, dtype=torch.int64)
        penalty = _penalty(left, right, start, stop, radius).to(query.device)
        for row in range(h):
            near = slice(max(0, row - radius), min(h, row + radius + 1))
            stretch = bank[row, start:stop].reshape(-1, c).float()
            norms = squares[row, start:stop].view(-1)
            scores = linear(scaled[near].view(-1, c), stretch, norms)
            scores = scores.view(-1, n, right - left, stop - start, bank.shape[2])
            scores += penalty
            if own is not None:
                mine, owner = own[0][:, None, None], own[1][row, start:stop]
                scores.masked_fill_((owner == mine)[:, None], torch.inf)
            value, found = scores.flatten(3).min(-1)
            closer = ~(value >= best[near])  # also True for NaN, which must propagate
            best[near] = torch.where(closer, value, best[near])
            found += (row * w + start) * bank.shape[2]
            index[near] = torch.where(closer, found, index[near])
        out[:, :, left:right] = _distance(query, bank.view(-1, c)[index].float(), best)
    return out.transpose(0, 1)


def _penalty(left, right, start, stop, radius):
    """Return (columns, others, 1): infinity for columns beyond the radius."""
    distance = torch.arange(left, right)[:, None] - torch.arange(start, stop)
    penalty = torch.zeros(distance.shape)
    penalty[distance.abs() > radius] = torch.inf
    return penalty[..., None]


def _distance(query, nearest, score):
    """Return |q - b|; NaN if the query is NaN or nothing is within the radius."""
    distance = (query - nearest).square().sum(-1).sqrt()
    return torch.where(score == torch.inf, torch.nan, distance)
