"""Transformer tokens of images: patch tokens and prefix tokens."""

import numpy as np
import torch
from sklearn.utils import Bunch

from skdinoad._compat.torch import as_tensor

__all__ = ["TokenGrids", "check_like", "gather", "pack"]


class TokenGrids(list):
    """List of grids (h, w, c) of patch features, with the prefix tokens.

    Parameters
    ----------
    grids : iterable of ndarray of shape (h, w, c)
    prefix : ndarray of shape (n, p, c) or None
        Class token and registers; None = unknown.
    """

    def __init__(self, grids, prefix=None):
        super().__init__(grids)
        self.prefix = prefix

    def one(self, i):
        """Return the grid of image i with its prefix tokens."""
        prefix = None if self.prefix is None else self.prefix[i : i + 1]
        return TokenGrids(self[i : i + 1], prefix)


def check_like(grids, channels, n_prefix):
    """Raise a ValueError unless channels and prefix tokens of grids are as expected."""
    found = grids[0].shape[-1], 0 if grids.prefix is None else grids.prefix.shape[1]
    if found != (channels, n_prefix):
        raise ValueError(
            f"Features of {found[0]} channels with {found[1]} tokens before the "
            f"patches; fitted on {channels} with {n_prefix}. Use one extractor for all."
        )


def pack(grids, groups):
    """Return all tokens of grids of one size and a mask of the valid ones.

    Parameters
    ----------
    grids : TokenGrids
    groups : int
        Number g of layer groups concatenated in the channels.

    Returns
    -------
    tokens : Tensor of shape (n, g, p + h * w, c / g), float32
        0 where invalid.
    valid : Tensor of shape (n, p + h * w), bool

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._training.tokens import TokenGrids, pack
    >>> grids = TokenGrids(np.ones((1, 2, 2, 6)), prefix=np.zeros((1, 1, 6)))
    >>> tokens, valid = pack(grids, groups=2)
    >>> tokens.shape, tokens[0, 0, :, 0].tolist()
    (torch.Size([1, 2, 5, 3]), [0.0, 1.0, 1.0, 1.0, 1.0])
    """
    flat = np.stack(grids).reshape(len(grids), -1, grids[0].shape[-1])
    if flat.shape[-1] % groups:
        raise ValueError(
            f"Features of {flat.shape[-1]} channels do not divide into {groups} groups."
        )
    if grids.prefix is not None:
        flat = np.concatenate([grids.prefix, flat], axis=1)
    tokens = as_tensor(np.ascontiguousarray(flat, np.float32))
    valid = torch.isfinite(tokens).all(-1)
    tokens = tokens.unflatten(-1, (groups, -1)).transpose(1, 2)
    return torch.nan_to_num(tokens), valid


def gather(rows, n) -> Bunch:
    """Collect the tokens of up to n image copies in one float16 array for training.

    Parameters
    ----------
    rows : iterable of (Tensor, Tensor, int)
        Tokens (1, g, t, c) and valid (1, t) of a copy, from :func:`pack`, and the
        number of its image.
    n : int

    Returns
    -------
    Bunch
        ``tokens`` (m, g, t, c), float16, which halves the memory and changes the cosine
        by less than 1e-6; ``valid`` (m, t), bool; ``image`` (m,), int. Empty if there
        are no rows.
    """
    tokens, valid, image = torch.empty(0), [torch.empty(0)], []
    for part, good, number in rows:
        if not image:
            tokens = torch.empty(n, *part.shape[1:], dtype=torch.float16)
            valid = []
        tokens[len(image)] = part[0]
        valid.append(good[0])
        image.append(number)
    tokens = tokens[: len(image)]
    if not torch.isfinite(tokens).all():
        raise ValueError(
            "Features beyond 65504 cannot be kept as float16: scale them down."
        )
    return Bunch(tokens=tokens, valid=torch.stack(valid), image=np.array(image, int))
