"""Images in any accepted form, read one at a time as uint8 arrays."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["Images", "as_images", "take"]

_ACCEPTED = (
    "images as uint8 0..255 or float 0..1 of shape (n, H, W), (n, H, W, 1), "
    "(n, H, W, 3) RGB or (n, H, W, 4) RGBA (not OpenCV's BGR: image[..., ::-1]), a "
    "list of such images, or file paths"
)


def as_images(X, *, first=0) -> "Images":
    """Return X as a sequence of images that are read and checked one at a time.

    Parameters
    ----------
    X : array, list or Images
        uint8 (0..255) or float (0..1) images of shape (n, H, W), (n, H, W, 1),
        (n, H, W, 3) or (n, H, W, 4); a list or object array of single images of any
        sizes; a list or array of file paths, opened only when needed.
    first : int
        What row 0 is called in messages, where X is a part of something larger.

    Raises
    ------
    TypeError, ValueError
        If X is empty or of another form.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._inputs.images import as_images
    >>> images = as_images(np.zeros((5, 8, 10)))
    >>> len(images), images[0].shape, images[0].dtype
    (5, (8, 10, 3), dtype('uint8'))
    >>> images[2:].name(0)
    'X[2]'
    """
    return X if isinstance(X, Images) else Images(_check_container(X), first=first)


class Images:
    """A read-only sequence of images; made by :func:`as_images`.

    Indexing gives uint8 (H, W, 3), or (H, W, 4) where the image has an alpha channel
    (255 = valid pixel), and raises an error naming row and path if that image cannot
    be read. Floats are rounded to 8 bits. A slice or an index array gives Images that
    still name rows by their number in the X first given.
    """

    def __init__(self, source, rows=None, first=0):
        self._source, self._first = source, first
        self._rows = np.arange(len(source)) if rows is None else rows

    def __len__(self):
        return len(self._rows)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            return Images(self._source, self._rows[index], self._first)
        item = self._source[self._rows[index]]
        name = self.name(index)
        if isinstance(item, (str, Path)):
            return _read_file(item, name)
        if isinstance(item, Image.Image):
            return _decode(item, name)
        return _to_uint8(np.asarray(item), name)

    def name(self, index) -> str:
        """Return how messages call an image: its row, and its path if it has one."""
        row = self._rows[index]
        item = self._source[row]
        path = f" ({str(item)!r})" if isinstance(item, (str, Path)) else ""
        return f"X[{row + self._first}]{path}"

    def size(self, index) -> tuple:
        """Return (H, W) of an image; of a file only the header is read."""
        item = self._source[self._rows[index]]
        if isinstance(item, (str, Path)):
            name = self.name(index)
            with _opened(item, name) as image, _damage_named(name):
                return _upright_size(image)
        if isinstance(item, Image.Image):
            return _upright_size(item)
        return tuple(np.shape(item)[:2])


def take(X, rows):
    """Return the rows of X (an array, a list or Images) that an index array names."""
    if isinstance(X, (list, tuple)):
        return [X[i] for i in rows]
    if hasattr(X, "iloc"):  # pandas counts by labels, which need not be positions
        X = np.asarray(X)
    return X[rows]


# -- the container ------------------------------------------------------------------


def _check_container(X):
    """Return an array or list whose items are images, arrays or paths."""
    if isinstance(X, (str, bytes, Path)):
        raise TypeError(
            f"X is the single path {X!r}; expected {_ACCEPTED}. Pass a list of paths."
        )
    if isinstance(X, (list, tuple)):
        source = X
    elif hasattr(X, "__array__"):
        source = np.asarray(X)
        _check_array(source)
    else:
        raise TypeError(f"X is a {type(X).__name__}; expected {_ACCEPTED}.")
    if len(source) == 0:
        raise ValueError(f"X is empty: 0 samples; expected {_ACCEPTED}.")
    return source


def _check_array(X):
    described = f"array of shape {X.shape}, dtype {X.dtype}"
    if X.dtype.kind in "OUT":
        if X.ndim != 1:
            raise ValueError(f"X is an {described}; expected a 1-D array of paths.")
        return
    if X.ndim == 3 and X.shape[-1] in (1, 3, 4):
        raise ValueError(
            f"X is an {described}, which looks like one single image; "
            "expected a batch: pass X[np.newaxis] or [X]."
        )
    if X.ndim == 4 and X.shape[-1] not in (1, 3, 4) and X.shape[1] in (1, 3, 4):
        raise ValueError(
            f"X is an {described}, which looks like channels first; "
            "expected channels last: pass np.moveaxis(X, 1, -1)."
        )
    if X.ndim not in (3, 4):
        raise ValueError(f"X is an {described}; expected {_ACCEPTED}.")


# -- one array ----------------------------------------------------------------------


def _to_uint8(image, name):
    """Return one image array as uint8 (H, W, 3) or (H, W, 4)."""
    described = f"{name} has shape {image.shape}, dtype {image.dtype}"
    if image.ndim == 2:
        image = image[..., np.newaxis]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{described}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."
        )
    if image.size == 0:
        raise ValueError(f"{described}: an image of zero area. Remove it.")
    if image.dtype.kind == "f":
        image = _unit_float_to_uint8(image, described)
    elif image.dtype != np.uint8:
        raise ValueError(
            f"{described}; expected uint8 (0..255) or float (0..1). Convert it: for "
            "16-bit images X / 65535, for 0..255 integers X.astype(np.uint8)."
        )
    if image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    return np.ascontiguousarray(image)


def _unit_float_to_uint8(image, described):
    low, high = float(image.min()), float(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = np.count_nonzero(~np.isfinite(image))
        raise ValueError(
            f"{described} and {count} NaN or infinite values; expected values in "
            "0..1. Repair or remove the image."
        )
    if low < -1e-6 or high > 1 + 1e-6:
        raise ValueError(
            f"{described} and values from {low:.4g} to {high:.4g}; float images are "
            "expected in 0..1. Divide by 255, or pass uint8."
        )
    return np.round(image.clip(0, 1) * 255).astype(np.uint8)


# -- one file -----------------------------------------------------------------------


def _opened(path, name):
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error


def _read_file(path, name):
    # Pillow and not OpenCV: of a truncated file OpenCV returns the part it has, the
    # rest grey, and a damaged photograph would be scored in silence.
    with _opened(path, name) as image:
        return _decode(image, name)


def _decode(image, name):
    # Pillow reads 16-bit colour as 8-bit "RGB"; only the raw mode tells.
    deep = any(";16" in str(tile[-1]) for tile in getattr(image, "tile", []))
    if deep or image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has pixel mode {image.mode!r} (more than 8 bits); expected 8 bits "
            "per channel. Read it yourself and pass floats scaled to 0..1."
        )
    transparent = "A" in image.getbands() or "transparency" in image.info
    with _damage_named(name):
        image = ImageOps.exif_transpose(image)
        array = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    return _to_uint8(array, name)


@contextmanager
def _damage_named(name):
    """Name the file whose pixels or header cannot be read to the end."""
    try:
        yield
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{name} is damaged or truncated: {error}. Replace or remove the file."
        ) from error


def _upright_size(image):
    width, height = image.size
    turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: by 90 degrees
    return (width, height) if turned else (height, width)
