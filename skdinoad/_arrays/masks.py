"""Foreground masks from patch features: which patches show the object."""

import cv2
import numpy as np
import torch

from skdinoad._compat.caller import warn

__all__ = [
    "MASKED",
    "UNMASKED",
    "foreground",
    "mask_statistics",
    "masking_helps",
    "median_of",
    "warn_of_empty_masks",
    "with_alpha",
    "without_ground",
]

#: Categories of MVTec AD and VisA that AnomalyDINO's official code masks.
MASKED = {"capsule", "hazelnut", "pill", "screw", "toothbrush"} | {
    *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1"),
    *("macaroni2", "pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
}

#: Categories that it does not mask.
UNMASKED = {
    *("bottle", "cable", "metal_nut", "transistor", "zipper"),
    *("carpet", "grid", "leather", "tile", "wood"),
}

#: The "relative" threshold, in median token norms. It equals 10 for genuine DINOv2
#: ViT-S/14, whose tokens have norms of 38 to 45 after the final LayerNorm.
_RELATIVE = 0.24


def foreground(grid, threshold="relative", morphology="grid") -> np.ndarray:
    """Return which patches show the object, by their first principal component.

    Parameters
    ----------
    grid : ndarray of shape (h, w, c), float32
        Patch features of one image, not normalised; NaN = invalid.
    threshold : float or "relative"
        A patch is foreground if its score on the component exceeds this: an absolute
        number, or 0.24 times the median length of the tokens.
    morphology : {"grid", "raster"}
        How the mask is dilated and closed with a 3 x 3 square. "raster" processes the
        flattened mask, as the official code does: along rows only, and from the end of
        a row to the start of the next.

    Returns
    -------
    mask : ndarray of shape (h, w), bool
        False where invalid.

    Notes
    -----
    The sign of a component is arbitrary: the side that covers more of the image's
    centre is the object. The eigenvector is exact, so the mask is deterministic.
    """
    valid = np.isfinite(grid).all(-1)
    mask = np.zeros(valid.shape, bool)
    if not valid.any():
        return mask
    tokens = grid[valid]
    if threshold == "relative":
        threshold = _RELATIVE * np.median(np.linalg.norm(tokens, axis=1))
    score = np.zeros(valid.shape, np.float32)
    score[valid] = _first_component(tokens)
    # The sign from the solver is arbitrary: the side with the larger coverage of the
    # centre is chosen, then the side with the larger coverage.
    mask = max(score > threshold, -score > threshold, key=_coverage)
    return _grown(mask, morphology) & valid


def _first_component(tokens):
    """Return the score of each token on the first principal component."""
    # torch, because alternating between the threads of two libraries is slow.
    centred = torch.from_numpy(tokens - tokens.mean(0))
    if len(tokens) < tokens.shape[1]:  # eigenvectors of the Gram matrix are scores
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        return (vectors[:, -1] * values[-1].clamp_min(0).sqrt()).numpy()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return (centred @ vectors[:, -1]).numpy()


def _coverage(mask):
    return mask[_centre(mask.shape)].mean(), mask.mean()


def _centre(shape):
    return tuple(
        slice(int(0.2 * n), max(int(0.8 * n), int(0.2 * n) + 1)) for n in shape
    )


def _grown(mask, morphology):
    """Dilate, then close."""
    shape = mask.shape if morphology == "grid" else (-1, 1)
    kernel = np.ones((3, 3), np.uint8)
    grown = cv2.dilate(mask.astype(np.uint8).reshape(shape), kernel)
    grown = cv2.morphologyEx(grown, cv2.MORPH_CLOSE, kernel)
    return grown.reshape(mask.shape) > 0


def mask_statistics(grid, mask) -> dict:
    """Return statistics of a mask.

    Parameters
    ----------
    grid : ndarray of shape (h, w, c), float32
        Patch features; NaN = invalid.
    mask : ndarray of shape (h, w), bool

    Returns
    -------
    dict
        "total", "centre" and "border": the shares of the grid, of its central part
        and of its outermost ring that the mask covers. "separation": the share of the
        features' variance between the two sides of the mask.
    """
    ring = np.ones(mask.shape, bool)
    ring[1:-1, 1:-1] = False
    return {
        "total": float(mask.mean()),
        "centre": float(mask[_centre(mask.shape)].mean()),
        "border": float(mask[ring].mean()),
        "separation": _separation(grid, mask),
    }


def _separation(grid, mask):
    valid = np.isfinite(grid).all(-1)
    tokens, inside = grid[valid], mask[valid]
    if inside.all() or not inside.any():
        return 0.0
    tokens = tokens - tokens.mean(0)
    sides = [tokens[inside], tokens[~inside]]
    between = sum(len(side) * np.square(side.mean(0)).sum() for side in sides)
    return float(between / max(np.square(tokens).sum(), np.finfo(np.float32).tiny))


def median_of(statistics) -> dict:
    """Return the medians of several images' :func:`mask_statistics`."""
    return {k: float(np.median([s[k] for s in statistics])) for k in statistics[0]}


def masking_helps(statistics) -> bool:
    """Return whether masks look like one object in the middle of a background.

    Parameters
    ----------
    statistics : dict
        From :func:`mask_statistics`, or medians over reference images.

    Notes
    -----
    In the paper a person judges one reference image. The bounds on the shares are our
    choice. The bound on the separation lies between objects (at least 0.27) and
    textures or surfaces (at most 0.15): medians over the good training images of six
    categories of the benchmarks, at 224 to 448 pixels.
    """
    one_object = statistics["centre"] >= 0.35 and statistics["border"] <= 0.2
    some_ground = 0.05 <= statistics["total"] <= 0.7
    return one_object and some_ground and statistics["separation"] >= 0.2


def with_alpha(image) -> np.ndarray:
    """Return a copy of an image (H, W, 3 or 4), uint8, with an alpha channel."""
    if image.shape[-1] == 4:
        return image.copy()
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


def without_ground(grid, mask) -> np.ndarray:
    """Return features with NaN outside the mask, unchanged if the mask is empty."""
    keep = mask.reshape(*mask.shape, *[1] * (grid.ndim - 2))
    return np.where(keep | ~mask.any(), grid, np.float32(np.nan))


def warn_of_empty_masks(names, n):
    """Warn about those of n images that have an empty mask and are scored whole."""
    if names:
        warn(
            f"The foreground mask of {len(names)} of {n} images is empty; they are "
            f"scored without a mask: {', '.join(names[:9])}. Pass masking=None to "
            "disable masks.",
            UserWarning,
        )
