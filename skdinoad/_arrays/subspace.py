"""The linear subspace that holds most of the variance of vectors."""

import numpy as np
import torch

from skdinoad._compat.products import linear
from skdinoad._compat.torch import as_tensor

__all__ = ["Moments", "mean_residual", "principal_subspace", "residuals"]


class Moments:
    """Count, sum and products of vectors; moments can be added and subtracted.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._arrays.subspace import Moments
    >>> a, b = Moments(2), Moments(2)
    >>> a.update(np.array([[1.0, 0.0], [3.0, 0.0]]))
    >>> b.update(np.array([[5.0, 0.0]]))
    >>> (a + b).mean().tolist(), (a + b - b).mean().tolist()
    ([3.0, 0.0], [2.0, 0.0])
    """

    def __init__(self, channels):
        self.count = 0
        self.total = np.zeros(channels)
        self.products = np.zeros((channels, channels))

    def update(self, vectors):
        """Add vectors (m, c)."""
        vectors = np.asarray(vectors, np.float64)
        self.count += len(vectors)
        self.total += vectors.sum(axis=0)
        self.products += vectors.T @ vectors

    def mean(self) -> np.ndarray:
        return self.total / max(1, self.count)

    def covariance(self) -> np.ndarray:
        mean = self.mean()
        return self.products / max(1, self.count) - np.outer(mean, mean)

    def __add__(self, other):
        return self._with(other, 1)

    def __sub__(self, other):
        return self._with(other, -1)

    def _with(self, other, sign):
        out = Moments(len(self.total))
        for name, value in vars(self).items():
            setattr(out, name, value + sign * getattr(other, name))
        return out


def principal_subspace(moments, n_components) -> np.ndarray:
    """Return the directions in which vectors vary most.

    Parameters
    ----------
    moments : Moments
    n_components : int or float
        A number of directions, or the smallest share of the variance that they
        explain. Directions without variance are left out.

    Returns
    -------
    components : ndarray of shape (k, c), float32
        Orthonormal rows, the one of largest variance first; k may be 0.
    """
    values, vectors = np.linalg.eigh(moments.covariance())
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    rank = int((values > 1e-10 * max(values.sum(), 1e-20)).sum())
    k = n_components
    if n_components < 1:
        share = np.cumsum(values) / max(values.sum(), 1e-20)
        k = int(np.searchsorted(share, n_components - 1e-12)) + 1
    return vectors[:, : min(k, rank)].T.astype(np.float32)


def mean_residual(moments, components) -> float:
    """Return the mean of :func:`residuals` over the vectors in the moments.

    Parameters
    ----------
    moments : Moments
    components : ndarray of shape (k, c), float32
        Orthonormal rows; the subspace goes through the mean.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._arrays.subspace import Moments, mean_residual
    >>> moments = Moments(2)
    >>> moments.update(np.array([[5.0, 3.0], [9.0, -3.0]]))
    >>> mean_residual(moments, np.array([[1.0, 0.0]]))
    9.0
    """
    spread = moments.covariance()
    inside = np.einsum("kc,cd,kd->", components, spread, components)
    return max(0.0, float(np.trace(spread) - inside))


@torch.inference_mode()
def residuals(vectors, mean, components) -> np.ndarray:
    """Return the squared distances of vectors (m, c) to an affine subspace.

    Parameters
    ----------
    vectors : ndarray of shape (m, c), float32
    mean : ndarray of shape (c,), float32
    components : ndarray of shape (k, c), float32
        Orthonormal rows.

    Returns
    -------
    ndarray of shape (m,), float32
    """
    centred = as_tensor(vectors - mean)
    components = as_tensor(components)
    rest = centred - linear(linear(centred, components), components.mT)
    return rest.square().sum(dim=1).numpy()
