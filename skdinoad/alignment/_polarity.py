"""Distinguish the two ends of a part by its patch features."""

import numpy as np

__all__ = ["common_direction", "cosines", "side_vectors"]


def side_vectors(F) -> np.ndarray:
    """Return the mean feature difference between right and left half of each grid.

    Parameters
    ----------
    F : ndarray of shape (n, h, w, c)
        Patch features of aligned parts, NaN = invalid.

    Returns
    -------
    ndarray of shape (n, c)
        Mean over the four middle rows of the right half minus that of the left half.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.alignment._polarity import side_vectors
    >>> side_vectors(np.array([1.0, 1.0, 3.0, 5.0]).reshape(1, 1, 4, 1))
    array([[3.]])
    """
    F = np.asarray(F)
    h, w = F.shape[1:3]
    band = F[:, max(0, h // 2 - 2) : h // 2 + 2]
    return _mean_valid(band[:, :, w - w // 2 :]) - _mean_valid(band[:, :, : w // 2])


def common_direction(sides) -> np.ndarray:
    """Return the mean of vectors after flipping their signs to agree.

    The longest vector defines the sign, so the result does not depend on the order.
    """
    reference = sides[np.linalg.norm(sides, axis=1).argmax()]
    for _ in range(3):
        signs = np.sign(sides @ reference)[:, None]
        reference = (signs * sides).mean(axis=0)
    return reference


def cosines(sides, reference) -> np.ndarray:
    """Return the cosine of each vector to the reference, 0 for zero vectors."""
    lengths = np.linalg.norm(sides, axis=1) * np.linalg.norm(reference)
    return sides @ reference / np.maximum(lengths, np.finfo(np.float32).tiny)


def _mean_valid(F):
    """Return the mean (n, c) over the valid patches of (n, h, w, c), 0 if none."""
    valid = np.isfinite(F).all(-1)
    total = np.where(valid[..., None], F, 0).sum(axis=(1, 2))
    return total / np.maximum(valid.sum(axis=(1, 2)), 1)[:, None]
