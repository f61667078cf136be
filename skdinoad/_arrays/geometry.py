"""Affine transformations of pixels, and resampling of images and score grids.

An affine is a float64 (3, 3) matrix that maps an output pixel (x, y, 1) to the input
pixel that it shows: x = column, y = row, pixel centres at integers, as in OpenCV.
Affines compose by ``@``: (aligned -> source) @ (patch -> aligned) = patch -> source.
"""

from functools import cache
from numbers import Integral

import cv2
import numpy as np
import torch

from skdinoad._compat.sklearn import Interval

__all__ = [
    "BORDERS",
    "EDGE",
    "check_angles",
    "field_in_pixels",
    "is_size",
    "pose_affine",
    "resize_affine",
    "rotated",
    "turn_affine",
    "warp",
    "warp_back",
    "warp_rgba",
]

BORDERS = {
    "wrap": cv2.BORDER_WRAP,
    "reflect": cv2.BORDER_REFLECT_101,
    "replicate": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
}


#: Allowed side of a resampled image in pixels: OpenCV uses 16-bit coordinates.
EDGE = Interval(Integral, 1, 2**15, closed="left")


def is_size(value) -> bool:
    """Return whether a value is a (height, width) of positive integers in pixels."""
    return len(value) == 2 and all(map(EDGE.is_satisfied_by, value))


def resize_affine(source_size: tuple, size: tuple) -> np.ndarray:
    """Return the affine of a resize that maps the whole image onto the whole image.

    Parameters
    ----------
    source_size, size : tuple of int
        (height, width) before and after.

    Returns
    -------
    affine : ndarray of shape (3, 3), float64
        Resized pixel -> source pixel. A patch grid is a resized image, too: with
        patches of 14 pixels the centre of patch k is at 14 k + 6.5.

    Examples
    --------
    >>> from skdinoad._arrays.geometry import resize_affine
    >>> resize_affine((28, 42), (2, 3))
    array([[14. ,  0. ,  6.5],
           [ 0. , 14. ,  6.5],
           [ 0. ,  0. ,  1. ]])
    """
    ys, xs = np.divide(source_size, size)
    return np.array([[xs, 0, (xs - 1) / 2], [0, ys, (ys - 1) / 2], [0, 0, 1.0]])


def pose_affine(centre, angle: float, zoom: float, size: tuple) -> np.ndarray:
    """Return the affine that centres, rotates and zooms around a source point.

    Parameters
    ----------
    centre : array-like of shape (2,)
        (x, y) of the source point that is in the middle of the output.
    angle : float
        Angle in radians from the source's x axis towards its y axis; this direction
        becomes the output's x axis.
    zoom : float
        Output pixels per source pixel.
    size : tuple of int
        (height, width) of the output.

    Returns
    -------
    affine : ndarray of shape (3, 3), float64
        Output pixel -> source pixel.

    Examples
    --------
    >>> from skdinoad._arrays.geometry import pose_affine
    >>> pose_affine((10, 20), angle=0, zoom=2, size=(5, 5)) @ [2, 2, 1]
    array([10., 20.,  1.])
    """
    height, width = size
    to_middle = [[1, 0, (1 - width) / 2], [0, 1, (1 - height) / 2], [0, 0, 1]]
    c, s = np.cos(angle) / zoom, np.sin(angle) / zoom
    turn = [[c, -s, centre[0]], [s, c, centre[1]], [0, 0, 1]]
    return np.array(turn) @ np.array(to_middle)


def turn_affine(size: tuple, *, mirror: bool = False) -> np.ndarray:
    """Return the affine of a rotation by 180 degrees, or of a left-right flip."""
    height, width = size
    row = [0, 1, 0] if mirror else [0, -1, height - 1]
    return np.array([[-1, 0, width - 1], row, [0, 0, 1]], dtype=np.float64)


