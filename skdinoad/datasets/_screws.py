"""Rendered screws with washers, in any pose."""

from typing import Literal

import cv2
import numpy as np

from skdinoad._inputs.estimators import drawing_by
from skdinoad._typing import RandomState

__all__ = ["SCREW_DEFECTS", "make_screws"]

SCREW_DEFECTS = ("no_washer", "shortened", "second_washer", "scratch")

#: Height and width of the canvas, on which the screw is drawn horizontally.
_CANVAS = (160, 420)
_AXIS = 80  # row of the screw's axis
_HEAD, _SHAFT, _TIP = (40, 80), (80, 340), 372  # columns
_WASHER, _SECOND, _SHORT = (82, 98), (200, 216), 290


def make_screws(
    n: int = 12,
    *,
    defect: Literal["no_washer", "shortened", "second_washer", "scratch"] | None = None,
    size: int = 256,
    random_state: RandomState = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Render screws with washers on a textured background, each in a random pose.

    Parameters
    ----------
    n : int
        Number of images.
    defect : {None, "no_washer", "shortened", "second_washer", "scratch"}
        None renders good parts.
    size : int
        Height and width of the images.
    random_state : int, RandomState or None
        Seed for pose (any angle; shift and scale vary by a few per cent), thread phase,
        background and noise.

    Returns
    -------
    X : ndarray of shape (n, size, size, 3), uint8
    masks : ndarray of shape (n, size, size), bool
        True at the defect, or at the expected position of a missing piece.

    Examples
    --------
    >>> from skdinoad.datasets import make_screws
    >>> X, masks = make_screws(2, defect="scratch", size=128)
    >>> X.shape, masks.any(axis=(1, 2)).tolist()
    ((2, 128, 128, 3), [True, True])
    """
    if defect is not None and defect not in SCREW_DEFECTS:
        raise ValueError(f"defect={defect!r}: expected None or one of {SCREW_DEFECTS}.")
    rng = drawing_by(random_state)
    pairs = [_render(defect, size, rng) for _ in range(n)]
    return np.stack([x for x, _ in pairs]), np.stack([m for _, m in pairs])


def _render(defect, size, rng):
    color, alpha, mask = _draw(defect, rng)
    pose = _random_pose(size, rng)
    ground = _ground(size, rng)
    color, alpha, mask = (
        cv2.warpAffine(layer, pose, (size, size), flags=cv2.INTER_AREA)
        for layer in (color, alpha, mask)
    )
    share = alpha[..., None] / 255.0
    image = ground * (1 - share) + color * share
    image += rng.normal(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask > 127


def _random_pose(size, rng):
    """Return the (2, 3) affine matrix from canvas to image."""
    height, width = _CANVAS
    zoom = 0.72 * size / width * rng.uniform(0.95, 1.05)
    shift = rng.uniform(-0.04, 0.04, 2) * size
    pose = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(0, 360), zoom)
    pose[:, 2] += size / 2 + shift - [width / 2, height / 2]
    return pose


def _ground(size, rng):
    """Return a background like grey cardboard, with soft spots of several sizes."""
    ground = np.full((size, size), 90.0)
    for cell, strength in ((4, 4), (16, 3)):
        noise = rng.normal(0, strength, (size // cell + 2, size // cell + 2))
        ground += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return ground[..., None] * np.array([1.0, 0.97, 0.9])


# -- drawing ------------------------------------------------------------------------


def _draw(defect, rng):
    """Draw one part; return colour (h, w, 3), alpha and defect mask (h, w)."""
    color = np.zeros((*_CANVAS, 3), np.float32)
    alpha = np.zeros(_CANVAS, np.uint8)
    end = _SHORT if defect == "shortened" else _SHAFT[1]
    tip = end + _TIP - _SHAFT[1]
    _bar(color, alpha, (_SHAFT[0], end), 22, 150)
    _thread(color, end, rng.uniform(0, 12))
    _point(color, alpha, end, tip)
    _bar(color, alpha, _HEAD, 46, 175)
    if defect != "no_washer":
        _bar(color, alpha, _WASHER, 60, 215)
    if defect == "second_washer":
        _bar(color, alpha, _SECOND, 60, 215)
    mask = _defect_mask(defect, tip)
    if defect == "scratch":
        _scratch(color, mask, rng)
    return color, alpha, mask


def _bar(color, alpha, columns, radius, gray):
    """Draw a cylinder from the side, bright along its axis and dark at its rims."""
    rows = slice(_AXIS - radius, _AXIS + radius)
    height = np.arange(-radius, radius)[:, None] / radius
    shade = gray * (0.45 + 0.55 * np.sqrt(1 - np.minimum(height**2, 1)))
    color[rows, slice(*columns)] = shade[..., None]
    alpha[rows, slice(*columns)] = 255


def _thread(color, end, phase):
    rows, columns = np.mgrid[_AXIS - 22 : _AXIS + 22, _SHAFT[0] : end]
    groove = np.sin(2 * np.pi * (columns + 0.25 * rows + phase) / 12)
    color[_AXIS - 22 : _AXIS + 22, _SHAFT[0] : end] *= (1 + 0.35 * groove)[..., None]


def _point(color, alpha, end, tip):
    corners = np.array([[end, _AXIS - 22], [tip, _AXIS], [end, _AXIS + 21]])
    cv2.fillConvexPoly(color, corners, (120, 120, 120))
    cv2.fillConvexPoly(alpha, corners, 255)


def _defect_mask(defect, tip):
    mask = np.zeros(_CANVAS, np.uint8)
    washer = {"no_washer": _WASHER, "second_washer": _SECOND}.get(defect)
    if washer:
        mask[_AXIS - 60 : _AXIS + 60, slice(*washer)] = 255
    if defect == "shortened":
        mask[_AXIS - 22 : _AXIS + 22, tip:_TIP] = 255
    return mask


def _scratch(color, mask, rng):
    start = np.array([rng.uniform(120, 220), _AXIS + rng.uniform(-14, 0)])
    stop = start + np.array([rng.uniform(50, 80), rng.uniform(6, 14)])
    ends = [tuple(int(v) for v in point) for point in (start, stop)]
    cv2.line(color, *ends, (250, 250, 250), 5)
    cv2.line(mask, *ends, 255, 9)
