"""Exact nearest neighbours between patch grids, tiled so that memory stays bounded.

Squared distances come from one matrix product (|q|^2 + |b|^2 - 2 q.b). That formula
loses digits where q and b are close, so it only finds the neighbour; its distance is
then computed from the difference. An image found in the bank scores exactly 0, and a
score does not depend on which images share its batch.
"""

import numpy as np
import torch

from skdinoad._torch import as_tensor

__all__ = ["nearest_local", "squared_norms"]

#: Distances held at one time, in numbers (64 MiB of float32).
_TILE = 2**24

#: Columns of a grid that share one product when neighbours may be used.
_COLUMNS = 8


def squared_norms(bank, valid) -> np.ndarray:
    """Return the squared length of each bank vector, infinity where it is invalid.

    Parameters
    ----------
    bank : ndarray of shape (..., c), float32
    valid : ndarray of shape (...), bool

    Returns
    -------
    ndarray of shape (...), float32
        Infinity keeps an invalid vector from ever being nearest.
    """
    squares = np.einsum("...c,...c->...", bank, bank)
    return np.where(valid, squares, np.float32(np.inf))


def nearest_local(queries, bank, squares, *, radius=0, exclude_self=False):
    """Return each patch's distance to the nearest bank vector near its location.

    Parameters
    ----------
    queries : ndarray of shape (n, h, w, c), float32
        NaN vector = invalid patch.
    bank : ndarray of shape (h, w, m, c), float32
        The m nominal vectors of every location; anything finite where invalid.
    squares : ndarray of shape (h, w, m), float32
        Their squared norms, as :func:`squared_norms` gives them.
    radius : int
        Locations up to this far away in rows and in columns count as well.
    exclude_self : bool
        Image i of ``queries`` ignores entries [..., i, :] of the bank: leave one
        image out, when the queries are the bank's own images.

    Returns
    -------
    ndarray of shape (n, h, w), float32
        Euclidean distance >= 0; NaN where the query is invalid or no bank vector is
        within reach.
    """
    queries, bank, squares = (as_tensor(x) for x in (queries, bank, squares))
    search = _search_window if radius else _search_location
    out = torch.empty(queries.shape[:3])
    images = torch.arange(len(queries))
    for rows in images.split(_images_at_once(bank, radius)):
        own = rows if exclude_self else None
        out[rows] = search(queries[rows], bank, squares, own, radius)
    return out.numpy()


def _images_at_once(bank, radius):
    reach = min(_COLUMNS + 2 * radius, bank.shape[1]) if radius else 1
    columns = _COLUMNS if radius else 1
    return max(1, _TILE // (columns * reach * bank.shape[2]))


def _search_location(queries, bank, squares, own, _):
    """Nearest vector at the same location: one batched product over locations."""
    n, h, w, c = queries.shape
    queries = queries.permute(1, 2, 0, 3).reshape(h * w, n, c)
    bank, squares = bank.reshape(h * w, -1, c), squares.reshape(h * w, -1)
    out = torch.empty(h * w, n)
    step = max(1, _TILE // (n * max(bank.shape[1], c)))
    for cells in torch.arange(h * w).split(step):
        part = slice(int(cells[0]), int(cells[-1]) + 1)
        scores = squares[part, None] - 2 * torch.bmm(queries[part], bank[part].mT)
        if own is not None:
            scores[:, torch.arange(n), own] = torch.inf
        value, index = scores.min(-1)
        nearest = bank[part].gather(1, index[..., None].expand(-1, -1, c))
        out[part] = _distance(queries[part], nearest, value)
    return out.reshape(h, w, n).permute(2, 0, 1)


def _search_window(queries, bank, squares, own, radius):
    """Nearest vector within the radius: one product per row and block of columns."""
    n, h, w, c = queries.shape
    out = torch.empty(n, h, w)
    for y in range(h):
        for left in range(0, w, _COLUMNS):
            right = min(left + _COLUMNS, w)
            query = queries[:, y, left:right].reshape(-1, c)
            best = torch.full((len(query),), torch.inf)
            nearest = query.clone()
            for row in range(max(0, y - radius), min(h, y + radius + 1)):
                start, stop = max(0, left - radius), min(w, right + radius)
                scores = _row_scores(
                    query, bank[row, start:stop], squares[row, start:stop]
                )
                scores = scores.view(n, right - left, stop - start, -1)
                _forbid(scores, left, start, radius, own)
                value, index = scores.flatten(2).min(-1)
                value, index = value.flatten(), index.flatten()
                closer = ~(value >= best)
                best = torch.where(closer, value, best)
                found = bank[row, start:stop].reshape(-1, c)[index[closer]]
                nearest[closer] = found
            distance = _distance(query, nearest, best)
            out[:, y, left:right] = distance.view(n, -1)
    return out


def _row_scores(query, bank, squares):
    """|b|^2 - 2 q.b of all queries against a stretch of one row of the bank."""
    return squares.flatten() - 2 * query @ bank.reshape(-1, bank.shape[-1]).T


def _forbid(scores, left, start, radius, own):
    """Rule out, in place, columns beyond the radius and each image's own vectors."""
    columns = left + torch.arange(scores.shape[1])[:, None]
    others = start + torch.arange(scores.shape[2])
    scores[:, (columns - others).abs() > radius] = torch.inf
    if own is not None:
        scores[torch.arange(len(own)), :, :, own] = torch.inf


def _distance(query, nearest, score):
    """|q - b|, NaN where the query is NaN or nothing was within reach."""
    distance = (query - nearest).square().sum(-1).sqrt()
    return torch.where(score == torch.inf, torch.nan, distance)
