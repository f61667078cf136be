"""DMAD's deformation: offset fields, predicted from an image, that move its pixels.

Liu, Chang, Zhang, Shan, Chen, "Diversity-Measurable Anomaly Detection", CVPR 2023,
arXiv 2303.05047, sections 3.2 and 3.4.

Tensors: b images, c channels of h x w pixels, k scales from coarse to fine. A field
(b, 2, h, w) holds offsets (x, y) in units in which image width and height are 2.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, pad

from skdinoad.networks._layers import convolution

__all__ = ["Deformer", "check_scales", "magnitude", "moved", "roughness", "strength"]


class Deformer(nn.Module):
    """Predict offset fields and their inverse fields at several scales.

    Parameters
    ----------
    scales : sequence of (float, int)
        For each scale, coarse to fine: the largest offset along an axis, as a share of
        the image's smaller side, and the pixels per offset, a power of 2.
    width : int
        Number of channels.
    stem : int
        Factor by which the image is first reduced: 1, 2, ...
    inverse : bool
        Whether to predict inverse fields, too.
    """

    def __init__(self, scales, width=64, stem=1, inverse=True):
        super().__init__()
        self.scales, self.stem = tuple(scales), stem
        self.enter = nn.Sequential(_Coordinates(3, width), _Coordinates(width, width))
        self.residual = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
        )
        self.norm = nn.BatchNorm2d(width)
        self.forth = nn.ModuleList(_head(width, s, stem) for _, s in self.scales)
        heads = (_head(width, s, stem) for _, s in self.scales if inverse)
        self.back = nn.ModuleList(heads)

    def forward(self, x):
        """Return fields and inverse fields, two lists of (b, 2, h, w)."""
        size = x.shape[-2:]
        x = self.enter(avg_pool2d(x, self.stem) if self.stem > 1 else x)
        x = torch.cat([self.norm(x + self.residual(x)), x], dim=1)
        return tuple(
            [
                _upsampled(head(x), size, most)
                for head, (most, _) in zip(heads, self.scales)
            ]
            for heads in (self.forth, self.back)
        )


def check_scales(scales):
    """Raise a ValueError unless scales are valid for :class:`Deformer`."""
    for scale in scales if np.iterable(scales) else [scales]:
        if not _is_scale(scale):
            raise ValueError(
                f"scales holds {scale!r}: expected pairs of a share of the image, "
                "above 0 and below 1, and an integer of pixels per offset, such as "
                "(8 / 256, 8)."
            )
    strides = [stride for _, stride in scales]
    if strides != sorted(strides, reverse=True):
        raise ValueError(f"scales has strides {strides}; expected coarse to fine.")


def _is_scale(scale):
    try:
        share, stride = map(float, scale)
    except (TypeError, ValueError):
        return False
    return 0 < share < 1 <= stride < 2**15 and stride.is_integer()


def _upsampled(raw, size, most):
    """Upsample a field to image size and limit it to ``most`` of the smaller side."""
    field = interpolate(
        torch.tanh(raw.float()), size, mode="bilinear", align_corners=True
    )
    limits = [2 * most * min(size) / edge for edge in size[::-1]]
    return field * field.new_tensor(limits)[:, None, None]


def _head(width, stride, stem):
    """Return layers that map the trunk's 2 x width channels to a field of a stride."""
    halvings = round(math.log2(stride / stem))
    if halvings < 0 or stem * 2**halvings != stride:
        raise ValueError(
            f"A scale has {stride} pixels per offset with offset_stem={stem}: "
            f"expected the stem times a power of 2: {stem}, {2 * stem}, {4 * stem} ... "
            "Change scales or offset_stem."
        )
    layers, channels = [], 2 * width
    for step in [2] * halvings or [1]:
        layers += [convolution(channels, width, step)]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(width, 2, 3, padding=1))


class _Coordinates(nn.Module):
    """Convolution with four additional coordinate channels.

    As in the official code, row and column are each split into two coordinates: the
    index of the group of four, from -1 to 1, and the remainder.
    """

    def __init__(self, a, b):
        super().__init__()
        self.conv = convolution(a + 4, b)

    def forward(self, x):
        rows, columns = (_places(n, x) for n in x.shape[-2:])
        places = torch.cat(
            [
                rows[:, :, None].expand(-1, -1, x.shape[-1]),
                columns[:, None].expand(-1, x.shape[-2], -1),
            ]
        )
        return self.conv(torch.cat([x, places.expand(len(x), -1, -1, -1)], dim=1))


def _places(n, like):
    """Return the two coordinates (2, n) of n rows or columns."""
    kind = {"dtype": torch.float32, "device": like.device}
    groups = max(1, n // 4)
    group = (torch.arange(n, device=like.device) * groups // n) / max(1, groups - 1)
    whole = torch.arange(n, **kind) / max(1, n - 1)
    return (torch.stack([whole - group, group]) * 2 - 1).to(like.dtype)


def _identity(height, width, like):
    """Return the identity sampling grid (h, w, 2) of (x, y)."""
    kind = {"dtype": like.dtype, "device": like.device}
    y, x = (
        torch.linspace(-1, 1, n, **kind) if n > 1 else torch.zeros(1, **kind)
        for n in (height, width)
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def moved(x, fields):
    """Warp an image by fields, one after the other, replicating the border."""
    for field in fields:
        grid = _identity(*x.shape[-2:], x) + field.permute(0, 2, 3, 1).to(x)
        x = grid_sample(x, grid, "bilinear", "border", align_corners=True)
    return x


def _isotropic(field):
    """Return offsets in units in which the smaller side of the image is 2."""
    height, width = field.shape[-2:]
    edges = field.new_tensor([width, height]) / min(height, width)
    return field * edges[:, None, None]


def magnitude(field):
    """Return the lengths (b, 1, h, w) of offsets, differentiable at 0."""
    return (_isotropic(field).square().sum(1, keepdim=True) + 1e-12).sqrt()


def strength(fields):
    """Return the sum over scales of the mean length of offsets."""
    return sum(magnitude(field).mean() for field in fields)


def roughness(fields):
    """Return the sum over fields of the deviation of offsets from their neighbourhood.

    The deviations of x and y are added as absolute values, and the border is
    replicated. The official filter adds x and y first, so that opposite deviations
    cancel, and pads with zeros.
    """
    return sum(_rough(field) for field in fields)


def _rough(field):
    kernel = torch.full((3, 3), -1 / 8, device=field.device)
    kernel[1, 1] = 1
    padded = pad(_isotropic(field), [1] * 4, mode="replicate")
    return conv2d(padded, kernel.expand(2, 1, 3, 3), groups=2).abs().mean()
