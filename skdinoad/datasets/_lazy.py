"""Masks that stay in their files until they are looked at."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from skdinoad._inputs.images import as_images

__all__ = ["LazyMasks", "read_mask"]


class LazyMasks(Sequence):
    """A sequence of masks (H, W), bool, true = anomalous, each read when asked for.

    Goes wherever masks go: as ``y`` of ``fit``, of scorers and of a search. An index
    array or slice gives lazy masks again; scikit-learn's searches make lists of them,
    one fold at a time.

    Parameters
    ----------
    images : sequence of str
        The images' paths: an empty mask has the size of its image.
    files : list
        For each image the paths of its masks, whose union counts; () where nothing is
        anomalous, None where that is unknown: looking at such a mask is an error.

    Attributes
    ----------
    known : ndarray of shape (n,), bool
        False for anomalous images without a mask.
    """

    def __init__(self, images, files):
        self._images, self._files = list(images), list(files)

    @property
    def known(self):
        return np.array([files is not None for files in self._files], bool)

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index):
        if isinstance(index, slice) or np.ndim(index):
            index = index if isinstance(index, slice) or len(index) else slice(0)
            rows = np.arange(len(self))[index]
            parts = [[part[i] for i in rows] for part in (self._images, self._files)]
            return LazyMasks(*parts)
        path, files = self._images[index], self._files[index]
        if files is None:
            raise ValueError(
                f"The image {path!r} is anomalous and has no mask. Leave such rows "
                "out: rows = numpy.flatnonzero(masks.known); masks[rows]."
            )
        if not files:
            return np.zeros(as_images([path]).size(0), bool)
        return np.any([read_mask(file) for file in files], axis=0)


def read_mask(path) -> np.ndarray:
    """Read a mask file as booleans.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    ndarray of shape (H, W), bool
        True = anomalous (any value above 0).
    """
    with Image.open(path) as image:
        return np.asarray(image.convert("L")) > 0
