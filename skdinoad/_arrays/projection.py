"""Principal components of patch features, for all locations or for each."""

import numpy as np
import torch
from sklearn.decomposition import PCA

from skdinoad._compat.torch import as_tensor

__all__ = ["fit_projection", "project"]


def fit_projection(F, kind: str, n: int) -> tuple:
    """Return the principal directions of nominal features.

    Parameters
    ----------
    F : ndarray of shape (m, h, w, c), float32
        NaN = invalid.
    kind : {"shared", "local"}
        One basis for all locations, or one for each location.
    n : int
        Number of components; for "local" less than the number m of images.

    Returns
    -------
    mean : ndarray of shape (c,) or (h, w, c), float32
    components : ndarray of shape (n, c) or (h, w, n, c), float32
        Orthonormal rows; rows of zeros where a location has fewer directions.
    """
    usable = np.isfinite(F).all(-1).sum()
    limit = min(F.shape[-1], len(F) - 1 if kind == "local" else usable)
    if n > limit:
        raise ValueError(
            f"n_components={n}: expected at most {limit} for pca={kind!r} of {len(F)} "
            f"images with {F.shape[-1]} channels."
        )
    if kind == "shared":
        with np.errstate(invalid="ignore"):  # unused shares of a zero variance
            pca = PCA(n, svd_solver="covariance_eigh").fit(F[np.isfinite(F).all(-1)])
        return pca.mean_.astype(np.float32), pca.components_.astype(np.float32)
    return _fit_local(F, n)


@torch.inference_mode()
def _fit_local(F, n):
    valid = np.isfinite(F).all(-1, keepdims=True)
    count = np.maximum(valid.sum(0), 1)
    mean = np.where(valid, F, 0).sum(0, dtype=np.float32) / count
    centred = as_tensor(np.where(valid, F - mean, 0).astype(np.float32))
    centred = centred.permute(1, 2, 0, 3)
    # There are fewer images than channels: the Gram matrix has the same eigenvalues.
    value, vector = torch.linalg.eigh(centred @ centred.mT)
    value, vector = value[..., -n:].flip(-1), vector[..., -n:].flip(-1)
    length = value.clamp_min(0).sqrt()[..., None]
    components = vector.mT @ centred / length.clamp_min(1e-6)
    components[(length < 1e-4 * length.amax(-2, keepdim=True))[..., 0]] = 0
    return mean.astype(np.float32), components.numpy()


def project(F, mean, components) -> np.ndarray:
    """Return coordinates along the components, and the length of the residual.

    Parameters
    ----------
    F : ndarray of shape (m, h, w, c), float32
    mean, components : ndarray
        From :func:`fit_projection`.

    Returns
    -------
    ndarray of shape (m, h, w, n + 1), float32
        The last channel is the length of the residual: defects differ in directions
        in which good parts do not vary.
    """
    centred = F - mean
    where = "nc" if components.ndim == 2 else "hwnc"
    parts = as_tensor(centred), as_tensor(components)
    along = torch.einsum(f"mhwc,{where}->mhwn", *parts).numpy()
    rest = np.square(centred).sum(-1) - np.square(along).sum(-1)
    return np.concatenate([along, np.sqrt(np.maximum(rest, 0))[..., None]], axis=-1)
