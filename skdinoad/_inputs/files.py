"""Image files: read whole, upright and with all their bits, or refused by name.

And names for those to write.
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
    "told_apart",
]

#: EXIF's tag for how the camera was held.
_ORIENTATION = 0x0112

#: Formats of several frames whose first one is the whole picture: a phone's photograph
#: before its preview, a drawing before its layers.
_FIRST_IS_THE_PICTURE = {"MPO", "PSD"}

#: Formats of which Pillow gives 8 bits and does not say whether there are more.
_SILENT = {"JPEG2000", "AVIF"}

#: Formats that are read of bytes, which anyone may have sent: those that folders are
#: searched for (a JPEG may be an MPO). For others Pillow would run Ghostscript.
_OF_STRANGERS = (
    *("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "TGA", "PPM"),
    *("JPEG2000", "AVIF"),
)

#: How an address begins that fsspec knows; no drive of Windows, which is one letter.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+(://|::)", re.IGNORECASE)

#: Pixel modes whose channels OpenCV gives in a known order.
_MODES = ("L", "LA", "RGB", "RGBA", "I")


def read_file(path, name) -> np.ndarray:
    """Return the pixels of an image file, upright as its EXIF data say.

    Parameters
    ----------
    path : str or path
        A file, or an address as "s3://bucket/0.png", of which the formats are read that
        folders are searched for.
    name : str
        What messages call the image.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3) or (H, W, 4)
        uint8, uint16 where the file has more than 8 bits, or the numbers of a file of
        whole or real numbers; the fourth channel is alpha.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is no image, damaged, too large, has pages, or
        cannot be read with all its bits.
    RuntimeError
        If the store of an address does not answer, or refuses: of the image that says
        nothing, so that nobody takes it for broken.
    ImportError
        If fsspec, or what it needs for such an address, is missing.
    """
    if is_address(path):
        return read_bytes(_fetched(path, name), name)
    _refuse_odd_files(path, name)
    return _read(path, name)


def read_bytes(content, name) -> np.ndarray:
    """Return the pixels of what an image file holds, as :func:`read_file` does.

    Only of the formats that folders are searched for.
    """
    if not content:
        raise ValueError(f"{name} cannot be read as an image: there are no bytes.")
    return _read(_Content(content), name, _OF_STRANGERS)


class _Content(io.BytesIO):
    def __repr__(self):  # Pillow's messages hold it
        return f"of {len(self.getvalue())} bytes"


def _read(source, name, formats=None):
    # Pillow and not OpenCV: of a truncated file OpenCV returns the part it has, the
    # rest grey, and a damaged photograph would be scored in silence.
    with _opened(source, name, formats) as image:
        deep = None
        if _has_lost_bits(image) or image.format in _SILENT:
            deep = _read_deep(image, source, name)
        return from_pillow(image, name) if deep is None else deep


def file_size(path, name) -> tuple:
    """Return (H, W) of an image file, of which only the header is read.

    What lies at an address is fetched whole.
    """
    if is_address(path):
        return read_file(path, name).shape[:2]
    _refuse_odd_files(path, name)
    with _opened(path, name) as image, _damage_named(name):
        return pillow_size(image)


def from_pillow(image, name) -> np.ndarray:
    """Return the pixels of an image of Pillow, as :func:`read_file` does of a file."""
    _refuse_pages(image, name)
    if _has_lost_bits(image) and not image.mode.startswith("I"):
        raise ValueError(
            f"{name} has more than 8 bits per channel, of which Pillow gives 8: pass "
            "its path in place of the opened image."
        )
    with _damage_named(name):
        image.load()
        image = ImageOps.exif_transpose(image)
        if not image.mode.startswith(("I", "F")):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        return np.asarray(image)


def pillow_size(image) -> tuple:
    """Return (H, W) that an image of Pillow has when it is upright."""
    if image.getexif().get(_ORIENTATION) not in (5, 6, 7, 8):
        return image.size[::-1]
    # Of a TIFF some versions of Pillow turn the size, and others do not.
    tags = getattr(image, "tag_v2", {})
    return tags.get(256, image.width), tags.get(257, image.height)


# -- addresses ----------------------------------------------------------------------


def is_address(path) -> bool:
    """Whether a path is an address for fsspec, and no file of this machine.

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
        # Not fsspec.open, to which "[" and "*" in a name are patterns.
        store, path = fsspec.core.url_to_fs(address)
        return store.cat_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{name} does not exist, or is no file.") from None
    except ImportError as error:
        raise ImportError(f"{name} cannot be fetched: {error}") from error
    except Exception as error:  # each store has errors of its own
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
    except Exception as error:  # a damaged header raises whatever it likes
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    with image:
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and image.width * image.height > most:
            raise _too_large(name, f"{image.width} x {image.height} pixels")
        yield image


