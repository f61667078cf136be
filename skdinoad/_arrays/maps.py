"""Operations on grids of features and scores; NaN = invalid patch."""

from functools import lru_cache

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import interpolate, pad

__all__ = [
    "aggregate",
    "clean",
    "enlarged",
    "pixel_map",
    "smooth",
    "smooth_inside",
    "smooth_pixels",
    "stacked",
    "unit",
    "window_mean",
]


def unit(F) -> np.ndarray:
    """Return features (..., c) scaled to unit length; NaN stays NaN, 0 stays 0."""
    length = np.linalg.norm(F, axis=-1, keepdims=True)
    return F / np.maximum(length, np.finfo(np.float32).tiny)


def stacked(maps):
    """Return a list of maps as one array, or unchanged if they differ in size."""
    return np.stack(maps) if len({np.shape(heat) for heat in maps}) == 1 else maps


def smooth(grids, sigma: float) -> np.ndarray:
    """Smooth score grids with a Gaussian over valid cells only.

    Parameters
    ----------
    grids : ndarray of shape (n, h, w), float
        NaN = invalid.
    sigma : float
        Standard deviation in cells; 0 returns the grids unchanged.

    Returns
    -------
    ndarray of shape (n, h, w)
        Invalid cells stay NaN and do not affect their neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._arrays.maps import smooth
    >>> smooth(np.array([[[2.0, 2.0, np.nan]]]), sigma=1.0)
    array([[[ 2.,  2., nan]]])
    """
    if sigma == 0:
        return grids
    valid = np.isfinite(grids)
    total = _gaussian(np.where(valid, grids, 0), sigma)
    weight = _gaussian(valid.astype(total.dtype), sigma)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=valid)


def _gaussian(grids, sigma):
    return ndimage.gaussian_filter(grids, sigma, axes=(1, 2), mode="nearest")


def window_mean(grid, size: int) -> np.ndarray:
    """Return features (h, w, c), each averaged over a window of valid neighbours.

    Parameters
    ----------
    grid : ndarray of shape (h, w, c), float32
        NaN = invalid.
    size : int
        Edge of the window in patches, odd; 1 returns the grid unchanged.

    Returns
    -------
    ndarray of shape (h, w, c), float32
        Invalid patches stay NaN and do not affect their neighbours.
    """
    if size == 1:
        return grid
    valid = np.isfinite(grid).all(-1, keepdims=True)
    how = {"size": size, "axes": (0, 1), "mode": "constant"}
    total = ndimage.uniform_filter(np.where(valid, grid, 0), **how)
    weight = ndimage.uniform_filter(valid.astype(np.float32), **how)
    return np.where(valid, total / np.maximum(weight, 1e-6), np.float32(np.nan))


def smooth_pixels(image, sigma: float, *, inside=None) -> np.ndarray:
    """Smooth one heat map with a Gaussian, mirrored at the edges, cut at 4 sigma.

    Parameters
    ----------
    image : ndarray of shape (H, W), float32
    sigma : float
        Standard deviation in pixels; 0 returns the map unchanged.
    inside : ndarray of shape (H, W), bool, or None
        Pixels that are smoothed. Others become 0 and do not affect them.

    Returns
    -------
    ndarray of shape (H, W), float32
        As from ``scipy.ndimage.gaussian_filter``, several times faster.
    """
    if sigma == 0:
        return image
    if inside is None:
        return _blur(image, sigma)
    weight = _blur(inside.astype(np.float32), sigma)
    total = _blur(np.where(inside, image, np.float32(0)), sigma)
    return np.where(inside, total / np.maximum(weight, np.float32(1e-6)), 0)


def smooth_inside(images, valid, sigma: float) -> np.ndarray:
    """Return images (k, H, W) smoothed where valid (H, W), NaN elsewhere."""
    images = [smooth_pixels(image, sigma, inside=valid) for image in images]
    return np.where(valid, images, np.float32(np.nan))


def _blur(image, sigma):
    size = 2 * int(4 * sigma + 0.5) + 1
    border = cv2.BORDER_REFLECT
    return cv2.GaussianBlur(image, (size, size), sigma, borderType=border)


def enlarged(grid, size=256, patch=14) -> np.ndarray:
    """Return the map from which Dinomaly takes its image score, the top 1 %.

    The grid is enlarged to ``patch`` pixels a patch with ``align_corners=True``, then
    resized to ``size`` x ``size`` pixels with ``align_corners=False``, and smoothed by
    a Gaussian of standard deviation 4, cut to 5 x 5 pixels.

    Parameters
    ----------
    grid : ndarray of shape (h, w), float
        NaN = invalid.
    size : int
    patch : int

    Returns
    -------
    ndarray of shape (size, size), float32
        NaN where mostly invalid cells contribute. Edges are mirrored; the official
        code pads with zeros, which darkens two pixels at each edge.
    """
    rows, columns = (_enlarging(cells, size, patch) for cells in grid.shape)
    valid = np.isfinite(grid)
    layers = np.stack([np.where(valid, grid, 0), valid]).astype(np.float32)
    # torch, because alternating between the threads of two libraries is slow.
    total, weight = rows @ torch.from_numpy(layers) @ columns.T
    heat = torch.where(weight >= 0.5, total / weight.clamp_min(0.5), np.nan)
    return heat.numpy()


