"""Distinguish and validate the two forms of X: images or grids of patch features."""

import numpy as np

from skdinoad._inputs.images import Images

__all__ = [
    "check_channels",
    "check_grids",
    "check_patches",
    "empty_grids",
    "holds_images",
    "name_of",
    "nothing_valid",
    "path_of",
    "size_of",
    "with_layers_apart",
]

#: Distances are sums of squares in float32, which overflow at 3e38. Larger features
#: would give infinite distances and silently count as invalid patches.
_LARGEST = 1e15


def holds_images(X):
    """Whether X holds images (or paths) rather than grids of patch features."""
    if isinstance(X, np.ndarray) and X.dtype != object:
        return not (X.ndim in (4, 5) and len(X) and _is_grid(X[0]))
    if isinstance(X, (list, tuple, np.ndarray)) and len(X):
        return not (isinstance(X[0], np.ndarray) and _is_grid(X[0]))
    return True


def _is_grid(item):
    """Whether one item is a grid of features, not a channels-first image."""
    if item.ndim == 4 and item.dtype.kind == "f":
        return True  # separate layers (h, w, l, c)
    if item.ndim != 3 or item.dtype.kind != "f" or item.shape[-1] <= 4:
        return False
    channels_first = item.shape[0] in (1, 3, 4) and min(item.shape[1:]) >= 16
    return not channels_first or bool((item < 0).any())  # pixels are never negative


def check_grids(X):
    if X is None or len(X) == 0:
        raise ValueError("X is empty: 0 samples; expected features (n, h, w, c).")
    for row, grid in enumerate(X):
        if isinstance(grid, np.ma.MaskedArray):
            raise TypeError(
                f"X[{row}] is a masked array, whose mask would be lost: pass "
                "X.filled(np.nan), so that invalid patches are NaN."
            )
        if not _is_usable(grid):
            raise ValueError(
                f"X[{row}] {_described(grid)}; expected float features (h, w, c), or "
                "(h, w, l, c) with separate layers, within "
                f"+-{_LARGEST:.0e}, or NaN for invalid patches."
            )
    return X


def check_patches(grid, ndims=(3,)):
    """Raise an error if the features of an image are not a grid of patches."""
    if grid.ndim not in ndims or grid.dtype.kind != "f":
        raise ValueError(
            f"The features of an image have shape {grid.shape}, dtype {grid.dtype};"
            " expected float (h, w, c). Is features= an extractor of patches?"
        )


def with_layers_apart(F, n):
    """Return feature grids (h, w, l * c) as (h, w, l, c), others as they are."""
    if isinstance(F, np.ndarray) and F.dtype != object:
        return F.reshape(len(F), *_apart(F.shape[1:], n))
    grids = [np.asarray(grid) for grid in F]
    return [grid.reshape(_apart(grid.shape, n)) for grid in grids]


def _apart(shape, n):
    if len(shape) != 3 or shape[2] % n:
        return shape
    return (*shape[:2], n, shape[2] // n)


def check_channels(X):
    """Raise an error if the grids differ in their number of layers or channels."""
    for row, grid in enumerate(X):
        if grid.shape[2:] != X[0].shape[2:]:
            raise ValueError(
                f"X[{row}] has shape {grid.shape}, X[0] {X[0].shape}: expected the "
                "same channels. Use one extractor for all images."
            )


def _is_usable(grid):
    array = isinstance(grid, np.ndarray) and grid.dtype.kind == "f" and grid.size
    return array and grid.ndim in (3, 4) and not _largest(grid) > _LARGEST


def _largest(grid):
    """Return the largest absolute value, ignoring NaN."""
    return float(np.fmax.reduce(np.abs(grid), axis=None))


def _described(grid):
    if not isinstance(grid, np.ndarray):
        return f"is a {type(grid).__name__}"
    numbers = grid.dtype.kind == "f" and grid.size
    largest = f", numbers up to {_largest(grid):.2g}" if numbers else ""
    return f"has shape {grid.shape}, dtype {grid.dtype}{largest}"


def nothing_valid(X, row):
    """Return the error for an image without any patch that can be scored."""
    return ValueError(
        f"{name_of(X, row)} has no valid patch where the training images have one, so "
        "it cannot be scored. Check its alpha channel and alignment."
    )


def name_of(X, row):
    """Return the name of row ``row`` of X in messages."""
    return X.name(row) if isinstance(X, Images) else f"X[{row}]"


def path_of(X, row):
    """Return the path of row ``row`` of X as a string, or None for an array."""
    return X.path(row) if isinstance(X, Images) else None


def size_of(X, row):
    """Return (H, W) of an image or (h, w) of a grid."""
    return X.size(row) if isinstance(X, Images) else X[row].shape[:2]


def empty_grids(n, shape):
    """Return an uninitialised array for n grids (h, w, c) or (h, w, l, c).

    Memory order is ([l,] h, w, n, c), so that detectors with one memory bank per
    location need no second copy.
    """
    h, w, *layers, c = shape
    stored = np.empty((*layers, h, w, n, c), np.float32)
    return stored.transpose((3, 1, 2, 0, 4) if layers else (2, 0, 1, 3))
