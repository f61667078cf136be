"""Reverse distillation: a student reconstructs a teacher's levels from a bottleneck.

The bottleneck and student follow Deng, Li, "Anomaly Detection via Reverse Distillation
from One-Class Embedding", CVPR 2022, arXiv 2201.10703; the codebook in between is
DMAD's information compression, arXiv 2303.05047, section 3.3.

Tensors: a list of levels (b, c_l, h_l, w_l), shallow to deep.
"""

from numbers import Integral

import numpy as np
import torch
from torch import nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    cosine_similarity,
    embedding,
    interpolate,
    mse_loss,
)

from skdinoad.networks._layers import convolution

__all__ = [
    "Codebook",
    "Distiller",
    "check_depth",
    "level_distances",
    "level_loss",
    "pyramid",
]


class Distiller(nn.Module):
    """Scale the teacher's channels, compress all levels and reconstruct each of them.

    Parameters
    ----------
    channels : sequence of int
        Channels c_l of the levels, shallow to deep.
    width : int or None
        Maximum number of the student's channels per level; None uses the teacher's.
    depth : sequence of int
        Number of the student's residual blocks per level, shallow to deep; the first
        block of each level doubles the size.
    codes : int
        Number of codebook entries; 0 = no codebook.
    signed : bool
        Whether features may be negative; if not, the student ends with ReLUs.
    """

    def __init__(self, channels, *, width=None, depth=(1, 1, 1), codes=0, signed=True):
        super().__init__()
        deepest = channels[-1]
        for i, c in enumerate(channels):
            self.register_buffer(f"scale{i}", torch.ones(c, 1, 1))
        self.codebook = Codebook(codes, deepest) if codes else None
        reduced = max(8, deepest // 16) if codes else deepest
        self.reduce = nn.ModuleList(
            _reduction(c, reduced, len(channels) - 1 - i, first=bool(codes))
            for i, c in enumerate(channels if codes else channels[:-1])
        )
        squeezed = max(2 * deepest, 128)
        joined = reduced * len(self.reduce) + deepest
        self.squeeze = nn.Sequential(
            _Residual(joined, squeezed, stride=2),
            _Residual(squeezed, squeezed),
            _Residual(squeezed, squeezed),
        )
        most = width or max(channels)
        widths = [min(max(c, 32), most) if width else c for c in channels]
        levels = zip(channels, widths, [*widths[1:], squeezed], depth)
        self.rebuild = nn.ModuleList(
            _Level(before, w, c, n, signed) for c, w, before, n in levels
        )
        _start(self)

    def scaled(self, maps):
        return [level / getattr(self, f"scale{i}") for i, level in enumerate(maps)]

    @torch.no_grad()
    def learn_scales(self, maps, valid=None):
        """Scale the mean square of each channel to 1 without centring.

        ``valid`` holds a mask (b, 1, h_l, w_l) of the places to use for each level.

        The common component of all features is kept. Without it, features of a plain
        background would be noise and their cosines meaningless.
        """
        for i, level in enumerate(maps):
            square, count = torch.zeros(level.shape[1], dtype=torch.float64), 0
            for k, image in enumerate(level):  # one by one, to save memory in float64
                cells = image.flatten(1) if valid is None else image[:, valid[i][k, 0]]
                square += cells.double().square().sum(dim=1)
                count += cells.shape[1]
            square = torch.where(square <= 1e-12 * count, count, square) / max(count, 1)
            square = square if count else torch.ones_like(square)
            getattr(self, f"scale{i}")[:, 0, 0] = square.sqrt()

    def places(self, deepest, valid=None):
        """Return the scaled features (m, c) of the deepest level's (valid) places."""
        last = deepest.float() / getattr(self, f"scale{len(self.rebuild) - 1}")
        last = last.movedim(1, -1)
        return last.flatten(0, 2) if valid is None else last[valid[:, 0]]

    @torch.no_grad()
    def usage(self, deepest, valid=None):
        """Return the number of (valid) places of the deepest level per code."""
        if self.codebook is None:
            return torch.zeros(0, dtype=torch.long)
        device = self.scale0.device
        valid = None if valid is None else valid.to(device)
        used = self.codebook.nearest(self.places(deepest.to(device), valid))
        return torch.bincount(used, minlength=len(self.codebook.codes))

    def forward(self, targets, valid=None):
        """Return the reconstructed levels and the codebook's loss.

        ``valid`` (b, 1, h, w) masks the places of the deepest level from which
        prototypes learn.
        """
        deepest, loss = targets[-1], targets[-1].new_zeros(())
        grid = deepest.shape[-2:]
        reduced = [_to(layer(t), grid) for layer, t in zip(self.reduce, targets)]
        if self.codebook is not None:
            deepest, loss = self.codebook(deepest, valid)
        x, out = self.squeeze(torch.cat([*reduced, deepest], dim=1)), []
        for level, target in zip(reversed(self.rebuild), reversed(targets)):
            x, rebuilt = level(x, target.shape[-2:])
            out.append(rebuilt)
        return out[::-1], loss


def check_depth(depth, levels) -> list:
    """Return the student's number of blocks per level as a list."""
    several = np.iterable(depth)
    numbers = list(depth) if several else [depth]
    if not all(isinstance(n, Integral) and n >= 1 for n in numbers):
        raise ValueError(
            f"student_depth={depth!r}: expected numbers of blocks, 1 or more."
        )
    if several and len(numbers) != levels:
        raise ValueError(
            f"student_depth={depth!r} for a teacher with {levels} levels: expected one "
            "number, or one per level."
        )
    return np.broadcast_to(numbers, levels).tolist()


def _to(x, size):
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return interpolate(x, size, mode="bilinear", align_corners=False)


def _start(network):
    """Initialise the weights of convolutions as in the official code."""
    for module in network.modules():
        if type(module) is nn.Conv2d:  # not transposed ones
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _reduction(a, b, halvings, *, first):
    """Return convolutions from one level to the grid of the deepest level.

    With ``first``, an initial convolution keeps the size; otherwise the number of
    channels doubles whenever the grid is halved.
    """
    layers = [convolution(a, b, 1)] if first else []
    for i in range(halvings):
        wide = b if first or i == halvings - 1 else min(2 * a, b)
        layers.append(convolution(b if first else a, wide, 2))
        a = wide
    return nn.Sequential(*layers)


class _Residual(nn.Module):
    """ResNet bottleneck block with half the width inside.

    With ``up``, transposed convolutions replace the middle convolution and the
    shortcut, and double the size.
    """

    def __init__(self, a, b, stride=1, *, up=False):
        super().__init__()
        inner = max(1, b // 2)
        middle = _doubling(inner, inner) if up else convolution(inner, inner, stride)
        self.body = nn.Sequential(
            nn.Conv2d(a, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            middle,
            nn.Conv2d(inner, b, 1, bias=False),
            nn.BatchNorm2d(b),
        )
        self.shortcut = nn.Identity()
        if up:
            self.shortcut = _doubling(a, b)[:2]
        elif stride > 1 or a != b:
            layers = nn.Conv2d(a, b, 1, stride=stride, bias=False), nn.BatchNorm2d(b)
            self.shortcut = nn.Sequential(*layers)

    def forward(self, x):
        return torch.relu(self.shortcut(x) + self.body(x))


def _doubling(a, b):
    """Return a transposed convolution that doubles the size, BatchNorm and a ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(a, b, 2, stride=2, bias=False),
        nn.BatchNorm2d(b),
        nn.ReLU(inplace=True),
    )


class _Level(nn.Module):
    """Residual blocks, of which the first doubles the size, and an output layer."""

    def __init__(self, a, width, channels, depth, signed):
        super().__init__()
        self.enlarge = _Residual(a, width, up=True)
        rest = (_Residual(width, width) for _ in range(depth - 1))
        self.blocks = nn.Sequential(*rest)
        # Signed features need an output layer without a ReLU.
        free = signed or width != channels
        self.head = nn.Conv2d(width, channels, 1) if free else nn.Identity()

    def forward(self, x, size):
        x = self.blocks(_to(self.enlarge(x), size))
        return x, self.head(x)


class Codebook(nn.Module):
    """Replace the features of each place by the nearest learned prototype.

    Gradients use the straight-through estimator. A code that was not used for
    ``patience`` batches is reset to the features of a place in the current batch.

    Parameters
    ----------
    codes : int
    channels : int
    patience : int
    """

    def __init__(self, codes, channels, patience=50):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(codes, channels))
        self.register_buffer("idle", torch.zeros(codes))
        self.patience = patience

    @torch.no_grad()
    def start_from(self, places):
        """Initialise the codes with random features (m, c) of good images."""
        rows = torch.randperm(len(places))
        rows = rows.repeat(-(-len(self.codes) // len(places)))[: len(self.codes)]
        self.codes.copy_(places[rows])

    def forward(self, x, valid=None):
        """Return quantised features (b, c, h, w) and the loss."""
        places = x.movedim(1, -1)
        rows = places.reshape(-1, x.shape[1]).float()
        used = self.nearest(rows)
        counts = slice(None) if valid is None else valid.flatten()
        if self.training:
            self._revive(rows.detach()[counts], used[counts])
        chosen = embedding(used, self.codes)  # its gradient is deterministic
        # van den Oord et al., "Neural Discrete Representation Learning", 2017, eq. 3.
        a, b = chosen[counts], rows[counts]
        loss = mse_loss(a, b.detach()) + 0.25 * mse_loss(b, a.detach())
        loss = loss if len(a) else rows.sum() * 0  # no valid place
        chosen = (rows + (chosen - rows).detach()).reshape(places.shape)
        return chosen.movedim(-1, 1), loss

    def nearest(self, rows):
        """Return the index of the nearest code of each row."""
        return torch.cdist(rows, self.codes).argmin(dim=1)

    @torch.no_grad()
    def _revive(self, rows, used):
        self.idle += 1
        self.idle[used] = 0
        dead = torch.nonzero(self.idle > self.patience)[:, 0]
        if len(dead) and len(rows):
            places = torch.randint(len(rows), (len(dead),)).to(rows.device)
            self.codes[dead] = rows[places]
            self.idle[dead] = 0


def level_loss(targets, rebuilt, valid=None, local=False):
    """Return the sum over levels of 1 - cos between target and reconstruction.

    Parameters
    ----------
    targets, rebuilt : list of Tensor of shape (b, c, h, w)
    valid : list of Tensor of shape (b, 1, h, w), bool, or None
        Places to use.
    local : bool
        If True, average the cosines of single places. If False, use one cosine over
        all places of a level, as in the official code, which gives better results.
    """
    total = 0
    for i, (a, b) in enumerate(zip(targets, rebuilt)):
        good = None if valid is None else valid[i]
        if local:
            distance = 1 - cosine_similarity(a, b, dim=1)
            kept = distance if good is None else distance[good[:, 0]]
            total = total + (kept.mean() if kept.numel() else distance.sum() * 0)
            continue
        if good is not None:
            a, b = a * good, b * good
        total = total + (1 - cosine_similarity(a.flatten(1), b.flatten(1))).mean()
    return total


def pyramid(maps):
    """Resize levels of equal size, as from a ViT, to a pyramid.

    Of three levels, the first is upsampled and the last downsampled by a factor of 2.
    This adds no detail, but the student needs levels of different sizes. Levels of
    different sizes are returned unchanged.

    Parameters
    ----------
    maps : list of Tensor of shape (b, c, h, w)
    """
    if len({level.shape[-2:] for level in maps}) > 1:
        return maps
    middle, out = (len(maps) - 1) // 2, []
    for i, level in enumerate(maps):
        size = [max(1, round(edge * 2.0 ** (middle - i))) for edge in level.shape[-2:]]
        if i > middle:
            out.append(adaptive_avg_pool2d(level, size))
        else:
            out.append(_to(level, size))
    return out


def level_distances(targets, rebuilt):
    """Return 1 - cos at each place of each level, a list of (b, 1, h, w)."""
    return [
        (1 - cosine_similarity(a, b, dim=1)).clamp_min(0)[:, None]
        for a, b in zip(targets, rebuilt)
    ]
