"""Squared norms of a bank, with infinity for invalid vectors."""

import numpy as np

__all__ = ["squared_norms"]


def squared_norms(bank, valid=True) -> np.ndarray:
    """Return the squared norm of each bank vector, or infinity if it is invalid.

    Parameters
    ----------
    bank : ndarray of shape (..., c), float32 or float16
    valid : bool or ndarray of shape (...), bool

    Returns
    -------
    ndarray of shape (...), float32
        Infinity ensures that an invalid vector is never the nearest.
    """
    squares = np.einsum("...c,...c->...", bank, bank, dtype=np.float32)
    return np.where(valid, squares, np.float32(np.inf))
