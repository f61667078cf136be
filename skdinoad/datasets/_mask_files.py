"""Read mask files of any image format as booleans."""

from pathlib import Path

import numpy as np
from PIL import Image

from skdinoad._inputs.files import read_file
from skdinoad._typing import FilePath

__all__ = ["read_mask"]

#: Formats with lossy compression.
_LOSSY = {"JPEG", "MPO", "JPEG2000", "AVIF"}

#: Lossy compression schemes inside TIFF files.
_LOSSY_INSIDE = {"jpeg", "tiff_jpeg", "webp"}


def read_mask(path: FilePath) -> np.ndarray:
    """Read a mask file as booleans.

    Parameters
    ----------
    path : str or path
        An image of one page. Black is background; every other colour, of 1 to 32 bits,
        marks a pixel. In lossy formats (JPEG, JPEG 2000, AVIF, lossy WebP) a marked
        pixel must be brighter than half of the maximum. If alpha varies, transparent
        pixels are background; if all visible pixels have one colour, they are marked,
        even if black.

    Returns
    -------
    ndarray of shape (H, W), bool
        True = anomalous. Rotated according to the EXIF orientation.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file does not exist, or is not an image, damaged, has several pages or
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
            "Is the mask inverted? If the whole image is defective, leave one pixel "
            "black."
        )
    return mask


def _marked(pixels, lossy):
    """Return the mask (H, W) of marked pixels (H, W, c), c = 1, 3, or 4 with alpha."""
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
    """Whether the first chunk with pixels is lossy; other chunks may precede it."""
    at = 12
    while (kind := data[at : at + 4]) not in (b"VP8 ", b"VP8L", b""):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return kind == b"VP8 "
