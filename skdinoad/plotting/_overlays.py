"""Overlays of heat maps on images, as arrays and as files."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from skdinoad._inputs.files import unique_names
from skdinoad._inputs.images import as_shown
from skdinoad._typing import FilePath, ImagesLike
from skdinoad.plotting._shared import check_lengths, exactly

__all__ = ["overlay_map", "save_maps"]


def overlay_map(
    image: np.ndarray,
    heat: np.ndarray,
    *,
    limits: tuple[float, float],
    colormap: str = "inferno",
) -> np.ndarray:
    """Overlay a heat map on its image.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    heat : ndarray of shape (H, W)
        Anomaly map, higher = more anomalous.
    limits : (float, float)
        Map values at which the overlay is invisible and strongest. Use a detector's
        ``map_limits_``, which come from held-out normal images. With limits from each
        single map, good parts would also show strong colours.
    colormap : str
        Name of a matplotlib colormap.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        The overlay is more opaque where map values are higher.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.plotting import overlay_map
    >>> image = np.full((1, 2, 3), 100, dtype=np.uint8)
    >>> overlay_map(image, np.array([[0.0, 9.0]]), limits=(1, 5))[0].tolist()
    [[100, 100, 100], [222, 224, 152]]
    """
    low, high = limits
    if not low < high:
        raise ValueError(f"limits={limits!r}: expected (low, high), low < high.")
    share = np.clip((np.asarray(heat, np.float64) - low) / (high - low), 0, 1)
    color = matplotlib.colormaps[colormap](share)[..., :3] * 255
    cover = 0.8 * share[..., np.newaxis]
    return (image * (1 - cover) + color * cover).round().astype(np.uint8)


def save_maps(
    folder: FilePath,
    X: ImagesLike,
    maps: Iterable[np.ndarray],
    *,
    limits: tuple[float, float],
    names: np.ndarray | Sequence[Any] | None = None,
) -> list[Path]:
    """Save images with their heat maps overlaid as PNG files.

    Parameters
    ----------
    folder : str or path
        Created if it does not exist; files of the same name are replaced.
    X : array, list of images or paths
    maps : ndarray of shape (n, H, W), list or iterator of (H, W)
        Higher = more anomalous, as returned by ``predict_map`` for X. With
        ``iter_maps``, memory holds one batch at a time.
    limits : (float, float)
        As for :func:`overlay_map`: ``map_limits_`` of a detector or Pipeline.
    names : list of str or None
        File names without ".png". None uses the names of the image files, or row
        numbers for arrays. Repeated names get a number appended.

    Returns
    -------
    paths : list of Path

    Raises
    ------
    ValueError
        If the numbers or sizes of images and maps differ. If an iterator ends early,
        the files of its maps have already been written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skdinoad.plotting import save_maps
    >>> X, maps = np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros((2, 8, 8))
    >>> folder = tempfile.mkdtemp()
    >>> [path.name for path in save_maps(folder, X, maps, limits=(0, 1))]
    ['0.png', '1.png']
    """
    images = as_shown(X)
    check_lengths(len(images), maps=maps, names=names)
    stems = _stems(X) if names is None else [str(name) for name in names]
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"{stem}.png" for stem in unique_names(stems, set())]
    maps = exactly(len(images), maps)
    for i, (heat, image, path) in enumerate(zip(maps, images, paths)):
        if image.shape[:2] != np.shape(heat):
            raise ValueError(
                f"Row {i}: image {image.shape[:2]}, map {np.shape(heat)}; expected one "
                "shape. Pass the images that were passed to predict_map."
            )
        overlay = overlay_map(image[..., :3], heat, limits=limits)
        Image.fromarray(overlay).save(path)
    return paths


def _stems(X):
    files = [isinstance(item, (str, os.PathLike)) for item in X]
    return [
        Path(x).stem if file else str(i) for i, (x, file) in enumerate(zip(X, files))
    ]
