"""AffineAligner: estimate the pose of a part from its features by regression."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.geometry import (
    BORDERS,
    EDGE,
    pose_affine,
    resize_affine,
    warp,
    warp_rgba,
)
from skdinoad._compat.caller import warn
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import ImageEstimator, fitted_extractor
from skdinoad._inputs.grids import check_patches
from skdinoad._inputs.images import Images, as_images, take
from skdinoad._inputs.labels import normal_rows
from skdinoad._typing import (
    Border,
    ExtractorLike,
    ImagesLike,
    LabelsLike,
    RandomState,
    Self,
)
from skdinoad.features import DinoFeatures

__all__ = ["AffineAligner"]

#: Side of the regressor's input view in pixels, and of the grid to which its features
#: are pooled.
_VIEW, _POOLED = 224, 4

#: Angle limit of the fine regressor in degrees; its other limits are a third of the
#: coarse ones.
_FINE_ANGLE = 25

#: Number of views per batch.
_BATCH = 32

_FLAGS = [("uncertain", bool)]

#: Length of the predicted (cos, sin) above which an angle counts as certain, and the
#: error in degrees above which the regressor is unreliable.
_SURE, _LARGEST_ERROR = 0.5, 45


class AffineAligner(ImageEstimator, TransformerMixin, BaseEstimator):
    """Align parts to a common pose with a learned pose regressor.

    ``fit`` applies random affine transforms to the good images and fits two ridge
    regressions from pooled patch features to the transform parameters: a coarse one
    for all poses and a fine one for the remaining error. The common pose is that of the
    most typical training image. The first round learns from this image only and aligns
    all others to it; later rounds learn from all images. Unlike :class:`PCAAligner`,
    it needs no usable outline, because it also uses patterns, print and inner
    structure. Each step costs a small forward pass.

    Parameters
    ----------
    features : extractor or None, default=None
        Extractor of the patch features; None means ``DinoFeatures(image_size=None,
        layers=-2)``. It receives views of 224 x 224 pixels.
    output_size : int, default=448
        Side of the square output, which holds the whole photograph.
    n_samples : int, default=160
        Number of random poses per regressor and round.
    n_rounds : int, default=2
        Number of training rounds; 1 learns from one image only.
    n_steps : int, default=3
        Number of pose estimates per image. Each one refines the previous alignment:
        the first uses the coarse regressor, the others the fine one.
    max_angle : float, default=180
        Largest rotation of the parts in degrees, in both directions.
    max_shift : float, default=0.15
        Largest shift of the parts, as a share of the photograph's longer side.
    max_zoom : float, default=1.35
        Largest factor by which parts are scaled up or down.
    border : {"wrap", "reflect", "replicate", "constant"}, default="replicate"
        How to fill the output outside of the photograph. These pixels are invalid:
        later estimators replace them by the nearest valid colour in any case.
    random_state : int, RandomState instance or None, default=0
        Seed of the random training poses.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that map to 0 and 255, learned from training images of more than 8 bits;
        None for 8-bit images.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : extractor
        The fitted extractor.
    regressors_ : tuple of two Pipelines
        Map pooled features to (cos, sin of the angle, shift x, y, log zoom): the coarse
        regressor for poses within the limits, the fine one for the remaining error.
    angle_error_ : float
        Median error of the coarse regressor in degrees, on held-out poses.
    confidence_ : float
        Median confidence of the first pose estimate over the training images: the
        length of the predicted (cos, sin), about 1 if certain and 0 if the prediction
        is a mean over all angles.

    See Also
    --------
    PCAAligner : Uses the outline; faster and without training.

    Notes
    -----
    The regressor sees a disc, so that the corners of a rotated photograph carry no
    information. The disc is as wide as the photograph's longer side.

    Poses are drawn image by image, so the result depends on the order of the training
    images.

    References
    ----------
    The README of kroezem, "DinoPatch", github.com/kroezem/DinoPatch, suggests such an
    aligner. Learning from one image and aligning the others to it follows the idea of
    congealing: Learned-Miller, "Data Driven Image Models through Continuous Joint
    Alignment", TPAMI 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import AffineAligner, DinoFeatures
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=None)
    >>> X = np.random.default_rng(0).random((3, 60, 80, 3))
    >>> aligner = AffineAligner(features=features, output_size=64, max_angle=20)
    >>> aligner.fit(X).transform(X).shape
    (3, 64, 64, 4)
    """

    _parameter_constraints = {
        "features": "no_validation",
        "output_size": [EDGE],
        "n_samples": [Interval(Integral, 10, None, closed="left")],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "max_angle": [Interval(Real, 0, 180, closed="both")],
        "max_shift": [Interval(Real, 0, 0.5, closed="both")],
        "max_zoom": [Interval(Real, 1, 4, closed="both")],
        "border": [StrOptions(set(BORDERS))],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        features: ExtractorLike | None = None,
        output_size: int = 448,
        n_samples: int = 160,
        n_rounds: int = 2,
        n_steps: int = 3,
        max_angle: float = 180,
        max_shift: float = 0.15,
        max_zoom: float = 1.35,
        border: Border = "replicate",
        random_state: RandomState = 0,
    ) -> None:
        self.features = features
        self.output_size = output_size
        self.n_samples = n_samples
        self.n_rounds = n_rounds
        self.n_steps = n_steps
        self.max_angle = max_angle
        self.max_shift = max_shift
        self.max_zoom = max_zoom
        self.border = border
        self.random_state = random_state

    @isolated_torch_state()
    def fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Fit the pose regressors on the good images.

        Parameters
        ----------
        X : array, list of images or paths
            uint8 0..255, uint16 or float 0..1, (n, H, W[, 1 | 3 | 4]), a list, or
            paths.
            Colour images are RGB; convert OpenCV's BGR with ``image[..., ::-1]``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous; **rows labelled anomalous are left out**.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter or an image is invalid.
        """
        self._validate_params()
        images = as_images(X)
        images = take(images, normal_rows(y, len(images)))
        images = self._images_to_fit(images)
        with self._learning():
            extractor = self._part("features")
            self.features_ = fitted_extractor("features", extractor, images)
            self._learn_poses(images)
            self._warn_if_unread()
            self._learn_seen(images)
        return self

    def transform(self, X: ImagesLike) -> np.ndarray:
        """Return the aligned images.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, output_size, output_size, 4), uint8
            RGB and alpha; alpha is 255 for pixels from inside the photograph.
        """
        return self.align(X)[0]

    def transform_affines(self, X: ImagesLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the aligned images and their affines.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, output_size, output_size, 4), uint8
        affines : ndarray of shape (n, 3, 3), float64
            Affine matrices from aligned pixel (x, y, 1) to source pixel.
        """
        return self.align(X)[:2]

    @isolated_torch_state()
    def align(self, X: ImagesLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the aligned images, their affines and flags.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, output_size, output_size, 4), uint8
        affines : ndarray of shape (n, 3, 3), float64
        flags : structured ndarray of shape (n,)
            Boolean field uncertain: the angle is unreliable because the length of the
            predicted (cos, sin) is below 0.5.
        """
        check_is_fitted(self)
        images, size = self._images_to_score(X), (self.output_size,) * 2
        affines, confidence = self._read(images)
        affines = np.stack(affines) @ resize_affine((_VIEW, _VIEW), size)
        Z = [
            warp_rgba(image, affine, size, border=self.border)
            for image, affine in zip(images, affines)
        ]
        flags = np.zeros(len(images), _FLAGS)
        flags["uncertain"] = confidence < _SURE
        if not isinstance(X, Images):
            self._warn_without_alpha(images)
        return np.stack(Z), affines, flags

    # -- private ----------------------------------------------------------------------

    def _most_typical(self, images):
        """Return the row of the image with features closest to the median features."""
        F = self._pooled([_look(image, _whole(image)) for image in images])
        return int(np.square(F - np.median(F, axis=0)).sum(1).argmin())

    def _learn_poses(self, images):
        """Learn from the most typical image, then from all images in estimated pose."""
        rng = check_random_state(self.random_state)
        template = [self._most_typical(images)]
        affines = [_whole(images[template[0]])]
        for turn in range(self.n_rounds):
            source = take(images, template) if turn == 0 else images
            self._learn(source, affines, rng)
            affines, confidence = self._read(images)
        self.confidence_ = float(np.median(confidence))

    def _learn(self, images, affines, rng):
        """Fit the regressors on random views of images with known pose."""
        limits = np.array([np.deg2rad(self.max_angle), *self._reach()])
        fine = np.minimum(limits, [np.deg2rad(_FINE_ANGLE), *limits[1:] / 3])
        coarse, self.angle_error_ = self._fit_one(images, affines, limits, rng)
        self.regressors_ = coarse, self._fit_one(images, affines, fine, rng)[0]

    def _reach(self):
        return self.max_shift, self.max_shift, np.log(self.max_zoom)

    def _fit_one(self, images, affines, limits, rng):
        views, poses = [], []
        for k in range(self.n_samples):
            i = k % len(images)
            angle, dx, dy, log_zoom = rng.uniform(-1, 1, 4) * limits
            away = np.linalg.inv(_step(angle, (dx, dy), log_zoom))
            views.append(_look(images[i], affines[i] @ away))
            poses.append((np.cos(angle), np.sin(angle), dx, dy, log_zoom))
        F, poses = self._pooled(views), np.array(poses)
        regressor = make_pipeline(StandardScaler(), RidgeCV(np.logspace(1, 6, 11)))
        held = len(F) // 4
        read = regressor.fit(F[held:], poses[held:]).predict(F[:held])
        return regressor.fit(F, poses), _angle_error(read, poses[:held])

    def _warn_if_unread(self):
        if self.angle_error_ > _LARGEST_ERROR and self.confidence_ < _SURE:
            warn(
                f"The poses of the training images can hardly be estimated (error "
                f"{self.angle_error_:.0f} degrees, confidence {self.confidence_:.2f}). "
                "The aligner needs images of one kind of part whose appearance changes "
                "with rotation. Otherwise remove the aligner, or set max_angle=0.",
                UserWarning,
            )

    def default_features(self) -> ExtractorLike:
        """Return the extractor that ``features=None`` stands for.

        Returns
        -------
        extractor : unfitted extractor
        """
        # A single late block distinguishes poses better than several concatenated.
        return DinoFeatures(image_size=None, layers=-2)

    def _read(self, images):
        """Return the affines (view -> source) of images and their confidences."""
        affines, confidence = [], []
        for start in range(0, len(images), _BATCH):
            batch = list(images[start : start + _BATCH])
            part = [_whole(image) for image in batch]
            for step in range(self.n_steps):
                regressor = self.regressors_[min(step, 1)]
                views = [_look(image, affine) for image, affine in zip(batch, part)]
                # Rounded, so that the pose of an image does not depend on its batch.
                poses = _predicted(regressor, self._pooled(views)).round(3)
                part = [f @ self._undo(pose) for f, pose in zip(part, poses)]
                if step == 0:
                    confidence += np.hypot(poses[:, 0], poses[:, 1]).tolist()
            affines += part
        return affines, np.array(confidence)

    def _undo(self, pose):
        cos, sin, dx, dy, log_zoom = pose
        limit = np.log(self.max_zoom) * 1.5
        return _step(np.arctan2(sin, cos), (dx, dy), np.clip(log_zoom, -limit, limit))

    def _pooled(self, views):
        """Return the features of views (n, 224, 224, 3), pooled to a coarse grid."""
        F = [
            np.asarray(self.features_.transform(np.stack(views[i : i + _BATCH])))
            for i in range(0, len(views), _BATCH)
        ]
        check_patches(F[0][0])
        F = torch.from_numpy(np.concatenate(F)).permute(0, 3, 1, 2)
        return torch.nn.functional.adaptive_avg_pool2d(F, _POOLED).flatten(1).numpy()