def _too_large(name, why):
    return ValueError(
        f"{name} cannot be read as an image: {why}; the limit is "
        f"PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}. Cut the image in "
        "parts, or raise that limit if you trust the file."
    )


def _refuse_odd_files(path, name):
    """Refuse, unopened, what is no file: reading a pipe would wait for ever."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist.") from None
    except (OSError, ValueError) as error:  # a path with a NUL, too long, forbidden
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        why = "it is a folder; pass the paths of the files in it"
    elif not stat.S_ISREG(found.st_mode):
        why = "it is a pipe, socket or device, and no file"
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
            "Save each as a file of its own, or read them yourself and pass arrays."
        )


@contextmanager
def _damage_named(name):
    """Name the file whose pixels or header cannot be read to the end."""
    try:
        yield
    except Exception as error:  # a damaged file raises whatever it likes
        raise ValueError(
            f"{name} is damaged or truncated, or of an unknown kind: {error}. Replace, "
            "convert or remove the file."
        ) from error


# -- more than 8 bits ---------------------------------------------------------------


def _has_lost_bits(image):
    """Whether Pillow is to give, of an unread file, fewer bits than it has."""
    for codec, _, _, raw in getattr(image, "tile", []):
        if ";16" in str(raw) or codec == "SGI16":
            return True
        if image.format == "PPM" and not isinstance(raw, str) and raw[1] > 255:
            return True
    return False


def _read_deep(image, source, name):
    """Return the pixels with all their bits; None if there are but 8."""
    _refuse_pages(image, name)
    mode, raw = image.mode, str(image.tile)
    transparent = image.has_transparency_data
    with _damage_named(name):
        turn = image.getexif().get(_ORIENTATION)
        image.load()  # OpenCV would not notice that a part is missing
        pixels = cv2.imdecode(_bytes_of(source), cv2.IMREAD_UNCHANGED)
    if pixels is not None and pixels.dtype == np.uint8:
        return None
    known = mode.startswith("I;16") or mode in _MODES
    # Colours already multiplied with alpha are not divided by it by OpenCV.
    if pixels is None or not known or "RGBa" in raw:
        raise _not_whole(image, mode, name)
    if transparent and (pixels.ndim == 2 or pixels.shape[2] != 4):
        raise _not_whole(image, f"{mode} with a transparent colour", name)
    pixels = _in_order(pixels, transparent)
    # OpenCV turns TIFF files upright by itself, and no others.
    return pixels if image.format == "TIFF" else _upright(pixels, turn)


def _bytes_of(source):
    if isinstance(source, _Content):
        return np.frombuffer(source.getvalue(), np.uint8)
    return np.fromfile(source, np.uint8)


def _not_whole(image, mode, name):
    return ValueError(
        f"{name} ({image.format}, pixel mode {mode}) may have more than 8 bits per "
        "channel, which cannot be read. Convert it to PNG, or read it yourself and "
        "pass a uint16 array."
    )


def _in_order(pixels, transparent):
    """Return OpenCV's channels as red, green, blue, and alpha if there is one."""
    if pixels.ndim == 2:
        return pixels
    order = [2, 1, 0, 3] if transparent else [2, 1, 0]
    return pixels[..., order]


def _upright(pixels, orientation):
    """Return pixels turned as EXIF's orientation says; odd values turn nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def told_apart(names, taken) -> list:
    """Return names for files to write, of which none is taken twice.

    Parameters
    ----------
    names : iterable of str
    taken : set of str
        Names that are taken already; the new ones are added.

    Examples
    --------
    >>> from skdinoad._inputs.files import told_apart
    >>> told_apart(["a", "b", "a", "a"], taken={"b"})
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
