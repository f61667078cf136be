"""DMAD's trained part: a deformer in front of, or behind, a reverse distillation.

Liu, Chang, Zhang, Shan, Chen, "Diversity-Measurable Anomaly Detection", CVPR 2023,
arXiv 2303.05047, sections 3.2 to 3.4.

A teacher is a function of images (b, 3, h, w) to levels, through which gradients pass.
"""

import torch
from torch import nn, zeros_like
from torch.nn.functional import interpolate

from skdinoad.networks._deformation import (
    Deformer,
    magnitude,
    moved,
    roughness,
    strength,
)
from skdinoad.networks._distillation import Distiller, level_distances, level_loss

__all__ = ["MovingStudent", "on_levels"]


class MovingStudent(nn.Module):
    """A student that explains an image by prototypes and a deformation.

    With inverse fields the image moves before the teacher sees it ("ppdm"), without
    them what the student rebuilds moves ("pdm").

    Parameters
    ----------
    deformer : Deformer or None
    distiller : Distiller
    """

    def __init__(self, deformer, distiller):
        super().__init__()
        self.deformer, self.distiller = deformer, distiller
        self.history = []  # the parts of the loss in each iteration of this process

    @classmethod
    def of(cls, deformer, distiller):
        """Return a new student from the parameters of its parts, two dicts."""
        moves = Deformer(**deformer) if deformer["scales"] else None
        return cls(moves, Distiller(**distiller))

    def fields(self, x):
        """Return fields and inverse fields, empty lists where there are none."""
        return ([], []) if self.deformer is None else self.deformer(x)

    def losses(self, x, teach, *, valid=None, maps=None, local=False):
        """Return all terms of the loss of a batch, by name.

        Parameters
        ----------
        x : Tensor of shape (b, 3, h, w)
        teach : callable
        valid : Tensor of shape (b, h, w), bool, or None
        maps : callable or None
            Gives what the teacher makes of ``x``, where that is known already.
        local : bool
            As in ``level_loss``.
        """
        (forth, back), losses = self.fields(x), {}
        if forth:
            losses["strength"] = strength(forth)
            losses["roughness"] = roughness([*forth, *back])
        if back:
            there = moved(x, forth)
            gap = (moved(there, back[::-1]) - x).square().mean(dim=1)
            losses["cycle"] = gap.mean() if valid is None else gap[valid].mean()
            valid = None if valid is None else _moved_mask(valid, forth)
            levels = teach(there)
        else:
            levels = maps() if maps else teach(x)
        masks = None if valid is None else on_levels(valid, levels)
        deepest = None if valid is None else masks[-1]
        found = self._rebuilt(levels, forth, back, deepest)
        targets, rebuilt, losses["codebook"] = found
        losses["reconstruction"] = level_loss(targets, rebuilt, masks, local=local)
        return losses

    def parts(self, x, teach, join, valid=None):
        """Return error and size of the deformation at each pixel of images.

        Parameters
        ----------
        x : Tensor of shape (b, 3, h, w)
        teach : callable
        join : callable
            ``join(levels, size)`` brings levels (b, 1, h_l, w_l) to one size and
            returns them side by side, (b, l, h, w).
        valid : Tensor of shape (b, h, w), bool, or None
            Pixels that count: no other place adds to an error.

        Returns
        -------
        error, size : Tensor of shape (b, 1, h, w)
            In the coordinates of the images as they came.
        """
        forth, back = self.fields(x)
        levels = teach(moved(x, forth) if back else x)
        targets, rebuilt, _ = self._rebuilt(levels, forth, back)
        if back and valid is not None:
            valid = _moved_mask(valid, forth)
        error = _joined(level_distances(targets, rebuilt), valid, join, x.shape[-2:])
        error, size = moved(error, back[::-1]), zeros_like(error)
        for i, field in enumerate(back or forth):
            # A finer inverse field stands where the coarser ones bring it back from.
            size = size + moved(magnitude(field), back[:i][::-1])
        return error, size

    def _rebuilt(self, levels, forth, back, valid=None):
        """Return the teacher's levels, the student's, and the codebook's loss."""
        targets = self.distiller.scaled(levels)
        rebuilt, loss = self.distiller(targets, valid)
        rebuilt = [level.float() for level in rebuilt]
        if forth and not back:
            rebuilt = [moved(level, _resized(forth, level)) for level in rebuilt]
        return targets, rebuilt, loss


def _joined(distances, valid, join, size):
    """Return the sum over levels of their errors (b, 1, h, w), from valid cells alone.

    A pixel near which a level has no valid cell takes the mean of its other levels.
    """
    if valid is None:
        return join(distances, size).sum(1, keepdim=True)
    masks = [mask.float() for mask in on_levels(valid, distances)]
    total = join([d * m for d, m in zip(distances, masks)], size)
    share = join(masks, size).clamp_min(0)
    seen = share > 1e-3
    mean = torch.where(seen, total / share.clamp_min(1e-3), 0).sum(1, keepdim=True)
    return mean * len(distances) / seen.sum(1, keepdim=True).clamp_min(1)


def _resized(fields, like):
    return [interpolate(field, like.shape[-2:], mode="area") for field in fields]


def _moved_mask(valid, fields):
    """Return where moved images show valid pixels."""
    return moved(valid[:, None].float(), fields)[:, 0] >= 0.5


def on_levels(valid, levels):
    """Return for each level which of its places are mostly valid.

    Of an image of which none is, as of a thin part, those that are valid most.
    """
    share, out = valid[:, None].float(), []
    for level in levels:
        cells = interpolate(share, level.shape[-2:], mode="area")
        most = cells.amax((2, 3), keepdim=True)
        out.append((cells >= most.clamp_max(0.5)) & (cells > 0))
    return out