def pixel_map(grid, patch=14) -> np.ndarray:
    """Return the map of which SubspaceAD's official image score is the top 1 %.

    Each patch becomes ``patch`` pixels by bilinear interpolation; a Gaussian of
    standard deviation 4, cut to 3 x 3 pixels, smooths the result.

    Parameters
    ----------
    grid : ndarray of shape (h, w), float
        NaN = invalid.
    patch : int
        Edge of a patch in pixels.

    Returns
    -------
    ndarray of shape (h * patch, w * patch), float32
        NaN where mostly invalid cells contribute.
    """
    valid = np.isfinite(grid)
    size = tuple(edge * patch for edge in grid.shape[::-1])
    heat, weight = (
        cv2.GaussianBlur(cv2.resize(layer.astype(np.float32), size), (3, 3), 4)
        for layer in (np.where(valid, grid, 0), valid)
    )
    known = weight >= 0.5
    return np.divide(heat, weight, out=np.full_like(heat, np.nan), where=known)


@lru_cache(maxsize=64)
def _enlarging(cells, size, patch):
    """Return the matrix (size, cells) of all three steps along one axis."""
    line = interpolate(
        torch.eye(cells)[None], cells * patch, mode="linear", align_corners=True
    )
    line = interpolate(line, size, mode="linear", align_corners=False)
    kernel = torch.exp(-(torch.arange(-2.0, 3) ** 2) / (2 * 4**2))
    return (
        pad(line, (2, 2), mode="reflect")[0].unfold(1, 5, 1) @ (kernel / kernel.sum())
    ).T


def clean(grids, threshold: float, opening: int = 0, closing: int = 0) -> np.ndarray:
    """Set to 0 what lies below a threshold or is too small to be a defect.

    Parameters
    ----------
    grids : ndarray of shape (n, h, w), float
    threshold : float
        Cells below it become 0. Take it from held-out normal images: a percentile of
        each map would keep the same area in good and in defective images.
    opening, closing : int
        Diameter in cells of the ellipse that opens, then closes, the set of cells
        above the threshold; 0 = off.

    Returns
    -------
    ndarray of shape (n, h, w)
        The scores inside the cleaned set, 0 outside, NaN where invalid.
    """
    keep = (grids >= threshold).astype(np.uint8)
    for operation, size in ((cv2.MORPH_OPEN, opening), (cv2.MORPH_CLOSE, closing)):
        if size:
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
            keep = np.stack([cv2.morphologyEx(k, operation, kernel) for k in keep])
    return np.where(np.isnan(grids) | (keep > 0), grids, 0)


def aggregate(grids, how=0.01, *, whole=False) -> np.ndarray:
    """Reduce each score grid to one image score over its valid cells.

    Parameters
    ----------
    grids : ndarray of shape (n, h, w), float
    how : float, "max", "mean" or "p99"
        A share in (0, 1]: the mean of the largest ``floor(share * m)`` of the m valid
        cells, at least one. "p99": the interpolated 99th percentile.
    whole : bool
        Whether m counts all cells of the grid, valid or not. If fewer than
        ``floor(share * m)`` are valid, the mean is over all valid ones.

    Returns
    -------
    ndarray of shape (n,), float64
        Higher = more anomalous; NaN where a grid has no valid cell.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._arrays.maps import aggregate
    >>> grid = np.array([[[1.0, 2.0], [3.0, np.nan]]])
    >>> [float(aggregate(grid, how)[0]) for how in ("max", "mean", 0.01)]
    [3.0, 2.0, 3.0]
    """
    return np.array([_aggregate_one(grid, how, whole) for grid in grids])


def _aggregate_one(grid, how, whole):
    values = grid[np.isfinite(grid)].astype(np.float64)
    if values.size == 0:
        return np.nan
    if how == "p99":
        return np.percentile(values, 99)
    if not isinstance(how, str):
        # The tiny term keeps floor(0.29 * 100) at 29 although 0.29 is not exact.
        cells = grid.size if whole else values.size
        count = min(max(1, int(how * cells + 1e-9)), values.size)
        return np.partition(values, -count)[-count:].mean()
    return values.max() if how == "max" else values.mean()
