"""PCAAligner: align parts by the moments of their outlines."""

from numbers import Real
from typing import Literal

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.geometry import (
    BORDERS,
    EDGE,
    is_size,
    pose_affine,
    turn_affine,
    warp_rgba,
)
from skdinoad._compat.caller import warn
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import ImageEstimator
from skdinoad._inputs.images import Images, as_images, take
from skdinoad._inputs.labels import normal_rows
from skdinoad._typing import Border, ExtractorLike, ImagesLike, LabelsLike, Self, Size
from skdinoad.alignment._outline import Outline
from skdinoad.alignment._polarity import common_direction, cosines, side_vectors
from skdinoad.alignment._pose import SUPPORTS, find_pose
from skdinoad.alignment._shape import learn_shape
from skdinoad.alignment._sizes import FILL, frame_of_parts, frame_of_photographs, square

__all__ = ["PCAAligner"]

_FLAGS = (
    "no_object",
    "isotropic",
    "ambiguous",
    "clamped",
    "full_frame",
    "unusual",
)


class PCAAligner(ImageEstimator, TransformerMixin, BaseEstimator):
    r"""Centre every part, rotate its main axis to horizontal and normalise its size.

    Edge detection outlines the part. The moments of the outlined area give its
    centroid, the direction of its major axis (first principal component) and its
    extent. One affine warp moves the part into the output; the alpha channel marks the
    output pixels that come from inside the photograph.

    Parameters
    ----------
    support : {"hull", "filled", "edges", "mask"}, default="hull"
        Area or points used for the moments. "hull": the convex hull of all pieces of
        the outline with at least a tenth of the largest piece's area. "filled": the
        largest outline, filled. "edges": all contour points, as in the original
        method, which is sensitive to edges inside the part. "mask": the alpha channel
        of RGBA images.
    mode : {"full", "centre+scale", "centre", "none"}, default="full"
        Which pose parameters to normalise; "none" only fits the image into the output.
    polarity : {"moment", "features"} or None, default="moment"
        How to distinguish the two ends of the axis: by the third moment along it, by
        comparing features on both sides of the centre, or not at all.
    placement : {"moments", "ends"}, default="moments"
        How to place a part whose length over width differs from all training parts
        (flag ``unusual``). "moments": like any other part; a part that lost a third of
        its length is enlarged to fill the frame and looks anomalous everywhere.
        "ends": at the usual size, aligned by the end that best matches the training
        parts; it looks anomalous only where something is missing. Use "ends" before
        ``DinoPatch`` with a small ``neighborhood``; a detector that ignores positions
        sees only good patches and misses such a part.
    flip : {"rotate", "mirror"}, default="rotate"
        How to flip a reversed part: by a rotation of 180 degrees, or by mirroring as in
        the original method, which changes the handedness of threads and print.
    output_size : "auto", int or (int, int), default="auto"
        Side, or (height, width), of the output. "auto" follows the shape of the
        training parts in multiples of the patch size, which DinoFeatures keeps: a
        square of 224 pixels, or for long parts a strip with slightly more patches. If
        images are not aligned, a number is the smaller side ("auto" means 224), and the
        images keep their aspect ratio.
    scale : float, default=0.9
        Share of the output width covered by 4 standard deviations along the axis, which
        is the length of a filled ellipse and 1.15 times the length of a rod. If any
        training part would then exceed the output, the scale is reduced for all images
        until all training parts fit.
    rotation : float, default=0
        Clockwise angle in degrees from the output's x axis to the part's axis.
    border : {"wrap", "reflect", "replicate", "constant"}, default="wrap"
        What fills the output where the photograph ends. Those pixels are invalid:
        estimators behind see the nearest valid colour there, whatever this says.
    outline : Outline or None, default=None
        How the outline of the part is found; None means ``Outline()``.
        ``outline__canny`` and the like can be searched either way.
    features : extractor or None, default=None
        For ``polarity="features"``: an object with ``transform``, such as
        DinoFeatures.

    Attributes
    ----------
    mode_ : str
        ``mode``, or "none" if most training images show no single object.
    output_size_ : (int, int)
        Height and width of the aligned images.
    isotropic_ : bool
        Whether most training parts have no main axis; then no part is rotated.
    scale_ : float
        ``scale``, or the value to which it was reduced.
    zoom_ : float
        Median of (output pixels per source pixel) over the training images.
    polarity_reference_ : ndarray of shape (c,) or None
        Mean feature difference between the right and the left half of a part.
    polarity_bias_ : ndarray of shape (c,) or None
        The same difference for a part with two equal ends.
    value_range_ : (int, int) or None
        Values that map to 0 and 255, learned from training images of more than 8 bits;
        None for 8-bit images.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : extractor or None
        The fitted extractor.

    Notes
    -----
    With support "hull" the moments are those of the area inside the convex hull.
    Threads, print and reflections, whose edges change with rotation, have no effect.

    Flags mark images that need special treatment:

    - ``no_object``: no outline, or a support below the outline's ``min_share``. The
      whole image is fitted into the output. ``fit_transform`` makes such a training
      image invalid (alpha 0), so that a later detector leaves it out and does not learn
      a missing part as normal.
    - ``full_frame``: support above its ``max_share`` or touching three borders. The
      whole image is fitted into the output.
    - ``isotropic``: eigenvalue ratio above 0.83, so the axis is undefined. Not rotated.
    - ``ambiguous``: the two ends look alike (skewness below 0.05, cosine below 0.1).
      Not flipped.
    - ``unusual``: length over width is outside the range of the training parts by at
      least 8 %. See ``placement``.
    - ``clamped``: the size is above 4 times or below a quarter of the training median.
      The zoom is limited.

    References
    ----------
    kroezem, "DinoPatch", github.com/kroezem/DinoPatch: Canny, contours, PCA, wrap
    padding, polarity from a reference vector. Hull support, rotation instead of
    mirroring, and the third moment are ours.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import PCAAligner
    >>> image = np.zeros((100, 100, 3), dtype=np.uint8)
    >>> image[20:80, 40:50] = 255                     # an upright bar
    >>> aligner = PCAAligner(output_size=64).fit([image])
    >>> aligned, affines, flags = aligner.align([image])
    >>> aligned.shape, (affines[0] @ [31.5, 31.5, 1]).round().tolist()  # its middle
    ((1, 64, 64, 4), [44.0, 49.0, 1.0])
    >>> bool(aligned[0, 32, 10, 0] > 200), bool(aligned[0, 10, 32, 0] > 200)
    (True, False)
    """

    _parameter_constraints = {
        "support": [StrOptions(set(SUPPORTS))],
        "mode": [StrOptions({"full", "centre+scale", "centre", "none"})],
        "polarity": [StrOptions({"moment", "features"}), None],
        "placement": [StrOptions({"moments", "ends"})],
        "flip": [StrOptions({"rotate", "mirror"})],
        "output_size": [
            StrOptions({"auto"}),
            EDGE,
            tuple,
            list,
        ],
        "scale": [Interval(Real, 0.01, 100, closed="both")],
        "rotation": [Interval(Real, -360, 360, closed="both")],
        "border": [StrOptions(set(BORDERS))],
        "outline": [Outline, None],
        "features": "no_validation",
    }

    _default_parts = {"outline": Outline}

    def __init__(
        self,
        *,
        support: Literal["hull", "filled", "edges", "mask"] = "hull",
        mode: Literal["full", "centre+scale", "centre", "none"] = "full",
        polarity: Literal["moment", "features"] | None = "moment",
        placement: Literal["moments", "ends"] = "moments",
        flip: Literal["rotate", "mirror"] = "rotate",
        output_size: Literal["auto"] | Size = "auto",
        scale: float = 0.9,
        rotation: float = 0,
        border: Border = "wrap",
        outline: Outline | None = None,
        features: ExtractorLike | None = None,
    ) -> None:
        self.support = support
        self.mode = mode
        self.polarity = polarity
        self.placement = placement
        self.flip = flip
        self.output_size = output_size
        self.scale = scale
        self.rotation = rotation
        self.border = border
        self.outline = outline
        self.features = features

    @isolated_torch_state()
    def fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Learn the usual size and shape of the parts.

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

        Warns
        -----
        UserWarning
            If some or most images show no single object.
        """
        self._fit(X, y)
        return self

    @isolated_torch_state()
    def fit_transform(self, X: ImagesLike, y: LabelsLike | None = None) -> np.ndarray:
        """Fit and align; training images without an object become invalid.

        Equals ``fit(X, y).transform(X)``, except that images flagged ``no_object``
        have alpha 0 everywhere, so that a later detector excludes them from training.

        Parameters
        ----------
        X : array, list of images or paths
        y : None, array-like of shape (n,), or masks of shape (n, H, W)

        Returns
        -------
        Z : ndarray of shape (n, height, width, 4), uint8
        """
        poses = self._fit(X, y)
        Z, _, flags = self._align(self._images_to_score(X), poses)
        if self.mode_ != "none":
            Z[flags["no_object"], ..., 3] = 0
        return Z

    def transform(self, X: ImagesLike) -> np.ndarray:
        """Return the aligned images.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        Z : ndarray of shape (n, height, width, 4), uint8
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
        Z : ndarray of shape (n, height, width, 4), uint8
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
        Z : ndarray of shape (n, height, width, 4), uint8
        affines : ndarray of shape (n, 3, 3), float64
        flags : structured ndarray of shape (n,)
            Boolean fields no_object, isotropic, ambiguous, clamped, full_frame,
            unusual.
        """
        check_is_fitted(self)
        images = self._images_to_score(X)
        aligned = self._align(images, {})
        if not isinstance(X, Images):
            self._warn_without_alpha(images)
        return aligned

    # -- fitting ----------------------------------------------------------------------

    def _fit(self, X, y):
        """Fit and return the poses by row, so that they can be reused."""
        self._check_parameters()
        images = as_images(X)
        rows = normal_rows(y, len(images))
        images = self._images_to_fit(take(images, rows))
        with self._learning():
            poses = [self._find(image) for image in images]
            self._fit_sizes(poses, images)
            self.features_ = self.polarity_reference_ = self.polarity_bias_ = None
            if self.polarity == "features":
                self._fit_polarity(images, poses)
            self._fit_shape(images, poses)
            self._learn_seen(images)
        return dict(zip(rows.tolist(), poses))

    def _check_parameters(self):
        self._validate_params()
        if isinstance(self.output_size, (tuple, list)) and not is_size(
            self.output_size
        ):
            raise ValueError(
                f"output_size={self.output_size!r}: expected a side, or (height, "
                "width), in whole pixels."
            )
        if self.polarity == "features" and not hasattr(self.features, "transform"):
            raise TypeError(
                f"polarity='features' needs features= with a method transform; got "
                f"{self.features!r}; pass features=DinoFeatures()."
            )

    def _find(self, image):
        outline = self._part("outline")
        return find_pose(
            image,
            support=self.support,
            canny=outline.canny,
            blur=outline.blur,
            closing=outline.closing,
            min_contour=outline.min_contour,
        )

    def _fit_sizes(self, poses, images):
        self._shape = None
        usable = [p for p in poses if self._usable(p)]
        ratios = np.array([pose.ratio for pose in usable])
        self.mode_ = self.mode
        if self.mode != "none":
            self._check_usable(poses, images, ratios)
        self.isotropic_ = bool(len(ratios)) and bool((ratios > _MAX_RATIO).mean() > 0.5)
        self.output_size_ = self._fit_output(images, usable)
        overflow = max([1.0, *(self._overflow(p) / FILL for p in usable)])
        self.scale_ = self.scale / overflow
        zooms = [self._zoom(pose) for pose in usable]
        self.zoom_ = float(np.median(zooms)) if zooms else 1.0

    def _fit_output(self, images, usable):
        """Return the output's (height, width)."""
        if np.ndim(self.output_size) and not isinstance(self.output_size, str):
            return tuple(int(edge) for edge in self.output_size)
        if self.mode_ == "none":
            sizes = [images.size(i) for i in range(len(images))]
            return frame_of_photographs(self.output_size, sizes)
        level = (
            self.mode_ == "full" and not self.isotropic_ and self.rotation % 180 == 0
        )
        if self.output_size == "auto" and level:
            return frame_of_parts(usable)
        return square(self.output_size)

    def _check_usable(self, poses, images, ratios):
        """Disable alignment if the training images show no common part."""
        absent = [images.name(i) for i, p in enumerate(poses) if self._absent(p)]
        reason = None
        if len(ratios) <= len(poses) / 2:
            reason = (
                f"only {len(ratios)} of {len(poses)} training images show a single "
                f"object ({len(absent)} show none, the others fill the frame)"
            )
        elif len(ratios) > 2 and np.std(ratios) > _MAX_SHAPE_SPREAD:
            reason = "the outlines found in the training images have no common shape"
        canny = self._part("outline").canny
        if reason:
            self.mode_ = "none"
            self._warn(
                f"Nothing is aligned: {reason}. For a texture pass mode='none'; for "
                f"parts change outline__canny={canny}, or pass RGBA images whose alpha "
                "is the part, and support='mask'."
            )
        elif absent:
            self._warn(
                f"No object found in {', '.join(absent[:5])} ({len(absent)} of "
                f"{len(poses)} training images): left out of training. Lower "
                f"outline__canny={canny} or remove them."
            )

    @staticmethod
    def _warn(message):
        warn(message, UserWarning)

    def _fit_polarity(self, images, poses):
        """Learn how the two ends differ, on parts aligned by their moments alone."""
        self.features_ = clone(self.features).fit(images, None)
        placed = [self._place(image, pose) for image, pose in zip(images, poses)]
        aligned = [
            self._warp(image, affine)
            for image, (affine, flag) in zip(images, placed)
            if not (flag["no_object"] or flag["full_frame"])
        ]
        if aligned:
            Z = np.stack(aligned)
            turned = Z[:, :, ::-1] if self.flip == "mirror" else Z[:, ::-1, ::-1]
            sides, other = (
                side_vectors(self.features_.transform(z)) for z in (Z, turned)
            )
            # Features differ between left and right even for symmetric parts. The
            # component that does not change when the part is flipped is this bias.
            self.polarity_bias_ = (sides + other).mean(axis=0) / 2
            self.polarity_reference_ = common_direction(sides - self.polarity_bias_)

    def _fit_shape(self, images, poses):
        """Learn the positions of the parts' ends, if the parts have an axis."""
        rows = [i for i, pose in enumerate(poses) if self._usable(pose)][:_LOOKED_AT]
        if self.mode_ != "full" or self.isotropic_ or self.rotation or len(rows) < 2:
            return
        seen, poses = [images[i] for i in rows], [poses[i] for i in rows]
        if self.polarity_reference_ is None:
            affines = [self._place(*pair)[0] for pair in zip(seen, poses)]
        else:
            affines = self._align(seen, dict(enumerate(poses)))[1]
        self._shape = learn_shape(seen, poses, affines, self.output_size_)

    # -- alignment --------------------------------------------------------------------

    def _align(self, images, poses):
        """Align all images, reusing the poses already known."""
        affines = np.empty((len(images), 3, 3))
        flags = np.zeros(len(images), [(name, bool) for name in _FLAGS])
        Z = np.empty((len(images), *self.output_size_, 4), np.uint8)
        for i, image in enumerate(images):
            pose = poses[i] if i in poses else self._pose_if_needed(image)
            affines[i], flags[i] = self._place(image, pose)
            Z[i] = self._warp(image, affines[i])
        if self.polarity_reference_ is not None:
            self._turn_by_features(images, Z, affines, flags)
        return Z, affines, flags

    def _pose_if_needed(self, image):
        return None if self.mode_ == "none" else self._find(image)

    def _place(self, image, pose):
        """Return an image's affine, from its pose alone, and its flags."""
        flag = np.zeros((), [(name, bool) for name in _FLAGS])
        whole = self.mode_ == "none" or self._absent(pose) or self._fills(pose)
        if whole:
            if self.mode_ != "none":
                flag["no_object"] = self._absent(pose)
                flag["full_frame"] = not flag["no_object"]
            return pose_affine(
                _middle(image), 0.0, self._contain(image), self.output_size_
            ), flag
        angle = self._angle(pose, flag)
        zoom = self._clamped_zoom(image, pose, flag)
        affine = pose_affine(pose.centre, angle, zoom, self.output_size_)
        if self._points_left(pose, flag):
            affine = affine @ self._turn
        if self._shape is not None and not flag["isotropic"]:
            flag["unusual"] = not self._shape.fits(pose)
        if flag["unusual"] and self.placement == "ends":
            how = pose, angle, affine, self.output_size_
            affine = self._shape.better_frame(image, *how, mirror=self.flip == "mirror")
        return affine, flag

    def _usable(self, pose):
        return not (self._absent(pose) or self._fills(pose))

    def _absent(self, pose):
        return pose is None or pose.share < self._part("outline").min_share

    def _fills(self, pose):
        most = self._part("outline").max_share
        return pose is not None and (pose.share > most or pose.borders >= 3)

    def _angle(self, pose, flag):
        if self.mode_ != "full":
            return 0.0
        flag["isotropic"] = self.isotropic_ or pose.ratio > _MAX_RATIO
        return 0.0 if flag["isotropic"] else pose.angle - np.deg2rad(self.rotation)

    def _points_left(self, pose, flag):
        """Whether the part is reversed according to its third moment."""
        rotated = self.mode_ == "full" and not flag["isotropic"]
        if not rotated or self.polarity != "moment":
            return False
        flag["ambiguous"] = abs(pose.skewness) < _MIN_SKEWNESS
        return pose.skewness < 0 and not flag["ambiguous"]

    def _zoom(self, pose):
        height, width = self.output_size_
        # A part that is not rotated may point along the output's shorter side.
        length = width if self.mode_ == "full" else min(height, width)
        return self.scale_ * length / (4 * pose.sigma)

    def _overflow(self, pose):
        """Return the factor by which a part exceeds the output at ``scale``."""
        height, width = self.output_size_
        if self.mode_ == "full" and not self.isotropic_:
            extent = np.multiply(pose.reach, self.scale * width / 2)
            return max(extent / [width, height])
        return self.scale / 2 * np.hypot(*pose.reach)

    def _clamped_zoom(self, image, pose, flag):
        if self.mode_ == "centre":
            return self._contain(image)
        zoom = self._zoom(pose)
        clamped = np.clip(zoom, self.zoom_ / _MAX_ZOOM, self.zoom_ * _MAX_ZOOM)
        flag["clamped"] = clamped != zoom
        return clamped

    def _contain(self, image):
        return min(np.divide(self.output_size_, image.shape[:2]))

    @property
    def _turn(self):
        return turn_affine(self.output_size_, mirror=self.flip == "mirror")

    def _warp(self, image, affine):
        return warp_rgba(image, affine, self.output_size_, border=self.border)

    def _turn_by_features(self, images, Z, affines, flags):
        rotated = self.mode_ == "full" and not self.isotropic_
        fixed = flags["no_object"] | flags["full_frame"] | flags["isotropic"]
        if self.placement == "ends":
            fixed |= flags["unusual"]
        if not rotated or fixed.all():
            return
        rows = np.flatnonzero(~fixed)
        sides = side_vectors(self.features_.transform(Z[rows])) - self.polarity_bias_
        agreement = cosines(sides, self.polarity_reference_)
        flags["ambiguous"][rows] = np.abs(agreement) < _MIN_COSINE
        for row in rows[agreement <= -_MIN_COSINE]:
            affines[row] = affines[row] @ self._turn
            Z[row] = self._warp(images[row], affines[row])


#: Eigenvalue ratio above which the axis is noise (aspect ratio below about 1.1).
_MAX_RATIO = 0.83
#: Standard deviation of the eigenvalue ratio above which the outlines are artefacts of
#: a texture: parts have 0.002 (screws) to 0.16 (cookies), paper 0.21 and 0.24.
_MAX_SHAPE_SPREAD = 0.18
#: Limit of the zoom relative to the training median, in both directions.
_MAX_ZOOM = 4.0
#: Skewness, and cosine to the reference, below which the two ends count as equal. Such
#: a part is not flipped, so that parts photographed in one pose stay in one pose.
_MIN_SKEWNESS = 0.05
_MIN_COSINE = 0.1
#: Maximum number of training parts from which the usual shape is learned.
_LOOKED_AT = 100


def _middle(image):
    height, width = image.shape[:2]
    return np.array([(width - 1) / 2, (height - 1) / 2])
