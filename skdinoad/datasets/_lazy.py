"""Masks that are read from their files on access."""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from skdinoad._inputs.images import as_images
from skdinoad._typing import FilePath
from skdinoad.datasets._mask_files import read_mask

__all__ = ["LazyMasks"]


class LazyMasks(Sequence):
    """Sequence of masks (H, W), bool, True = anomalous, each read on access.

    Accepted wherever masks are: as ``y`` of ``fit``, of scorers and of a search. An
    index array or slice returns lazy masks; scikit-learn's searches convert them to
    lists, one fold at a time.

    Parameters
    ----------
    images : sequence of str
        Paths of the images, which give the sizes of the masks.
    files : list
        For each image the paths of its mask files, read by :func:`read_mask` and
        combined by union. () if nothing is anomalous; None if the mask is unknown, in
        which case access raises an error.
    anomalous : sequence of bool, default=None
        Whether each image is known to be anomalous. Access to an empty mask of such an
        image raises an error, because the image would be taken for a good one. None
        disables this check.

    Attributes
    ----------
    known : ndarray of shape (n,), bool
        False for anomalous images without a mask.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from skdinoad.datasets import LazyMasks
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("RGB", (4, 2)).save(file.name)
    ...     LazyMasks([file.name], [()])[0].shape
    (2, 4)
    """

    def __init__(
        self,
        images: Iterable[str],
        files: Iterable[Sequence[FilePath] | None],
        anomalous: ArrayLike | None = None,
    ) -> None:
        self._images, self._files = list(images), list(files)
        if anomalous is None:
            anomalous = np.zeros(len(self._files), bool)
        self._anomalous = np.asarray(anomalous, bool)
        if not len(self._images) == len(self._files) == len(self._anomalous):
            raise ValueError(
                f"{len(self._images)} images, {len(self._files)} lists of masks, "
                f"{len(self._anomalous)} entries of anomalous; expected equal numbers."
            )

    @property
    def known(self) -> np.ndarray:
        return np.array([files is not None for files in self._files], bool)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray | list[int]) -> "LazyMasks": ...

    def __getitem__(self, index):
        if isinstance(index, slice) or np.ndim(index):
            index = index if isinstance(index, slice) or len(index) else slice(0)
            rows = np.arange(len(self))[index]
            parts = [[part[i] for i in rows] for part in (self._images, self._files)]
            return LazyMasks(*parts, self._anomalous[rows])
        path, files = self._images[index], self._files[index]
        if files is None:
            raise ValueError(
                f"The image {path!r} is anomalous and has no mask. Leave such rows "
                "out: rows = numpy.flatnonzero(masks.known); masks[rows]."
            )
        mask = np.zeros(as_images([path]).size(0), bool)
        for file in files:
            mask |= _of_size(mask.shape, file, path)
        if self._anomalous[index] and not mask.any():
            raise ValueError(
                f"The image {path!r} is anomalous, but nothing is marked in "
                f"{', '.join(map(repr, files))}. Mark the defect, or remove the file."
            )
        return mask


def _of_size(shape, file, path):
    """Return the mask in a file, which must have the shape of its image."""
    mask = read_mask(file)
    if mask.shape != shape:
        raise ValueError(
            f"The mask {str(file)!r} has {mask.shape[1]} x {mask.shape[0]} pixels, its "
            f"image {path!r} {shape[1]} x {shape[0]}; expected the same size after "
            "EXIF rotation."
        )
    return mask
