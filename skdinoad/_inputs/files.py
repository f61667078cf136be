"""Read image files completely, upright and with full bit depth, or raise an error.

Also chooses unique names for output files.
"""

import io
import os
import re
import stat
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image, ImageOps

__all__ = [
    "file_size",
    "from_pillow",
    "is_address",
    "pillow_size",
    "read_bytes",
    "read_file",
    "unique_names",
]

#: EXIF tag of the camera orientation.
_ORIENTATION = 0x0112

#: Multi-frame formats whose first frame is the complete picture; the other frames are
#: previews (MPO) or layers (PSD).
_FIRST_IS_THE_PICTURE = {"MPO", "PSD"}

#: Formats that Pillow decodes to 8 bits without reporting a higher bit depth.
_SILENT = {"JPEG2000", "AVIF"}

#: Formats accepted from bytes, which may be untrusted: those that the data set loaders
#: look for (a JPEG may be an MPO). For some others Pillow would run Ghostscript.
_OF_STRANGERS = (
    *("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "TGA", "PPM"),
    *("JPEG2000", "AVIF"),
)

#: Start of an fsspec address; Windows drives have one letter and do not match.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+(://|::)", re.IGNORECASE)

#: Pixel modes whose channel order in OpenCV is known.
_MODES = ("L", "LA", "RGB", "RGBA", "I")


def read_file(path, name) -> np.ndarray:
    """Return the pixels of an image file, rotated according to its EXIF orientation.

    Parameters
    ----------
    path : str or path
        A file, or an fsspec address such as "s3://bucket/0.png". From addresses only
        the formats that the data set loaders look for are read.
    name : str
        Name of the image in messages.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3) or (H, W, 4)
        uint8; uint16 if the file has more than 8 bits; or the values of a 32-bit
        integer or float file. The fourth channel is alpha.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file does not exist, or is not an image, damaged, too large, has several
        pages, or cannot be read with its full bit depth.
    RuntimeError
        If the remote store of an address fails or denies access. The image itself may
        be intact, so this is not a ValueError.
    ImportError
        If fsspec, or the package it needs for such an address, is missing.
    """
    if is_address(path):
        return read_bytes(_fetched(path, name), name)
    _refuse_odd_files(path, name)
    return _read(path, name)


def read_bytes(content, name) -> np.ndarray:
    """Return the pixels of an encoded image in memory, like :func:`read_file`.

    Only the formats that the data set loaders look for are accepted.
    """
    if not content:
        raise ValueError(f"{name} cannot be read as an image: there are no bytes.")
    return _read(_Content(content), name, _OF_STRANGERS)


class _Content(io.BytesIO):
    def __repr__(self):  # part of Pillow's error messages
        return f"of {len(self.getvalue())} bytes"


def _read(source, name, formats=None):
    # Pillow instead of OpenCV: OpenCV silently fills the missing part of a truncated
    # file with grey, so a damaged photograph would be scored without an error.
    with _opened(source, name, formats) as image:
        deep = None
        if _has_lost_bits(image) or image.format in _SILENT:
            deep = _read_deep(image, source, name)
        return from_pillow(image, name) if deep is None else deep


def file_size(path, name) -> tuple:
    """Return (H, W) of an image file, reading only its header.

    A file at an address is downloaded completely.
    """
    if is_address(path):
        return read_file(path, name).shape[:2]
    _refuse_odd_files(path, name)
    with _opened(path, name) as image, _damage_named(name):
        return pillow_size(image)


def from_pillow(image, name) -> np.ndarray:
    """Return the pixels of a Pillow image, like :func:`read_file` for a file."""
    _refuse_pages(image, name)
    if _has_lost_bits(image) and not image.mode.startswith("I"):
        raise ValueError(
            f"{name} has more than 8 bits per channel, but Pillow returns only 8: pass "
            "its path instead of the opened image."
        )
    with _damage_named(name):
        image.load()
        image = ImageOps.exif_transpose(image)
        if not image.mode.startswith(("I", "F")):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        return np.asarray(image)


def pillow_size(image) -> tuple:
    """Return (H, W) of a Pillow image after rotation to upright."""
    if image.getexif().get(_ORIENTATION) not in (5, 6, 7, 8):
        return image.size[::-1]
    # For TIFF files some versions of Pillow swap the size and others do not.
    tags = getattr(image, "tag_v2", {})
    return tags.get(256, image.width), tags.get(257, image.height)


# -- addresses ----------------------------------------------------------------------


def is_address(path) -> bool:
    """Whether a path is an fsspec address instead of a local file.

    Examples
    --------
    >>> from skdinoad._inputs.files import is_address
    >>> is_address("s3://bucket/0.png"), is_address("/images/0.png")
    (True, False)
    """
    return isinstance(path, str) and _SCHEME.match(path) is not None


def _fetched(address, name):
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(
            f"{name} is an address, and needs fsspec: pip install 'skdinoad[fsspec]'."
        ) from error
    try:
        # Not fsspec.open, which treats "[" and "*" in names as patterns.
        store, path = fsspec.core.url_to_fs(address)
        return store.cat_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{name} does not exist or is not a file.") from None
    except ImportError as error:
        raise ImportError(f"{name} cannot be fetched: {error}") from error
    except Exception as error:  # each store raises its own exceptions
        raise RuntimeError(
            f"{name} cannot be fetched: {error or type(error).__name__}. Check the "
            "address, your access to it and the network, and try again."
        ) from error


# -- opening ------------------------------------------------------------------------


@contextmanager
def _opened(source, name, formats=None):
    try:
        image = Image.open(source, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, error) from error
    except Exception as error:  # a damaged header may raise any exception
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    with image:
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and image.width * image.height > most:
            raise _too_large(name, f"{image.width} x {image.height} pixels")
        yield image


def _too_large(name, why):
    return ValueError(
        f"{name} cannot be read as an image: {why}; the limit is "
        f"PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}. Cut the image into "
        "parts, or raise this limit if you trust the file."
    )


def _refuse_odd_files(path, name):
    """Raise an error for anything but a regular file; reading a pipe would block."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist.") from None
    except (OSError, ValueError) as error:  # a path with a NUL, too long, forbidden
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        why = "it is a folder; pass the paths of the files in it"
    elif not stat.S_ISREG(found.st_mode):
        why = "it is a pipe, socket or device, not a regular file"
    elif not found.st_size:
        why = "the file is empty"
    else:
        return
    raise ValueError(f"{name} cannot be read as an image: {why}.")


def _refuse_pages(image, name):
    with _damage_named(name):  # counting reads the headers of all pages
        n = getattr(image, "n_frames", 1)
    if n > 1 and image.format not in _FIRST_IS_THE_PICTURE:
        raise ValueError(
            f"{name} holds {n} pages or frames ({image.format}); expected one image. "
            "Save each page as a separate file, or read them yourself and pass arrays."
        )


@contextmanager
def _damage_named(name):
    """Convert any decoding error to a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # a damaged file may raise any exception
        raise ValueError(
            f"{name} is damaged or truncated, or of an unknown kind: {error}. Replace, "
            "convert or remove the file."
        ) from error


# -- more than 8 bits ---------------------------------------------------------------


def _has_lost_bits(image):
    """Whether Pillow would decode this file to fewer bits than it stores."""
    for codec, _, _, raw in getattr(image, "tile", []):
        if ";16" in str(raw) or codec == "SGI16":
            return True
        if image.format == "PPM" and not isinstance(raw, str) and raw[1] > 255:
            return True
    return False


def _read_deep(image, source, name):
    """Return the pixels with their full bit depth; None if it is 8 bits."""
    _refuse_pages(image, name)
    mode, raw = image.mode, str(image.tile)
    transparent = image.has_transparency_data
    with _damage_named(name):
        turn = image.getexif().get(_ORIENTATION)
        image.load()  # OpenCV does not notice truncated files
        pixels = cv2.imdecode(_bytes_of(source), cv2.IMREAD_UNCHANGED)
    if pixels is not None and pixels.dtype == np.uint8:
        return None
    known = mode.startswith("I;16") or mode in _MODES
    # OpenCV does not undo premultiplied alpha (RGBa).
    if pixels is None or not known or "RGBa" in raw:
        raise _not_whole(image, mode, name)
    if transparent and (pixels.ndim == 2 or pixels.shape[2] != 4):
        raise _not_whole(image, f"{mode} with a transparent colour", name)
    pixels = _in_order(pixels, transparent)
    # OpenCV rotates TIFF files to upright, but no other format.
    return pixels if image.format == "TIFF" else _upright(pixels, turn)


def _bytes_of(source):
    if isinstance(source, _Content):
        return np.frombuffer(source.getvalue(), np.uint8)
    return np.fromfile(source, np.uint8)


def _not_whole(image, mode, name):
    return ValueError(
        f"{name} ({image.format}, pixel mode {mode}) may have more than 8 bits per "
        "channel, which cannot be read. Convert it to PNG, or read the file yourself "
        "and pass a uint16 array."
    )


def _in_order(pixels, transparent):
    """Convert OpenCV's channel order to RGB, or RGBA if there is alpha."""
    if pixels.ndim == 2:
        return pixels
    order = [2, 1, 0, 3] if transparent else [2, 1, 0]
    return pixels[..., order]


def _upright(pixels, orientation):
    """Rotate or flip pixels by EXIF orientation; unknown values change nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def unique_names(names, taken) -> list:
    """Return unique names for output files.

    Parameters
    ----------
    names : iterable of str
    taken : set of str
        Names already in use; the new names are added to it.

    Examples
    --------
    >>> from skdinoad._inputs.files import unique_names
    >>> unique_names(["a", "b", "a", "a"], taken={"b"})
    ['a', 'b_2', 'a_2', 'a_3']
    """
    out = []
    for name in names:
        k, new = 1, name
        while new in taken:
            k += 1
            new = f"{name}_{k}"
        taken.add(new)
        out.append(new)
    return out