def _whole(image):
    """Return the affine of a view that holds the whole image."""
    height, width = image.shape[:2]
    zoom = _VIEW / max(height, width)
    return pose_affine(((width - 1) / 2, (height - 1) / 2), 0, zoom, (_VIEW, _VIEW))


def _step(angle, shift, log_zoom):
    """Return the affine of a small change of view: new view pixel -> old view pixel."""
    centre = (_VIEW - 1) / 2 + _VIEW * np.asarray(shift)
    return pose_affine(centre, angle, np.exp(log_zoom), (_VIEW, _VIEW))


def _predicted(regressor, F):
    """Return ``regressor.predict(F)``.

    scikit-learn's checks of F enter ``warnings.catch_warnings``, after which Python
    shows the caller's warnings, once seen, again.
    """
    scaler, ridge = regressor[0], regressor[-1]
    return (F - scaler.mean_) / scaler.scale_ @ ridge.coef_.T + ridge.intercept_


def _angle_error(read, poses):
    """Return the median error of the angle, in degrees."""
    read, true = (np.arctan2(pose[:, 1], pose[:, 0]) for pose in (read, poses))
    away = np.angle(np.exp(1j * (read - true)))  # between -pi and pi
    return float(np.rad2deg(np.median(np.abs(away))))


def _look(image, affine):
    """Return the view of an image in an affine, as a disc on grey."""
    color = np.ascontiguousarray(image[..., :3])
    view = warp(color, affine, (_VIEW, _VIEW), border="replicate")
    view[~_disc()] = 127
    return view


def _disc():
    away = np.arange(_VIEW) - (_VIEW - 1) / 2
    return np.hypot(away[:, None], away) < _VIEW / 2
