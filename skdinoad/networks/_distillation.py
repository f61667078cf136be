"""Reverse distillation: a student rebuilds a teacher's levels from their bottleneck.

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
    """Scale the teacher's channels, squeeze all levels, and rebuild each of them.

    Parameters
    ----------
    channels : sequence of int
        Channels c_l of the levels, shallow to deep.
    width : int or None
        Most channels of the student at any level; None = the teacher's.
    depth : sequence of int
        The student's residual blocks at each level, shallow to deep; the first of each
        doubles the size.
    codes : int
        Entries of the codebook; 0 = none.
    signed : bool
        Whether features may be negative; if not, the student ends in ReLUs.
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
        """Bring the mean square of each channel to 1, its mean not to 0.

        ``valid``, one (b, 1, h_l, w_l) for each level, says which places count.

        What is the same everywhere gives features a direction: without it, those of a
        plain ground would be noise, and no cosine of theirs would mean a thing.
        """
        for i, level in enumerate(maps):
            square, count = torch.zeros(level.shape[1], dtype=torch.float64), 0
            for k, image in enumerate(level):  # one by one: float64 of all is large
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
        """Return how many (valid) places of the deepest level each code stands for."""
        if self.codebook is None:
            return torch.zeros(0, dtype=torch.long)
        device = self.scale0.device
        valid = None if valid is None else valid.to(device)
        used = self.codebook.nearest(self.places(deepest.to(device), valid))
        return torch.bincount(used, minlength=len(self.codebook.codes))

    def forward(self, targets, valid=None):
        """Return the rebuilt levels and the codebook's loss.

        ``valid`` (b, 1, h, w) says which places of the deepest level prototypes learn
        from.
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
    """Return the student's blocks at each level, given as one number or several."""
    several = np.iterable(depth)
    numbers = list(depth) if several else [depth]
    if not all(isinstance(n, Integral) and n >= 1 for n in numbers):
        raise ValueError(
            f"student_depth={depth!r}: expected numbers of blocks, 1 or more."
        )
    if several and len(numbers) != levels:
        raise ValueError(
            f"student_depth={depth!r} for a teacher with {levels} levels: expected one "
            "number, or one for each level."
        )
    return np.broadcast_to(numbers, levels).tolist()


def _to(x, size):
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return interpolate(x, size, mode="bilinear", align_corners=False)


def _start(network):
    """Draw the weights of convolutions as the official code does."""
    for module in network.modules():
        if type(module) is nn.Conv2d:  # not transposed ones
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _reduction(a, b, halvings, *, first):
    """Return convolutions from one level to the deepest one's grid.

    The first of them keeps the size where ``first``; otherwise channels grow twofold as
    the grid is halved.
    """
    layers = [convolution(a, b, 1)] if first else []
    for i in range(halvings):
        wide = b if first or i == halvings - 1 else min(2 * a, b)
        layers.append(convolution(b if first else a, wide, 2))
        a = wide
    return nn.Sequential(*layers)


class _Residual(nn.Module):
    """ResNet's bottleneck block; half as wide inside.

    With ``up`` a transposed convolution takes the place of the middle one and of the
    shortcut, and the grid becomes twice as fine.
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
    """Residual blocks, the first doubling the size, and the teacher's channels."""

    def __init__(self, a, width, channels, depth, signed):
        super().__init__()
        self.enlarge = _Residual(a, width, up=True)
        rest = (_Residual(width, width) for _ in range(depth - 1))
        self.blocks = nn.Sequential(*rest)
        # A ReLU cannot reach what is negative: signed features need a free output.
        free = signed or width != channels
        self.head = nn.Conv2d(width, channels, 1) if free else nn.Identity()

    def forward(self, x, size):
        x = self.blocks(_to(self.enlarge(x), size))
        return x, self.head(x)


class Codebook(nn.Module):
    """Replace each place's features by the nearest of a few learned prototypes.

    Gradients pass straight through. A code that no place has chosen for ``patience``
    batches is moved to a place of the current one.

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
        """Draw the codes from features (m, c) of good images."""
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
        chosen = embedding(used, self.codes)  # whose gradient is the same every time
        # van den Oord et al., "Neural Discrete Representation Learning", 2017, eq. 3.
        a, b = chosen[counts], rows[counts]
        loss = mse_loss(a, b.detach()) + 0.25 * mse_loss(b, a.detach())
        loss = loss if len(a) else rows.sum() * 0  # nothing valid, nothing to learn
        chosen = (rows + (chosen - rows).detach()).reshape(places.shape)
        return chosen.movedim(-1, 1), loss

    def nearest(self, rows):
        """Return the code that stands for each row."""
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
    """Return the sum over levels of 1 - cos between a level and what is rebuilt.

    Parameters
    ----------
    targets, rebuilt : list of Tensor of shape (b, c, h, w)
    valid : list of Tensor of shape (b, 1, h, w), bool, or None
        Places that count.
    local : bool
        Whether cosines are of single places and averaged. They are of a whole level,
        all its places in one vector, in the official code, which serves better.
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
    """Return levels of one size, as a ViT's are, as a pyramid; others as they are.

    Of three, the first becomes twice as fine and the last half as fine: nothing is
    gained in detail, but a student needs levels of different sizes.

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