def check_angles(angles) -> tuple:
    """Return distinct angles in degrees, 0 first, each in [0, 360)."""
    try:
        given = np.asarray(angles, float)
    except (TypeError, ValueError):
        given = np.array([np.nan])
    if given.ndim != 1 or not np.isfinite(given).all():
        raise ValueError(
            f"rotations={angles!r}: expected angles in degrees, such as (0, 90, 180, "
            "270), or 'auto', 'agnostic', 'informed', 'none'."
        )
    return tuple(dict.fromkeys((0.0, *(given % 360).tolist())))


def rotated(image, angle: float, *, black=False) -> np.ndarray:
    """Return an image rotated about its middle on its own canvas.

    Parameters
    ----------
    image : ndarray of shape (H, W, channels), uint8
    angle : float
        Degrees, counter-clockwise.
    black : bool
        Whether to fill the corners with 0 and sample the nearest pixel, as the
        official code of SubspaceAD does. Otherwise the image is mirrored at its
        edges, and sampling is bilinear.

    Returns
    -------
    ndarray of shape (H, W, channels), uint8

    Notes
    -----
    The pivot is (W / 2, H / 2), half a pixel from the middle, as in the official code
    of AnomalyDINO; with ``black`` it is the middle.
    """
    height, width = image.shape[:2]
    if black:
        middle = (width - 1) / 2, (height - 1) / 2
        matrix = cv2.getRotationMatrix2D(middle, angle, 1)
        return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_NEAREST)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    border = BORDERS["reflect"]
    return cv2.warpAffine(image, matrix, (width, height), borderMode=border)


def warp(image, affine, size, *, border="replicate", nearest=False) -> np.ndarray:
    """Resample an image by an affine.

    Parameters
    ----------
    image : ndarray of shape (H, W) or (H, W, channels), uint8 or float32
    affine : ndarray of shape (3, 3)
        Output pixel -> pixel of ``image``.
    size : tuple of int
        (height, width) of the output.
    border : {"wrap", "reflect", "replicate", "constant"}
        How pixels outside the image are filled ("constant" is 0).
    nearest : bool
        Nearest instead of bilinear sampling.

    Returns
    -------
    ndarray of shape (height, width[, channels])
        If the image shrinks more than twofold, it is averaged first to avoid aliasing.
    """
    shrink = np.sqrt(abs(np.linalg.det(affine[:2, :2])))
    if shrink > 2 and not nearest:
        height, width = image.shape[:2]
        small = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        to_small = np.linalg.inv(resize_affine((height, width), small))
        image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
        affine = to_small @ affine
    sampling = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(
        image,
        affine[:2],
        size[::-1],
        flags=sampling | cv2.WARP_INVERSE_MAP,
        borderMode=BORDERS[border],
    )


def warp_rgba(image, affine, size, *, border) -> np.ndarray:
    """Resample an image by an affine; alpha is 255 where a valid pixel is shown.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3) or (H, W, 4), uint8
    affine : ndarray of shape (3, 3)
        Output pixel -> pixel of ``image``.
    size : tuple of int
        (height, width) of the output.
    border : {"wrap", "reflect", "replicate", "constant"}
        How pixels outside the image are coloured; their alpha is 0.

    Returns
    -------
    ndarray of shape (height, width, 4), uint8
    """
    valid = np.full(image.shape[:2], 255, np.uint8)
    if image.shape[-1] == 4:
        valid = np.where(image[..., 3] >= 128, valid, 0).astype(np.uint8)
    color = np.ascontiguousarray(image[..., :3])
    alpha = warp(valid, affine, size, border="constant", nearest=True)
    return np.dstack([warp(color, affine, size, border=border), alpha])


def field_in_pixels(fields, size) -> np.ndarray:
    """Return offset fields in pixels of an image.

    Parameters
    ----------
    fields : ndarray of shape (k, 2, h, w), float32
        Offsets (x, y) in units of half the image's width and height.
    size : tuple of int
        (H, W) of the image.

    Returns
    -------
    ndarray of shape (k, H, W, 2), float32
    """
    whole = np.array(size[::-1], np.float32)
    unit = (whole - whole / fields.shape[:1:-1]) / 2  # outer pixels are at +-1
    large = [cv2.resize(np.moveaxis(field, 0, -1), size[::-1]) for field in fields]
    return np.stack(large) * unit


