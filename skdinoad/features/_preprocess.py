"""Resize images for the network, and mark patches without valid pixels."""

import numpy as np
import torch

from skdinoad._compat.torch import as_tensor

__all__ = ["invalidate", "resize", "valid_share"]

#: Share of a patch's pixels that must be valid (alpha >= 128).
_MIN_VALID = 0.5


def resize(image, size, mode="bicubic"):
    """Resize uint8 (H, W, 3) to float (1, 3, *size), with antialiasing.

    torch's resize of uint8 equals Pillow's, which was used to train DINOv2 and in the
    papers. OpenCV's cubic interpolation does not average when it shrinks.
    """
    x = as_tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if image.shape[:2] != size:
        how = {"mode": mode, "antialias": True}
        if mode == "nearest":
            how = {"mode": "nearest-exact"}  # Pillow's and OpenCV's centres of pixels
        x = torch.nn.functional.interpolate(x, size, **how)
    return x.float()


def invalidate(grid, image, covered=None):
    """Return the grid with NaN for patches with too few valid pixels.

    ``covered`` is the part of the image that the grid covers, ((top, bottom), (left,
    right)) in pixels; None is all of it.
    """
    if image.shape[-1] != 4:
        return grid
    share = valid_share(image[..., 3] >= 128, grid.shape[:2], covered)
    keep = (share >= _MIN_VALID).reshape(*share.shape, *[1] * (grid.ndim - 2))
    return np.where(keep, grid, np.float32(np.nan))


def valid_share(valid, size, covered=None):
    """Return the share of valid pixels in each cell of a grid over the image."""
    if covered is None:
        covered = (0, valid.shape[0]), (0, valid.shape[1])
    rows = _cell_weights(valid.shape[0], size[0], covered[0])
    columns = _cell_weights(valid.shape[1], size[1], covered[1])
    # torch, because alternating between the threads of two libraries is slow.
    return (rows @ torch.from_numpy(valid.astype(np.float32)) @ columns.T).numpy()


def _cell_weights(pixels, cells, covered):
    """Return a tensor (cells, pixels) of overlaps; every row sums to 1."""
    edges = np.linspace(*covered, cells + 1)
    start = np.maximum(edges[:-1, None], np.arange(pixels))
    stop = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    share = np.clip(stop - start, 0, None) * cells / (covered[1] - covered[0])
    return torch.from_numpy(share.astype(np.float32))
