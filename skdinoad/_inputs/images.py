"""Lazy sequence of images in any accepted form, read one at a time as uint8 arrays."""

import copy
import os
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from skdinoad._inputs.files import file_size, from_pillow, pillow_size, read_file
from skdinoad._inputs.pixels import (
    full_depth,
    hidden_pixels,
    is_deep,
    to_uint8,
    value_limits,
    widened,
)

__all__ = ["Images", "as_images", "as_shown", "take"]

_ACCEPTED = (
    "images as uint8 0..255, uint16 or float 0..1 of shape (n, H, W), (n, H, W, 1), "
    "(n, H, W, 3) RGB or (n, H, W, 4) RGBA (not OpenCV's BGR: image[..., ::-1]), a "
    "list of such images, or file paths"
)

#: Types that denote a file.
_PATH = (str, os.PathLike)


def as_images(X, *, first=0) -> "Images":
    """Return X as a sequence of images that are read and checked one at a time.

    Parameters
    ----------
    X : array, list or Images
        uint8 (0..255), uint16 or float (0..1) images of shape (n, H, W), (n, H, W, 1),
        (n, H, W, 3) or (n, H, W, 4); a list or object array of single images of any
        sizes; a list or array of file paths, opened only when needed.
    first : int
        Row number of X[0] in messages, if X is part of a larger collection.

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


def as_shown(X) -> "Images":
    """Return X as images for display: hidden pixels unchanged, deep images scaled."""
    return as_images(X).by_own_range(fill=False)


@dataclass
class _Notes:
    """Properties of the images read so far, shared by all slices of one X."""

    hidden: bool = False
    opaque: set = field(default_factory=set)  # rows without an alpha channel
    sizes: dict = field(default_factory=dict)  # row -> (H, W), where known


class Images:
    """Read-only sequence of images, created by :func:`as_images`.

    Indexing returns uint8 (H, W, 3), or (H, W, 4) if the image has an alpha channel
    (pixels with alpha of 128 and more are valid). It raises an error with row and path
    if the image cannot be read. Floats are rounded to 8 bits; deeper images are scaled
    by the range passed to :meth:`read_by`. Hidden pixels get the colour of the nearest
    valid pixel, so that their content has no effect. A slice or an index array returns
    Images that still name rows by their number in the original X.

    Attributes
    ----------
    has_reader : bool
        Whether an estimator has already set how to scale the images.
    own_range : (int, int) or None
        The range learned by :meth:`by_own_range`.
    hidden : bool
        Whether any image read so far has hidden pixels.
    """

    def __init__(self, source, first=0):
        self._source, self._first = source, first
        self._rows, self._notes = np.arange(len(source)), _Notes()
        self.has_reader, self.own_range = False, None
        self._range, self._fill = None, True

    def __len__(self):
        return len(self._rows)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            return self._like(_rows=self._rows[index])
        return self._as_read(index, self._pixels(index))

    def name(self, index) -> str:
        """Return the name of an image in messages: its row, and its path if any."""
        return self._name(self._rows[index])

    def path(self, index) -> str | None:
        """Return the path of an image, or None if it was passed as an array."""
        item = self._source[self._rows[index]]
        return os.fspath(item) if isinstance(item, _PATH) else None

    def row(self, index) -> int:
        """Return the row number of an image in messages."""
        return int(self._first + self._rows[index])

    def as_given(self):
        """Return these images in the form in which X was passed."""
        return take(self._source, self._rows)

    def size(self, index) -> tuple:
        """Return (H, W) of an image; of a file only the header is read, and cached."""
        row, sizes = self._rows[index], self._notes.sizes
        if row not in sizes:
            sizes[row] = self._size(self._source[row], self.name(index))
        return sizes[row]

    # -- depth ------------------------------------------------------------------------

    def learn_range(self):
        """Return the range of values for scaling images like these to 8 bits.

        Returns
        -------
        (int, int) or None
            Lowest and highest value of all visible pixels, widened on both sides by a
            quarter of their difference, so that defects darker or brighter than all
            training images are not clipped. None if the first image has 8 bits.
        """
        if not is_deep(self._pixels(0)):
            return None
        rows = range(len(self))
        limits = [value_limits(self._pixels(i), self.name(i)) for i in rows]
        known = [pair for pair in limits if pair[0] is not None]
        lowest, highest = zip(*(known or [(0, 65535)]))
        return widened(min(lowest), max(highest))

    def read_by(self, value_range, *, fill=True) -> "Images":
        """Return the same images, read by :func:`to_uint8` with these settings."""
        return self._like(has_reader=True, _range=value_range, _fill=fill)

    def by_own_range(self, *, fill=True) -> "Images":
        """Return the same images, scaled by the range learned from them."""
        own = self.learn_range()
        return self.read_by(own, fill=fill)._like(own_range=own)

    def full(self, index) -> np.ndarray:
        """Return an image with its full bit depth, for comparing images."""
        pixels = self._pixels(index)
        if is_deep(pixels):
            return full_depth(pixels, self.name(index))
        return self._as_read(index, pixels)

    # -- what was seen ----------------------------------------------------------------

    @property
    def scaled(self):
        """Whether the images have more than 8 bits and are scaled down to 8."""
        return self._range is not None

    @property
    def hidden(self):
        return self._notes.hidden

    def read_all(self):
        """Read every image once, so that ``hidden`` and the sizes are complete."""
        for _ in self:
            pass

    def without_alpha(self):
        """Return the names of the images read so far that have no alpha channel."""
        return [self._name(row) for row in sorted(self._notes.opaque)]

    def _as_read(self, index, pixels):
        name = self.name(index)
        image = to_uint8(pixels, name, self._range, fill=self._fill)
        self._note(self._rows[index], image, name)
        return image

    def _note(self, row, image, name):
        if image.shape[-1] == 3:
            self._notes.opaque.add(row)
        elif not self._notes.hidden:
            self._notes.hidden = bool(hidden_pixels(image).any())
        size = self._notes.sizes.setdefault(row, image.shape[:2])
        if size != image.shape[:2]:
            raise ValueError(
                f"{name} had size {size} when it was first read and has size "
                f"{image.shape[:2]} now: the file has changed in between. Try again."
            )

    # -- private ----------------------------------------------------------------------

    def _like(self, **changes):
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def _name(self, row):
        item = self._source[row]
        path = f" ({os.fspath(item)!r})" if isinstance(item, _PATH) else ""
        return f"X[{row + self._first}]{path}"

    @staticmethod
    def _size(item, name):
        if isinstance(item, _PATH):
            return file_size(item, name)
        if isinstance(item, Image.Image):
            return pillow_size(item)
        return tuple(np.shape(item)[:2])

    def _pixels(self, index):
        """Return the unconverted pixels of an image."""
        item, name = self._source[self._rows[index]], self.name(index)
        if isinstance(item, _PATH):
            return read_file(item, name)
        if isinstance(item, Image.Image):
            return from_pillow(item, name)
        return _as_array(item, name)


def take(X, rows):
    """Return the rows of X (an array, a list or Images) selected by an index array."""
    if isinstance(X, (list, tuple)):
        return [X[i] for i in rows]
    if hasattr(X, "iloc"):  # pandas indexes by label, not by position
        X = np.asarray(X)
    return X[rows]


# -- the container ------------------------------------------------------------------


def _check_container(X):
    """Return an array or list whose items are images, arrays or paths."""
    if isinstance(X, (bytes, *_PATH)):
        raise TypeError(
            f"X is the single path {X!r}; expected {_ACCEPTED}. Pass a list of paths."
        )
    if isinstance(X, (list, tuple)):
        source = X
    elif hasattr(X, "__array__"):
        source = _as_array(X, "X")
        _check_array(source)
    else:
        hint = " Pass list(X)." if hasattr(X, "__iter__") else ""
        raise TypeError(f"X is a {type(X).__name__}; expected {_ACCEPTED}.{hint}")
    if len(source) == 0:
        raise ValueError(f"X is empty: 0 samples; expected {_ACCEPTED}.")
    return source


def _check_array(X):
    described = f"array of shape {X.shape}, dtype {X.dtype}"
    if X.dtype.kind in "OUT":
        if X.ndim != 1:
            raise ValueError(
                f"X is an {described}; expected a 1-D array of paths or images; pass "
                "labels separately."
            )
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


def _as_array(item, name):
    """Return an image or a batch as an array; masked arrays raise an error."""
    if isinstance(item, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost. Pass images with an "
            "alpha channel that is 0 where masked: np.dstack([image.data, alpha])."
        )
    if isinstance(item, (list, tuple)) and any(map(_is_image, item)):
        raise TypeError(
            f"{name} is a {type(item).__name__} of {len(item)} items, which looks "
            "like a pair of image and label; expected an image. Pass images and "
            "labels separately: X = [image for image, _ in pairs], y = [...]."
        )
    try:
        return np.asarray(_off_device(item))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is a {type(item).__name__}, which cannot be converted to an "
            f"array: {error}. Expected {_ACCEPTED}."
        ) from error


def _is_image(thing):
    # Nested lists have no ndim: they hold the pixel values of one image.
    return isinstance(thing, (*_PATH, Image.Image)) or getattr(thing, "ndim", 0) > 1


def _off_device(item):
    """Return a torch tensor in a form numpy accepts; anything else unchanged."""
    if not hasattr(item, "detach"):
        return item
    item = item.detach().cpu()
    return item.float() if str(item.dtype) == "torch.bfloat16" else item
