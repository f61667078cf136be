"""DMAD's trained part: a deformer before or after a reverse distillation.

Liu, Chang, Zhang, Shan, Chen, "Diversity-Measurable Anomaly Detection", CVPR 2023,
arXiv 2303.05047, sections 3.2 to 3.4.

A teacher is a differentiable function from images (b, 3, h, w) to levels.
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
    """Student that explains an image by prototypes and a deformation.

    With inverse fields the image is warped before the teacher ("ppdm"); without them
    the student's reconstruction is warped ("pdm").

    Parameters
    ----------
    deformer : Deformer or None
    distiller : Distiller
    """

    def __init__(self, deformer, distiller):
        super().__init__()
        self.deformer, self.distiller = deformer, distiller
        self.history = []  # loss terms of each iteration in this process

    @classmethod
    def of(cls, deformer, distiller):
        """Return a new student from the parameters of its two parts, as dicts."""
        moves = Deformer(**deformer) if deformer["scales"] else None
        return cls(moves, Distiller(**distiller))

    def fields(self, x):
        """Return fields and inverse fields; the lists are empty if there are none."""
        return ([], []) if self.deformer is None else self.deformer(x)

    def losses(self, x, teach, *, valid=None, maps=None, local=False):
        """Return all terms of the loss of a batch, by name.

        Parameters
        ----------
        x : Tensor of shape (b, 3, h, w)
        teach : callable
        valid : Tensor of shape (b, h, w), bool, or None
        maps : callable or None
            Returns the teacher's levels of ``x``, if they are already known.
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
        """Return reconstruction error and size of the deformation at each pixel.

        Parameters
        ----------
        x : Tensor of shape (b, 3, h, w)
        teach : callable
        join : callable
            ``join(levels, size)`` resizes levels (b, 1, h_l, w_l) to one size and
            concatenates them to (b, l, h, w).
        valid : Tensor of shape (b, h, w), bool, or None
            Pixels to use; all others contribute to no error.

        Returns
        -------
        error, size : Tensor of shape (b, 1, h, w)
            In the coordinates of the input images.
        """
        forth, back = self.fields(x)
        levels = teach(moved(x, forth) if back else x)
        targets, rebuilt, _ = self._rebuilt(levels, forth, back)
        if back and valid is not None:
            valid = _moved_mask(valid, forth)
        error = _joined(level_distances(targets, rebuilt), valid, join, x.shape[-2:])
        error, size = moved(error, back[::-1]), zeros_like(error)
        for i, field in enumerate(back or forth):
            # A finer inverse field is in coordinates that the coarser ones undo.
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
    """Return the sum over levels of their errors (b, 1, h, w), from valid cells only.

    A pixel without valid cells nearby in one level uses the mean of its other levels.
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
    """Return the mask of valid pixels of warped images."""
    return moved(valid[:, None].float(), fields)[:, 0] >= 0.5


def on_levels(valid, levels):
    """Return, for each level, a mask of the places that are mostly valid.

    If an image has no such place, as for a thin part, its most valid places are used.
    """
    share, out = valid[:, None].float(), []
    for level in levels:
        cells = interpolate(share, level.shape[-2:], mode="area")
        most = cells.amax((2, 3), keepdim=True)
        out.append((cells >= most.clamp_max(0.5)) & (cells > 0))
    return out