def warp_back(grid, affine, size, *, margin=0.5) -> np.ndarray:
    """Resample a grid of scores to the image from which it was computed.

    Parameters
    ----------
    grid : ndarray of shape (h, w), float
        Scores; NaN = invalid cell.
    affine : ndarray of shape (3, 3)
        Grid index -> source pixel.
    size : tuple of int
        (H, W) of the source image.
    margin : float
        Distance from the centres of the outer cells, in cells, up to which a pixel
        belongs to the grid; 0.5 is the edge of the outer cells.

    Returns
    -------
    ndarray of shape (H, W), float32
        Bilinear between cell centres, constant beyond the outer ones. A pixel is 0 if
        the grid does not cover it, or if mostly invalid cells surround it.

    Notes
    -----
    Sampling is exact. OpenCV before version 5 rounds positions to 1/32 of a cell, which
    gives visible steps if a cell is 14 pixels wide; torch samples in this case. At most
    one other array of the size of the result is in memory.
    """
    grid = np.asarray(grid, np.float32)
    to_grid = np.linalg.inv(affine)
    if not to_grid[0, 1] and not to_grid[1, 0]:
        return _enlarged_back(grid, to_grid, size, margin)
    if is_size(size) and _opencv_is_exact():
        return _turned_back(grid, to_grid, size, margin)
    out = np.empty(size, np.float32)
    for rows in _strips(size):
        strip = rows.start, rows.stop, size[1]
        out[rows] = _strip_back(grid, to_grid, *strip, margin)
    return out


#: Pixels processed at a time if an affine rotates, which bounds the memory.
_STRIP = 2**18


