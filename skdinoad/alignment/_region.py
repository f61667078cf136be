"""RegionMask: only a fixed region of every photograph is looked at."""

from pathlib import Path

import cv2
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.masks import with_alpha
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import ImageEstimator
from skdinoad._inputs.images import Images, as_images, take
from skdinoad._inputs.labels import normal_rows
from skdinoad._typing import FilePath, ImagesLike, LabelsLike, OneOrList, Self
from skdinoad.datasets import read_mask

__all__ = ["RegionMask"]


class RegionMask(ImageEstimator, TransformerMixin, BaseEstimator):
    """Restrict training and scoring to a fixed region of all images.

    Everything outside the region, such as a conveyor or a clock, is neither learned nor
    scored by any later step of the Pipeline.

    Parameters
    ----------
    region : ndarray of shape (H, W), path or None, default=None
        The region to keep: True, or any colour except black in a mask file. Images may
        differ from it in size but must have the same aspect ratio. None hides nothing.

    Attributes
    ----------
    region_ : ndarray of shape (H, W), bool, or None
        The region, which is saved with the model.
    value_range_ : (int, int) or None
        Values that map to 0 and 255, learned from training images of more than 8 bits;
        None for 8-bit images.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.

    See Also
    --------
    ForegroundMask : Detects the object in each image automatically.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import RegionMask
    >>> left = np.zeros((4, 6), dtype=bool)
    >>> left[:, :3] = True
    >>> X = np.full((2, 4, 6, 3), 200, dtype=np.uint8)
    >>> RegionMask(left).fit_transform(X)[0, 0, :, 3]
    array([255, 255, 255,   0,   0,   0], dtype=uint8)
    """

    _parameter_constraints = {"region": "no_validation"}

    def __init__(self, region: np.ndarray | FilePath | None = None) -> None:
        self.region = region

    @isolated_torch_state()
    def fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Read the region and check that it fits the images.

        Parameters
        ----------
        X : array, list of images or paths
            Training images; rows labelled anomalous in ``y`` are left out. Colour
            images are RGB; convert OpenCV's BGR with ``image[..., ::-1]``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If the region is invalid or empty, or an image has another aspect ratio.
        FileNotFoundError
            If the region is a path and the file does not exist.
        """
        images = as_images(X)
        images = take(images, normal_rows(y, len(images)))
        images = self._images_to_fit(images)
        with self._learning():
            self.region_ = _read(self.region)
            for i, image in enumerate(images):
                self._fitting(image, images.name(i))
            self._learn_seen(images)
        return self

    def transform(self, X: ImagesLike) -> OneOrList:
        """Return the images with everything outside the region transparent.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, H, W, 4), uint8
            Alpha 255 = inside; transparent pixels stay transparent. A list of (H, W, 4)
            if sizes differ.
        """
        return self.transform_affines(X)[0]

    @isolated_torch_state()
    def transform_affines(self, X: ImagesLike) -> tuple[OneOrList, np.ndarray]:
        """Return the images with only the region visible, and identity affines.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, H, W, 4), uint8, or list of (H, W, 4)
        affines : ndarray of shape (n, 3, 3), float64
            Identity matrices.
        """
        check_is_fitted(self)
        images = self._images_to_score(X)
        Z = [self._hidden(image, images.name(i)) for i, image in enumerate(images)]
        if not isinstance(X, Images):
            self._warn_without_alpha(images)
        affines = np.broadcast_to(np.eye(3), (len(Z), 3, 3)).copy()
        same = len({image.shape for image in Z}) == 1
        return (np.stack(Z) if same else Z), affines

    def _hidden(self, image, name):
        out, region = with_alpha(image), self._fitting(image, name)
        if region is not None:
            out[..., 3] *= region
        return out

    def _fitting(self, image, name):
        """Return the region at the size of an image, or None if there is no region."""
        if self.region_ is None:
            return None
        size, known = np.array(image.shape[:2]), np.array(self.region_.shape)
        if np.abs(np.subtract(*(size / known))) > 0.02 * (size / known).max():
            raise ValueError(
                f"{name} has size {tuple(image.shape[:2])}, the region "
                f"{self.region_.shape}: expected the same aspect ratio. Draw the "
                "region on one of these photographs."
            )
        if (size == known).all():
            return self.region_
        region = self.region_.astype(np.uint8)
        width, height = int(size[1]), int(size[0])
        return cv2.resize(region, (width, height), interpolation=cv2.INTER_NEAREST) > 0


def _read(region):
    """Return a region as booleans (H, W), or None."""
    if region is None:
        return None
    mask = _from_file(region) if isinstance(region, (str, Path)) else _checked(region)
    if not mask.any():
        raise ValueError("region is empty: nothing would be scored.")
    return mask.copy()


def _from_file(path):
    try:
        return read_mask(path)
    except (ValueError, OSError) as error:
        raise type(error)(f"region={str(path)!r}: {error}") from error


def _checked(region):
    try:
        mask = np.asarray(region)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"region is not an array (H, W): {error}") from error
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise ValueError(
            f"region has shape {mask.shape}, dtype {mask.dtype}; expected (H, W) "
            "of bool, a path, or None."
        )
    return mask > 0
