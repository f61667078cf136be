"""Feature maps of a CNN at several levels, and their resampling to one grid."""

from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, pad

__all__ = ["cell_shifts", "level_channels", "level_maps", "level_strides", "on_grid"]


def level_strides(network) -> tuple:
    """Return the stride of each level: each ReLU of a VGG, each stage of others."""
    if not _is_vgg(network):
        return tuple(info["reduction"] for info in network.feature_info)
    stride, out = 1, []
    for layer in network.features:
        stride *= layer.stride if isinstance(layer, nn.MaxPool2d) else 1
        out += [stride] if isinstance(layer, nn.ReLU) else []
    return tuple(out)


def level_maps(network, x, levels, *, reflect=False) -> list:
    """Return feature maps of a CNN at some levels, differentiably.

    Parameters
    ----------
    network : torch.nn.Module
    x : Tensor of shape (n, 3, H, W)
    levels : sequence of int
        Positions in :func:`level_strides`, 0-based.
    reflect : bool
        Whether convolutions pad with mirrored values instead of zeros; for VGG only.

    Returns
    -------
    list of Tensor of shape (n, c, h, w)
        In the order of ``levels``. The network stops at the deepest level.
    """
    if _is_vgg(network):
        found = _relus(network.features, x, max(levels) + 1, reflect)
        return [found[i] for i in levels]
    found = network.forward_intermediates(
        x, indices=sorted(levels), stop_early=True, intermediates_only=True
    )
    return [found[i] for i in np.argsort(np.argsort(levels))]


@torch.inference_mode()
def level_channels(network, levels) -> tuple:
    """Return the number of channels of some levels."""
    maps = level_maps(network, torch.zeros(1, 3, 64, 64), levels)
    return tuple(level.shape[1] for level in maps)


def _is_vgg(network):
    return type(network).__name__ == "VGG"


def _relus(layers, x, n, reflect):
    """Return the outputs of the first n ReLUs, without padding."""
    out = []
    for layer in layers:
        if reflect and isinstance(layer, nn.Conv2d):
            x = conv2d(pad(x, [1] * 4, mode="reflect"), layer.weight, layer.bias)
        else:
            x = layer(x)
        out += [x] if isinstance(layer, nn.ReLU) else []
        if len(out) == n:
            break
    return out


def cell_shifts(network, levels, *, size=256, n=4) -> tuple:
    """Measure the offset of a CNN's cells from the centre of their pixels, in cells.

    The offset is 0 if a cell of stride s is centred on its s x s pixels. The padding of
    common networks moves it by up to half a cell, to the top left in PyTorch's networks
    and to the bottom right in TensorFlow's. Shortcuts and training reduce the offset.
    It is measured as the centroid of the squared gradients of central cells with
    respect to the pixels of noise images. VGG has only 2 x 2 pooling and no offset.

    Parameters
    ----------
    network : torch.nn.Module
        Frozen.
    levels : sequence of int
    size, n : int
        Side in pixels and number of the noise images.

    Returns
    -------
    tuple of float
        Offset of each level; positive = towards the bottom right.
    """
    if _is_vgg(network):
        return (0.0,) * len(levels)
    noise = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        x = noise.requires_grad_()
        return tuple(_shift(level, x) for level in level_maps(network, x, levels))


def _shift(level, x):
    """Return the offset of one level, from cells on both sides of the middle."""
    n, stride = len(x), x.shape[-1] / level.shape[-1]
    cell = level.shape[-1] // 2 - torch.arange(n) % 2
    power = level[torch.arange(n), :, cell, cell].pow(2).sum()
    weight = torch.autograd.grad(power, x, retain_graph=True)[0].pow(2).sum(1)
    places = torch.arange(x.shape[-1]).float()
    across = (weight.sum((1, 2)), weight.sum(1) @ places, weight.sum(2) @ places)
    total, columns, rows = (part.double() for part in across)
    centre = (columns + rows) / (2 * total)
    return float((centre - (stride * (cell + 0.5) - 0.5)).mean() / stride)


def on_grid(maps, size, shifts) -> torch.Tensor:
    """Return maps of several strides on one grid over the same pixels.

    A finer map is averaged over each cell of the grid. A coarser map is interpolated
    linearly between the centres of its cells and is constant beyond the outer ones. No
    map is enlarged to the size of the image.

    Parameters
    ----------
    maps : list of Tensor of shape (n, c, h, w)
    size : (int, int)
        (h, w) of the grid.
    shifts : sequence of float
        For each map, the offset of its cells from :func:`cell_shifts`.

    Returns
    -------
    Tensor of shape (n, h, w, c)
        The channels of all maps, concatenated.

    Examples
    --------
    >>> import torch
    >>> from skdinoad.features._levels import on_grid
    >>> maps = [torch.arange(16.0).reshape(1, 1, 4, 4), torch.ones(1, 2, 1, 1)]
    >>> on_grid(maps, (2, 2), shifts=(0, 0))[0, :, :, 0]
    tensor([[ 2.5000,  4.5000],
            [10.5000, 12.5000]])
    """
    out = []
    for level, shift in zip(maps, shifts):
        rows, columns = (
            _resampling(cells, wanted, shift).to(level)
            for cells, wanted in zip(level.shape[-2:], size)
        )
        out.append(rows @ level @ columns.T)
    return torch.cat(out, dim=1).permute(0, 2, 3, 1)


@lru_cache(maxsize=128)
def _resampling(cells, wanted, shift):
    """Return the matrix (wanted, cells) that resamples one axis; its rows sum to 1.

    Each new cell is the mean of linear interpolations at several points.
    """
    points = -(-cells // wanted)
    at = (np.arange(wanted * points) + 0.5) * cells / (wanted * points) - 0.5 - shift
    at = np.clip(at, 0, cells - 1)
    tents = np.clip(1 - abs(at[:, None] - np.arange(cells)), 0, None)
    means = tents.reshape(wanted, points, cells).mean(axis=1)
    return torch.from_numpy(means.astype(np.float32))
