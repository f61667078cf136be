"""ForegroundMask: make the background transparent, so that it is not scored."""

from numbers import Real
from typing import Literal

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.geometry import warp_back
from skdinoad._arrays.masks import (
    foreground,
    mask_statistics,
    masking_helps,
    median_of,
    warn_of_empty_masks,
    with_alpha,
)
from skdinoad._compat.sklearn import Interval, Options, StrOptions
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import ImageEstimator, fitted_extractor, images_at_once
from skdinoad._inputs.grids import check_patches
from skdinoad._inputs.images import Images, as_images, take
from skdinoad._inputs.labels import normal_rows
from skdinoad._typing import ExtractorLike, ImagesLike, LabelsLike, OneOrList, Self
from skdinoad.features import DinoFeatures

__all__ = ["ForegroundMask"]


class ForegroundMask(ImageEstimator, TransformerMixin, BaseEstimator):
    """Make the background around an object transparent.

    The first principal component of an image's patch features separates object and
    background. The transformer writes an alpha channel from it (255 = object), so that
    later detectors ignore the background in training and in scoring.

    Parameters
    ----------
    features : DinoFeatures or None, default=None
        Extractor of the patch features. None means ``DinoFeatures()``. Each image
        passes the network here and again in the detector, with its background hidden.
    masking : "auto" or bool, default="auto"
        "auto" decides once, in ``fit``: it masks if the masks of the training images
        look like one object surrounded by background. False leaves images unchanged.
        The limits were measured at 224 to 448 pixels; for smaller images "auto"
        disables masking too often.
    threshold : float or "relative", default="relative"
        Score on the component above which a patch is foreground; "relative" is 0.24
        times the median length of the image's tokens.
    morphology : {"grid", "raster"}, default="grid"
        How the mask is dilated and closed: in two dimensions, or on the flattened
        mask, as in the official code of AnomalyDINO.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that map to 0 and 255, learned from training images of more than 8 bits;
        None for 8-bit images.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : DinoFeatures
        The fitted extractor.
    masking_ : bool
        Whether images are masked.
    mask_statistics_ : dict or None
        Medians over the training images: the shares of image ("total"), centre and
        border that the masks cover, and the share of the features' variance between
        foreground and background ("separation"). None unless ``masking="auto"``.

    See Also
    --------
    AnomalyDINO : Has the same masks built in, for test images only.

    References
    ----------
    Damm et al., "AnomalyDINO: Boosting Patch-Based Few-Shot Anomaly Detection with
    DINOv2", WACV 2025, arXiv 2405.14529, section 3.2; the automatic decision, the
    relative threshold and the choice of sign are ours.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoFeatures, ForegroundMask
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> X = np.zeros((2, 48, 64, 3))
    >>> X[:, 16:32, 16:48] = 0.8
    >>> ForegroundMask(features=features, masking=True).fit_transform(X).shape
    (2, 48, 64, 4)
    """

    _parameter_constraints = {
        "features": "no_validation",
        "masking": [StrOptions({"auto"}), Options(bool, {True, False})],
        "threshold": [StrOptions({"relative"}), Interval(Real, 0, 3e38, closed="left")],
        "morphology": [StrOptions({"grid", "raster"})],
    }

    def __init__(
        self,
        *,
        features: ExtractorLike | None = None,
        masking: Literal["auto"] | bool = "auto",
        threshold: Literal["relative"] | float = "relative",
        morphology: Literal["grid", "raster"] = "grid",
    ) -> None:
        self.features = features
        self.masking = masking
        self.threshold = threshold
        self.morphology = morphology

    @isolated_torch_state()
    def fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Decide whether to mask images.

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
            If an image cannot be used, or a parameter is out of range.
        """
        self._validate_params()
        images = as_images(X)
        images = take(images, normal_rows(y, len(images)))
        images = self._images_to_fit(images)
        with self._learning():
            extractor = self._part("features")
            self.features_ = fitted_extractor("features", extractor, images)
            self.masking_, self.mask_statistics_ = self.masking, None
            if self.masking == "auto":
                self._decide(images)
            else:
                images.read_all()
            self._learn_seen(images)
        return self

    def transform(self, X: ImagesLike) -> OneOrList:
        """Return the images with a transparent background.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, H, W, 4), uint8
            Alpha 255 = object; transparent pixels stay transparent. A list of (H, W, 4)
            if sizes differ. An image with an empty mask stays visible as a whole, and
            one warning names all such rows.
        """
        return self.transform_affines(X)[0]

    @isolated_torch_state()
    def transform_affines(self, X: ImagesLike) -> tuple[OneOrList, np.ndarray]:
        """Return the images with a transparent background, and identity affines.

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
        affines = np.broadcast_to(np.eye(3), (len(images), 3, 3)).copy()
        if not self.masking_:
            Z = [with_alpha(image) for image in images]
        else:
            Z = self._masked(images)
        if not isinstance(X, Images):
            self._warn_without_alpha(images)
        same = len({image.shape for image in Z}) == 1
        return (np.stack(Z) if same else Z), affines

    # -- private ----------------------------------------------------------------------

    def default_features(self) -> ExtractorLike:
        """Return the extractor that ``features=None`` stands for.

        Returns
        -------
        extractor : unfitted extractor
        """
        return DinoFeatures()

    def _decide(self, images):
        grids = (grid for F, _ in self._batches(images) for grid in F)
        self.mask_statistics_ = median_of(
            [mask_statistics(grid, self._mask(grid)) for grid in grids]
        )
        self.masking_ = masking_helps(self.mask_statistics_)

    def _mask(self, grid):
        check_patches(grid)
        # Of several concatenated layers the last one segments objects best.
        last = grid.shape[-1] // getattr(self.features_, "n_groups_", 1)
        return foreground(grid[..., -last:], self.threshold, self.morphology)

    def _batches(self, images):
        size = images_at_once(self.features_)
        for start in range(0, len(images), size):
            yield self.features_.transform_affines(images[start : start + size])

    def _masked(self, images):
        Z, empty = [], []
        for F, affines in self._batches(images):
            for grid, affine in zip(F, affines):
                image, mask = with_alpha(images[len(Z)]), self._mask(grid)
                if mask.any():
                    alpha = warp_back(mask * 1.0, affine, image.shape[:2], margin=1.5)
                    image[..., 3] *= alpha >= 0.5
                else:
                    empty.append(images.name(len(Z)))
                Z.append(image)
        warn_of_empty_masks(empty, len(images))
        return Z
