"""Mask files: which pixels are marked, however the file was saved."""

from pathlib import Path

import numpy as np
from PIL import Image

from skdinoad._inputs.files import read_file
from skdinoad._typing import FilePath

__all__ = ["read_mask"]

#: Formats that change colours a little where they save.
_LOSSY = {"JPEG", "MPO", "JPEG2000", "AVIF"}

#: The same inside of TIFF files.
_LOSSY_INSIDE = {"jpeg", "tiff_jpeg", "webp"}


def read_mask(path: FilePath) -> np.ndarray:
    """Read a mask file as booleans.

    Parameters
    ----------
    path : str or path
        An image of one page. Black is background; every other colour, of 1 to 32 bits,
        marks a pixel. In formats that lose detail (JPEG, JPEG 2000, AVIF, lossy WebP)
        a pixel must be brighter than half of the brightest. Where alpha varies, what
        cannot be seen is background, and if all that can be seen has one colour, that
        colour marks, black included.

    Returns
    -------
    ndarray of shape (H, W), bool
        True = anomalous. Upright, as the file's EXIF data say.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is no image, damaged, of several pages, or
        marks every pixel.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from skdinoad.datasets import read_mask
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("RGB", (4, 2)).save(file.name)
    ...     bool(read_mask(file.name).any())
    False
    """
    path = Path(path)
    name = f"The mask {str(path)!r}"
    pixels = read_file(path, name)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if np.isnan(pixels).any():
        raise ValueError(f"{name} holds NaN; expected 0 where nothing is anomalous.")
    mask = _marked(pixels, _is_lossy(path))
    if mask.all():
        raise ValueError(
            f"{name} marks every pixel; expected black (0) where nothing is anomalous. "
            "Are its colours swapped? If all of the image is defective, leave one "
            "pixel black."
        )
    return mask


def _marked(pixels, lossy):
    """Return which pixels (H, W, c) are marked, c = 1, 3, or 4 with alpha."""
    colours, visible = pixels[..., :3], np.ones(pixels.shape[:2], bool)
    alpha = pixels[..., 3] if pixels.shape[-1] == 4 else visible
    if alpha.min() < alpha.max():
        visible, seen = alpha > 0, colours[alpha > 0]
        if (seen == seen[0]).all():
            return alpha > alpha.min()
    if not lossy:
        return visible & colours.any(axis=-1)
    value = colours.max(axis=-1)
    return visible & (value > value.max() / 2)


def _is_lossy(path):
    with Image.open(path) as image:
        if image.format == "WEBP":
            return _is_lossy_webp(path.read_bytes())
        inside = image.info.get("compression")
        return image.format in _LOSSY or inside in _LOSSY_INSIDE


def _is_lossy_webp(data):
    """Whether the first chunk with pixels is a lossy one; others may come before."""
    at = 12
    while (kind := data[at : at + 4]) not in (b"VP8 ", b"VP8L", b""):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return kind == b"VP8 "
