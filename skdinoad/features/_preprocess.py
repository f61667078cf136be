"""From pixels to network input, and from alpha to invalid patches."""

import numpy as np
import torch

from skdinoad._torch import as_tensor

__all__ = ["invalidate", "resize", "valid_share"]


def resize(image, size):
    """Resize uint8 (H, W, 3) to float (1, 3, *size), bicubic with antialiasing.

    torch's resize on uint8 equals Pillow's, with which DINOv2 was trained and the
    papers measure; OpenCV's cubic does not average where it shrinks.
    """
    x = as_tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if image.shape[:2] != size:
        x = torch.nn.functional.interpolate(x, size, mode="bicubic", antialias=True)
    return x.float()


def invalidate(grid, image, min_valid):
    """Set to NaN the patches of which too few pixels are valid."""
    if image.shape[-1] == 4:
        grid[valid_share(image[..., 3] >= 128, grid.shape[:2]) < min_valid] = np.nan
    return grid


def valid_share(valid, size):
    """Return the share of valid pixels in each cell of a grid that covers the image."""
    rows = _cell_weights(valid.shape[0], size[0])
    columns = _cell_weights(valid.shape[1], size[1])
    return rows @ valid.astype(np.float32) @ columns.T


def _cell_weights(pixels, cells):
    """(cells, pixels) overlap of each pixel with each cell; every row sums to 1."""
    edges = np.linspace(0, pixels, cells + 1)
    start = np.maximum(edges[:-1, None], np.arange(pixels))
    stop = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    return (np.clip(stop - start, 0, None) * cells / pixels).astype(np.float32)