def _strips(size):
    """Yield slices of the rows of an image."""
    rows = max(1, _STRIP // size[1])
    for start in range(0, size[0], rows):
        yield slice(start, min(start + rows, size[0]))


def _enlarged_back(grid, to_grid, size, margin):
    """Resample a grid that was only scaled and shifted, one axis after the other."""
    parts = [
        _lines(n, cells, to_grid[k, k], to_grid[k, 2], margin)
        for n, cells, k in zip(size, grid.shape, (1, 0))
    ]
    (*rows, in_rows), (*columns, in_columns) = parts
    valid = np.isfinite(grid)
    out = _enlarged(np.where(valid, grid, np.float32(0)), rows, columns)
    if not valid.all():
        _weigh(out, _enlarged(valid.astype(np.float32), rows, columns))
    out[~in_rows] = 0
    out[:, ~in_columns] = 0
    return out


def _enlarged(grid, rows, columns):
    """Interpolate a grid at the positions from ``_lines``."""
    wide = _between(grid, *columns)
    steps = np.diff(wide, axis=0, append=wide[-1:])
    first, share = rows[0], rows[1][:, None]
    out = np.empty((len(first), wide.shape[1]), np.float32)
    # Rows between the same two cells are computed together, so that each is written
    # only once. A matrix product would use threads that compete with those of torch.
    ends = np.flatnonzero(np.diff(first, append=-1)) + 1
    for start, stop in zip([0, *ends], ends):
        part, above = out[start:stop], first[start]
        np.multiply(share[start:stop], steps[above], out=part)
        part += wide[above]
    return out


def _between(grid, first, share):
    """Interpolate the columns of a grid."""
    second = np.minimum(first + 1, grid.shape[1] - 1)
    # take, unlike an index, keeps the pixels of a row contiguous.
    return grid.take(first, 1) * (1 - share) + grid.take(second, 1) * share


def _weigh(out, weight):
    """Divide sums by the weight of what is valid in them; below a half they are 0."""
    trusted = weight >= 0.5
    np.divide(out, weight, out=out, where=trusted)
    out[~trusted] = 0


def _lines(n, cells, scale, shift, margin):
    """Return where n pixels lie along an axis of cells.

    The cell before each pixel, how far it is on its way to the next one, 0 to 1, and
    whether the grid covers it.
    """
    position = scale * np.arange(n) + shift
    inside = (position >= -margin) & (position <= cells - 1 + margin)
    position = position.clip(0, cells - 1)
    first = np.minimum(position.astype(int), max(0, cells - 2))
    return first, (position - first).astype(np.float32), inside


def _turned_back(grid, to_grid, size, margin):
    """Carry a grid home that was turned, by an OpenCV that samples exactly."""
    valid = np.isfinite(grid)
    out = _sampled(np.where(valid, grid, np.float32(0)), to_grid, size)
    if not valid.all():
        weight = _sampled(valid.astype(np.float32), to_grid, size)
        for rows in _strips(size):
            _weigh(out[rows], weight[rows])
    for row, first, stop in zip(out, *_covered(to_grid, grid.shape, size, margin)):
        row[:first] = 0
        row[stop:] = 0
    return out


def _sampled(grid, to_grid, size):
    return cv2.warpAffine(
        grid,
        to_grid[:2],
        size[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


@cache
def _opencv_is_exact():
    """Whether OpenCV finds the values of a ramp, or only those of each 1/32 cell."""
    to_grid = np.array([[0.01, 0.001, 0.3], [-0.001, 0.01, 0.2], [0, 0, 1]])
    ramp = np.tile(np.arange(3, dtype=np.float32), (3, 1))
    y, x = np.mgrid[:64, :128]
    expected = 0.01 * x + 0.001 * y + 0.3
    return np.abs(_sampled(ramp, to_grid, x.shape) - expected).max() < 1e-5


def _covered(to_grid, cells, size, margin):
    """Return the first column of each row that a grid covers, and the first behind."""
    rows, edges = np.arange(size[0]), []
    for (a, b, c), n in zip(to_grid[:2], cells[::-1]):
        # What lies on an edge belongs to the grid, however its position was rounded.
        limits = np.array([[-margin - 1e-6], [n - 1 + margin + 1e-6]])
        with np.errstate(divide="ignore"):  # a row along the edge: all of it, or none
            edges.append(np.sort((limits - (b * rows + c)) / a, axis=0))
    (first, other_first), (last, other_last) = zip(*edges)
    first = np.ceil(np.maximum(first, other_first)).clip(0, size[1])
    stop = np.floor(np.minimum(last, other_last)).clip(-1, size[1] - 1) + 1
    return first.astype(int).tolist(), stop.astype(int).tolist()


def _strip_back(grid, to_grid, start, stop, width, margin):
    """Carry a grid home to the rows start to stop of an image."""
    h, w = grid.shape
    x, y = _grid_positions(to_grid, start, stop, width)
    valid = np.isfinite(grid)
    layers = [np.where(valid, grid, np.float32(0))]
    layers += [] if valid.all() else [valid.astype(np.float32)]
    position = torch.empty((*x.shape, 2))
    for k, (line, cells) in enumerate(((x, w), (y, h))):
        torch.mul(line, 2 / max(cells - 1, 1), out=position[..., k]).sub_(1)
    total, *weight = torch.nn.functional.grid_sample(
        torch.from_numpy(np.stack(layers))[None],
        position[None],
        padding_mode="border",
        align_corners=True,
    )[0]
    trusted = (x >= -margin) & (x <= w - 1 + margin)
    trusted &= (y >= -margin) & (y <= h - 1 + margin)
    if weight:
        trusted &= weight[0] >= 0.5
        total = total / weight[0].clamp_min(0.5)
    return torch.where(trusted, total, 0).numpy()


def _grid_positions(to_grid, start, stop, width):
    """Return the grid coordinates (x, y) of pixels, two (rows, width) tensors."""
    rows = torch.arange(start, stop, dtype=torch.float64)[:, None]
    columns = torch.arange(width, dtype=torch.float64)[None]
    (a, b, c), (d, e, f) = to_grid[:2]
    parts = (a * columns, b * rows + c), (d * columns, e * rows + f)
    return [along.float() + across.float() for along, across in parts]
