"""Squared norms of a bank, which also say which of its vectors count."""

import numpy as np

__all__ = ["squared_norms"]


def squared_norms(bank, valid=True) -> np.ndarray:
    """Return the squared length of each bank vector, infinity where it is invalid.

    Parameters
    ----------
    bank : ndarray of shape (..., c), float32 or float16
    valid : bool or ndarray of shape (...), bool

    Returns
    -------
    ndarray of shape (...), float32
        Infinity keeps an invalid vector from ever being nearest.
    """
    squares = np.einsum("...c,...c->...", bank, bank, dtype=np.float32)
    return np.where(valid, squares, np.float32(np.inf))
