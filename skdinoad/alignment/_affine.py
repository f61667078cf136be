"""AffineAligner: the pose of a part as a small regressor reads it from features."""

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
    pose_frame,
    resize_frame,
    warp,
    warp_rgba,
)
from skdinoad._compat.caller import warn
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import UsesFeatures
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

#: Side in pixels of what the regressor looks at, and of the grid its features are
#: averaged to.
_VIEW, _POOLED = 224, 4

#: Degrees to either side that the fine regressor learns; a third of the other limits.
_FINE_ANGLE = 25

#: Images whose views are made and read at a time.
_BATCH = 32

_FLAGS = [("uncertain", bool)]

#: Length of the (cos, sin) read above which an angle counts as read, and the error in
#: degrees above which the regressor has learned nothing to rely on.
_SURE, _LARGEST_ERROR = 0.5, 45


class AffineAligner(UsesFeatures, TransformerMixin, BaseEstimator):
    """Bring parts into one pose that a regressor has learned, outline or not.

    ``fit`` turns, shifts and zooms the good images at random and fits ridge
    regressions from their averaged patch features to what was done: a coarse one over
    all poses, and a fine one for what that leaves. The pose of one
    training image, the most typical, is the common one: the first round learns from
    it alone, brings all others into its pose, and later rounds learn from all. Where
    :class:`PCAAligner` finds no usable outline this one still reads pattern, print and
    inner structure; in exchange it costs a small forward pass for each step.

    Parameters
    ----------
    features : extractor or None, default=None
        Extractor of the patch features; None means ``DinoFeatures(image_size=None,
        layers=-2)``. It is given views of 224 x 224 pixels.
    output_size : int, default=448
        Side of the output, a square that holds the whole photograph.
    n_samples : int, default=160
        Poses drawn for each of the two regressors in each round.
    n_rounds : int, default=2
        Rounds of learning; 1 learns from one image only.
    n_steps : int, default=3
        Times that an image's pose is read, each time after undoing what was read: first
        by the coarse regressor, then by the fine one.
    max_angle : float, default=180
        Degrees to either side within which parts lie turned.
    max_shift : float, default=0.15
        Distance, as a share of the photograph's longer side, by which parts are off.
    max_zoom : float, default=1.35
        Factor by which parts are larger or smaller.
    border : {"wrap", "reflect", "replicate", "constant"}, default="replicate"
        What fills the output where the photograph ends. Those pixels are invalid:
        estimators behind see the nearest valid colour there, whatever this says.
    random_state : int, RandomState instance or None, default=0
        Draws the poses to learn from.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that become 0 and 255, learned from training images of more than 8 bits;
        None = they have 8.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : extractor
        The fitted extractor.
    regressors_ : tuple of two Pipelines
        From pooled features to (cos, sin of the angle, shift x, y, log zoom): the
        coarse one for poses within the limits, the fine one for what is left.
    angle_error_ : float
        Median error in degrees of the coarse regressor on poses it did not learn from.
    confidence_ : float
        Median over the training images of how sure the first reading is: the length
        of the (cos, sin) read, about 1 if sure and 0 if it is a mean over all angles.

    See Also
    --------
    PCAAligner : From the outline: faster, nothing to learn.

    Notes
    -----
    The regressor sees a disc, so that the corners of a turned photograph tell
    nothing; the disc is as wide as the photograph's longer side.

    Poses are drawn image by image: the order of training images is part of the seed.

    References
    ----------
    A wish in the README of kroezem, "DinoPatch", github.com/kroezem/DinoPatch. Learning
    on one image and bringing the others to it follows the idea of congealing:
    Learned-Miller, "Data Driven Image Models through Continuous Joint Alignment",
    TPAMI 2006.

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
        """Learn to read poses from the good images.

        Parameters
        ----------
        X : array, list of images or paths
            uint8 0..255, uint16 or float 0..1, (n, H, W[, 1 | 3 | 4]), a list, or
            paths.
            Colours in the order RGB, not OpenCV's BGR: ``image[..., ::-1]``.
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
            self.features_ = self._fitted_extractor(images)
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
            RGB and alpha, 255 = the pixel comes from inside the photograph.
        """
        return self.align(X)[0]

    def transform_frames(self, X: ImagesLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the aligned images and where their pixels come from.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, output_size, output_size, 4), uint8
        frames : ndarray of shape (n, 3, 3), float64
            Aligned pixel (x, y, 1) -> source pixel.
        """
        return self.align(X)[:2]

    @isolated_torch_state()
    def align(self, X: ImagesLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the aligned images, their frames, and what is special about each.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, output_size, output_size, 4), uint8
        frames : ndarray of shape (n, 3, 3), float64
        flags : structured ndarray of shape (n,)
            Boolean field uncertain: the angle was hardly read, the length of its (cos,
            sin) being below 0.5.
        """
        check_is_fitted(self)
        images, size = self._images_to_score(X), (self.output_size,) * 2
        frames, confidence = self._read(images)
        frames = np.stack(frames) @ resize_frame((_VIEW, _VIEW), size)
        Z = [
            warp_rgba(image, frame, size, border=self.border)
            for image, frame in zip(images, frames)
        ]
        flags = np.zeros(len(images), _FLAGS)
        flags["uncertain"] = confidence < _SURE
        if not isinstance(X, Images):
            self._warn_without_alpha(images)
        return np.stack(Z), frames, flags

    # -- private ----------------------------------------------------------------------

    def _most_typical(self, images):
        """Return the row of the image whose features are nearest to all others'."""
        F = self._pooled([_look(image, _whole(image)) for image in images])
        return int(np.square(F - np.median(F, axis=0)).sum(1).argmin())

    def _learn_poses(self, images):
        """Learn on the most typical image, then on all, as they were read."""
        rng = check_random_state(self.random_state)
        template = [self._most_typical(images)]
        frames = [_whole(images[template[0]])]
        for turn in range(self.n_rounds):
            source = take(images, template) if turn == 0 else images
            self._learn(source, frames, rng)
            frames, confidence = self._read(images)
        self.confidence_ = float(np.median(confidence))

    def _learn(self, images, frames, rng):
        """Fit the regressors on random views of images whose pose is known."""
        limits = np.array([np.deg2rad(self.max_angle), *self._reach()])
        fine = np.minimum(limits, [np.deg2rad(_FINE_ANGLE), *limits[1:] / 3])
        coarse, self.angle_error_ = self._fit_one(images, frames, limits, rng)
        self.regressors_ = coarse, self._fit_one(images, frames, fine, rng)[0]

    def _reach(self):
        return self.max_shift, self.max_shift, np.log(self.max_zoom)

    def _fit_one(self, images, frames, limits, rng):
        views, poses = [], []
        for k in range(self.n_samples):
            i = k % len(images)
            angle, dx, dy, log_zoom = rng.uniform(-1, 1, 4) * limits
            away = np.linalg.inv(_step(angle, (dx, dy), log_zoom))
            views.append(_look(images[i], frames[i] @ away))
            poses.append((np.cos(angle), np.sin(angle), dx, dy, log_zoom))
        F, poses = self._pooled(views), np.array(poses)
        regressor = make_pipeline(StandardScaler(), RidgeCV(np.logspace(1, 6, 11)))
        held = len(F) // 4
        read = regressor.fit(F[held:], poses[held:]).predict(F[:held])
        return regressor.fit(F, poses), _angle_error(read, poses[:held])

    def _warn_if_unread(self):
        if self.angle_error_ > _LARGEST_ERROR and self.confidence_ < _SURE:
            warn(
                f"The poses of the training images can hardly be read (error "
                f"{self.angle_error_:.0f} degrees, confidence {self.confidence_:.2f}): "
                "do they show one kind of part, and does turning it change its look? "
                "Otherwise leave the aligner out, or set max_angle=0.",
                UserWarning,
            )

    def _default_features(self):
        # One late block: it tells poses apart better than several side by side.
        return DinoFeatures(image_size=None, layers=-2)

    def _read(self, images):
        """Return the frames (view -> source) of images, and how sure they are."""
        frames, confidence = [], []
        for start in range(0, len(images), _BATCH):
            batch = list(images[start : start + _BATCH])
            part = [_whole(image) for image in batch]
            for step in range(self.n_steps):
                regressor = self.regressors_[min(step, 1)]
                views = [_look(image, frame) for image, frame in zip(batch, part)]
                # Rounded, so that an image's pose never depends on its batch.
                poses = _predicted(regressor, self._pooled(views)).round(3)
                part = [f @ self._undo(pose) for f, pose in zip(part, poses)]
                if step == 0:
                    confidence += np.hypot(poses[:, 0], poses[:, 1]).tolist()
            frames += part
        return frames, np.array(confidence)

    def _undo(self, pose):
        cos, sin, dx, dy, log_zoom = pose
        limit = np.log(self.max_zoom) * 1.5
        return _step(np.arctan2(sin, cos), (dx, dy), np.clip(log_zoom, -limit, limit))

    def _pooled(self, views):
        """Return the features of views (n, 224, 224, 3), averaged to a coarse grid."""
        F = [
            np.asarray(self.features_.transform(np.stack(views[i : i + _BATCH])))
            for i in range(0, len(views), _BATCH)
        ]
        self._check_features(F[0][0])
        F = torch.from_numpy(np.concatenate(F)).permute(0, 3, 1, 2)
        return torch.nn.functional.adaptive_avg_pool2d(F, _POOLED).flatten(1).numpy()


def _whole(image):
    """Return the frame of a view that holds the whole image."""
    height, width = image.shape[:2]
    zoom = _VIEW / max(height, width)
    return pose_frame(((width - 1) / 2, (height - 1) / 2), 0, zoom, (_VIEW, _VIEW))


def _step(angle, shift, log_zoom):
    """Return the frame of a small change of view: new view pixel -> old view pixel."""
    centre = (_VIEW - 1) / 2 + _VIEW * np.asarray(shift)
    return pose_frame(centre, angle, np.exp(log_zoom), (_VIEW, _VIEW))


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


def _look(image, frame):
    """Return the disc of an image that a frame shows, grey around."""
    color = np.ascontiguousarray(image[..., :3])
    view = warp(color, frame, (_VIEW, _VIEW), border="replicate")
    view[~_disc()] = 127
    return view


def _disc():
    away = np.arange(_VIEW) - (_VIEW - 1) / 2
    return np.hypot(away[:, None], away) < _VIEW / 2
