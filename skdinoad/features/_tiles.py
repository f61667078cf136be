"""Features of large images from overlapping tiles."""

import itertools
import math

import numpy as np
import torch

__all__ = ["tile_starts", "tiled_tokens"]


def tile_starts(n, size, overlap) -> list:
    """Return the first patch of each tile along an axis of n patches, evenly spaced.

    Parameters
    ----------
    n, size : int
        Numbers of patches of the axis and of a tile; one tile is enough if n <= size.
    overlap : float
        Smallest overlap of neighbouring tiles, as a share of a tile, below 1.

    Returns
    -------
    list of int

    Examples
    --------
    >>> from skdinoad.features._tiles import tile_starts
    >>> tile_starts(20, 8, 0.25), tile_starts(5, 8, 0.25)
    ([0, 6, 12], [0])
    """
    if n <= size:
        return [0]
    step = max(1, math.floor(size * (1 - overlap)))
    count = math.ceil((n - size) / step) + 1
    return np.linspace(0, n - size, count).round().astype(int).tolist()


def tiled_tokens(tokens_of, x, patch, size, overlap, batch_size) -> np.ndarray:
    """Return the tokens of an image from those of its tiles.

    Parameters
    ----------
    tokens_of : callable
        Pixels (n, 3, H, W) -> tokens (n, p + h * w, ...), float32, with p prefix
        tokens before those of the patches.
    x : Tensor of shape (1, 3, H, W)
        Image of whole patches.
    patch : int
        Side of a patch in pixels.
    size : int
        Side of a tile in patches.
    overlap : float
        As in :func:`tile_starts`.
    batch_size : int
        Tiles per forward pass.

    Returns
    -------
    tokens : ndarray of shape (1, p + h * w, ...), float32
        Where tiles overlap, the mean of their tokens with weights that decrease towards
        the edges of a tile, where patches have neighbours on one side only. The p
        prefix tokens are the mean over tiles.
    """
    grid = [edge // patch for edge in x.shape[2:]]
    tile = [min(edge, size) for edge in grid]
    starts = [tile_starts(n, edge, overlap) for n, edge in zip(grid, tile)]
    weight = np.outer(*map(_ramp, tile)).astype(np.float32)
    places, total, prefix = list(itertools.product(*starts)), None, 0
    weights = np.zeros(grid, np.float32)
    for first in range(0, len(places), batch_size):
        part = places[first : first + batch_size]
        tokens = tokens_of(torch.cat([_crop(x, place, tile, patch) for place in part]))
        p = tokens.shape[1] - tile[0] * tile[1]
        inner = tokens.shape[2:]
        total = np.zeros((*grid, *inner), np.float32) if total is None else total
        prefix = prefix + tokens[:, :p].sum(0)
        for place, seen in zip(part, tokens[:, p:]):
            rows = tuple(slice(a, a + b) for a, b in zip(place, tile))
            seen = seen.reshape(*tile, *inner)
            total[rows] += seen * _like(weight, seen)
            weights[rows] += weight
    total /= _like(weights, total)
    return np.concatenate([prefix / len(places), total.reshape(-1, *inner)])[None]


def _ramp(n):
    """Return 1, 2, ..., 2, 1: the distance of each of n patches to the edge."""
    return np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1))


def _crop(x, place, tile, patch):
    (top, left), (height, width) = place, tile
    rows = slice(top * patch, (top + height) * patch)
    return x[..., rows, left * patch : (left + width) * patch]


def _like(weights, values):
    """Return weights (h, w) with as many axes as values (h, w, ...)."""
    return weights.reshape(*weights.shape, *[1] * (values.ndim - 2))
