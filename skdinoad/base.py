"""Base class of the detectors: input, features, batches, scores, threshold, maps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skdinoad._arrays.geometry import warp_back
from skdinoad._arrays.maps import aggregate, smooth_pixels, stacked
from skdinoad._arrays.normal_scores import NormalScores
from skdinoad._arrays.thresholds import as_threshold, display_limits, hottest_of
from skdinoad._compat.caller import warn
from skdinoad._compat.sklearn import (
    Interval,
    StrOptions,
    TakesCallbacks,
    whole_fit,
)
from skdinoad._compat.torch import isolated_torch_state, isolated_torch_steps
from skdinoad._inputs.copies import (
    suspects_among,
    warn_of_suspects,
)
from skdinoad._inputs.estimators import ImageEstimator, fitted_extractor, images_at_once
from skdinoad._inputs.grids import (
    check_channels,
    check_grids,
    check_patches,
    empty_grids,
    holds_images,
    name_of,
    nothing_valid,
    size_of,
    with_layers_apart,
)
from skdinoad._inputs.images import Images, as_images, take
from skdinoad._inputs.labels import normal_rows
from skdinoad._inputs.register import Register
from skdinoad._typing import ExtractorLike, ImagesLike, LabelsLike, OneOrList, Self

__all__ = ["BaseDetector"]


class BaseDetector(TakesCallbacks, ImageEstimator, OutlierMixin, BaseEstimator):
    """Base class of the detectors that score a grid of patch features.

    A new detector implements four methods:

    - :meth:`default_features` returns the extractor that ``features=None`` stands for;
    - :meth:`fit_grids` learns from patch features;
    - :meth:`score_grids` scores patches;
    - :meth:`holdout_grids` returns the held-out scores of training images: of all
      registered images, or only of those in ``_held_out()``.

    Score grids have the shape (h, w), or (2, h, w) if the image score is computed from
    other values (the first plane) than the heat map (the last plane).

    A detector that needs the training images themselves implements ``_fit_images(X)``
    instead of ``fit_grids``. For images of different sizes, methods get lists of grids.

    An extractor is any object with ``fit`` and ``transform_affines(X)``, which returns
    features and affines.
    """

    _parameter_constraints = {
        "features": "no_validation",
        "aggregate": [
            StrOptions({"max", "mean", "p99"}),
            Interval(Real, 0, 1, closed="right"),
        ],
        "target_fpr": [Interval(Real, 0, 0.5, closed="right")],
        "verbose": ["boolean"],
    }

    #: Number of parts of ``fit`` reported to callbacks; None = unknown number.
    _parts_of_fit = 0

    #: Whether features have separate layers, (h, w, l, c).
    _layers_apart = False

    #: Shape of the features that every image must have; None = any size.
    grid_shape_: tuple[int, ...] | None = None

    # -- fitting ----------------------------------------------------------------------

    @isolated_torch_state()
    def fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Learn what normal images look like.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            Images: uint8 0..255, uint16 or float 0..1 of shape (n, H, W), (n, H, W, 1),
            (n, H, W, 3) or (n, H, W, 4) with alpha = valid; a list of images; file
            paths. Features: float (n, h, w, c) with c > 4, as DinoFeatures gives them.
            Colours in the order RGB, not OpenCV's BGR: ``image[..., ::-1]``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous. **Rows labelled anomalous are left out**, so a
            cross-validation with any splitter never trains on a defect.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an image cannot be used (naming its row or path), labels are 0/1, no
            normal row is left, images of 8 and of more bits are mixed, or a parameter
            is out of range.
        """
        self._validate_params()
        told = whole_fit(self, X, y, self._parts_of_fit)
        X = self._check_input(X)
        rows = normal_rows(y, len(X))
        with told, self._learning():
            self._given_rows = rows
            normals = take(X, rows)  # extractors must not learn from defects either
            if isinstance(X, Images):
                normals = self._images_to_fit(normals)
            self.features_ = self._fit_extractor(normals)
            self._fit_images(normals)
            if isinstance(X, Images):
                self._learn_seen(normals)
            self._set_offset()
        return self

    @isolated_torch_state()
    def fit_predict(self, X: ImagesLike, y: LabelsLike | None = None) -> np.ndarray:
        """Fit and return the labels of the same images, as ``fit(X, y).predict(X)``.

        Expect +1 for all training images, because the detector has learned them. Images
        without a valid patch, which ``fit`` leaves out, get -1.
        """
        decision = self.fit(X, y)._scores(X) - self._threshold()
        return np.where(decision >= 0, 1, -1)

    def _fit_extractor(self, X):
        """Return a fitted copy of the extractor, or None for feature grids."""
        if not isinstance(X, Images):
            return None
        return fitted_extractor("features", self._part("features"), X)

    def _reset(self):
        super()._reset()
        self._register = Register()

    @contextmanager
    def _adding(self):
        """Restore the fitted state if the block fails, for a ``partial_fit``."""
        before = vars(self).copy()
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _fit_images(self, X):
        self.fit_grids(self._collect(X))

    def _normals_to_add(self, X, y):
        """Return the normal rows of X, for a ``partial_fit`` after a first fit."""
        self._validate_params()
        for name, now in self._settings(self._fitted).items():
            value = self._fitted[name]
            if np.shape(now) != np.shape(value) or np.any(np.not_equal(now, value)):
                raise ValueError(
                    f"{name}={now!r}, but the bank was fitted with {value!r}: fit "
                    "again."
                )
        X = self._input_to_score(X)
        rows = normal_rows(y, len(X))
        # Row numbers continue from call to call, so that they are unique.
        self._given_rows = self._register.next_row + rows
        return take(X, rows)

    def _settings(self, names):
        """Return parameters by name, including those of default parts."""
        out = {}
        for name in names:
            part, _, inner = name.partition("__")
            out[name] = (
                getattr(self._part(part), inner) if inner else getattr(self, name)
            )
        return out

    def _collect(self, X):
        """Return the features of all rows of X as one (n, h, w, c) array."""
        bank, kept, start = None, [], 0
        for F, _ in self._batches(X, "fit"):
            for grid in F:
                self._check_features(grid)
                if bank is None:
                    bank = empty_grids(len(X), grid.shape)
                self._check_shape(grid.shape, bank.shape[1:], name_of(X, start))
                bank[len(kept)] = grid
                if np.isfinite(grid).any():
                    kept.append(start)
                start += 1
        self._register_images(X, kept)
        self.grid_shape_ = bank.shape[1:]
        return bank[: len(kept)]

    def _register_images(self, X, kept, contents=None):
        """Register the training images in the rows ``kept`` of X."""
        rows = getattr(self, "_given_rows", range(len(X)))
        self._register = self._register.extended(X, kept, rows, contents)

    def _held_out(self):
        """Return the indices of the images that have held-out scores."""
        return self._register.distinct

    @isolated_torch_state()
    def _merge(self, parts):
        """Merge fitted parts; the result equals one fit on the images of all parts.

        A subclass that supports this implements ``_join(parts)``, which merges what the
        parts have stored of their images, and ``_clone_for_merge()``, which returns an
        unfitted copy that stores all that ``_join`` needs to be exact.
        """
        with self._learning():
            self.features_ = parts[0].features_
            if self.features_ is not None:
                self.value_range_ = parts[0].value_range_
                self.hidden_pixels_ = any(part.hidden_pixels_ for part in parts)
            self._register = Register.merged([part._register for part in parts])
            self._join(parts)
            self._set_merged_offset()
        return self

    def _set_merged_offset(self):
        self._set_offset()

    def _check_shape(self, shape, expected, name):
        if shape != expected:
            raise ValueError(
                f"{name} gives a patch grid of shape {shape}, expected {expected}: "
                f"{type(self).__name__} needs images of one size. Resize them: put "
                "PCAAligner() in front (mode='none' for textures), or set "
                "features__image_size=(height, width)."
            )

    def _set_offset(self):
        """Set the threshold and display limits from held-out scores of normals."""
        grids = self.holdout_grids()
        if grids is None or not any(np.isfinite(grid).any() for grid in grids):
            warn(
                "Fitted on a single image (exact copies count as one): none can be "
                "held out, so there is no threshold. score_samples and predict_map "
                "work; for predict, fit on more images or set offset_ yourself.",
                UserWarning,
            )
            self._set_no_offset()
            return
        self._learn_normal_scores(grids)
        shown = self._shown(grids)
        self.map_limits_ = display_limits(shown)
        self.pixel_threshold_ = self._pixel_threshold(shown)

    def _learn_normal_scores(self, grids):
        """Set the threshold and the suspects from held-out score grids."""
        numbers, grids = self._counted_once(grids)
        scores = -self._aggregate(grids)
        finite = np.isfinite(scores)
        self.holdout_scores_ = scores[finite]
        sources = [self._register.sources[i] for i in numbers]
        self.holdout_rows_ = np.array([row for row, _ in sources], int)[finite]
        known = NormalScores(-self.holdout_scores_)
        self.offset_ = -known.threshold(self.target_fpr)
        sources = [sources[i] for i in np.flatnonzero(finite)]
        self.suspects_ = suspects_among(-self.holdout_scores_, sources, known)
        warn_of_suspects(self.suspects_, len(self.holdout_scores_))

    def _counted_once(self, grids):
        """Return indices and score grids of the held-out images, without copies."""
        numbers = self._held_out()
        if len(grids) == len(self._register):
            grids = [grids[i] for i in numbers]
        return numbers, grids

    def _shown(self, grids):
        """Return the plane of each score grid that its heat map shows."""
        return [grid if grid.ndim == 2 else grid[-1] for grid in grids]

    def _pixel_threshold(self, shown):
        """Return the value that the maps of a share ``target_fpr`` of images exceed."""
        return NormalScores(hottest_of(shown)).threshold(self.target_fpr)

    def _set_no_offset(self):
        self.holdout_scores_, self.offset_, self.suspects_ = np.empty(0), np.nan, []
        self.holdout_rows_ = np.empty(0, int)
        self.map_limits_, self.pixel_threshold_ = (0.0, 1.0), np.nan

    # -- scoring ----------------------------------------------------------------------

    @isolated_torch_state()
    def score_samples(self, X: ImagesLike) -> np.ndarray:
        """Return the normality of each image.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            As in ``fit``.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            Higher = more normal; the papers' anomaly score with its sign changed, and
            so <= 0 for distances.

        Raises
        ------
        ValueError
            If an image cannot be read, has no valid patch, or differs from the training
            images in bit depth or in the shape of its patch grid.

        Warns
        -----
        UserWarning
            If images have no alpha channel, but training images hide pixels by alpha.
        """
        check_is_fitted(self)
        X = self._input_to_score(X)
        scores = self._scores(X)
        if np.isnan(scores).any():
            raise nothing_valid(X, int(np.flatnonzero(np.isnan(scores))[0]))
        self._warn_of_input(X)
        return scores

    def decision_function(self, X: ImagesLike) -> np.ndarray:
        """Return ``score_samples(X) - offset_``: below 0 is anomalous.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids

        Returns
        -------
        decision : ndarray of shape (n,), float64
        """
        check_is_fitted(self)
        threshold = self._threshold()
        return self.score_samples(X) - threshold

    def predict(self, X: ImagesLike) -> np.ndarray:
        """Return +1 for images that look normal and -1 for anomalous ones.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids

        Returns
        -------
        labels : ndarray of shape (n,), int
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def predict_map(self, X: ImagesLike) -> OneOrList:
        """Return a heat map for each image, in the coordinates of the input image.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids

        Returns
        -------
        maps : ndarray of shape (n, H, W), float32
            Higher = more anomalous, 0 where nothing could be scored. A list of (H, W)
            arrays if the images differ in size.

        See Also
        --------
        skdinoad.predict_map : The same for any Pipeline or search.
        skdinoad.iter_maps : The same, one map at a time, with the memory of a batch.
        """
        check_is_fitted(self)
        X = self._input_to_score(X)
        maps = [heat for _, heat in self.iter_scored(X)]
        self._warn_of_input(X)
        return stacked(maps)

    def iter_scored(
        self,
        X: ImagesLike,
        affines: np.ndarray | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        *,
        maps: bool = True,
    ) -> Iterator[tuple[float, np.ndarray | None]]:
        """Yield the score and the heat map of each image, computed together.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            As in ``fit``.
        affines : ndarray of shape (n, 3, 3) or None
            Pixel of X -> pixel of the image that X was made from; None = identity.
        sizes : list of (int, int) or None
            (H, W) of those images; None = as in X.
        maps : bool, default=True
            Whether to compute heat maps.

        Yields
        ------
        score : float
            As from :meth:`score_samples`; X is read in batches.
        heat : ndarray of shape (H, W), float32, or None
            In the coordinates of the images that X was made from.

        Raises
        ------
        ValueError
            As in :meth:`score_samples`, raised when the image's batch is reached.
        """
        check_is_fitted(self)
        X = self._input_to_score(X)
        return isolated_torch_steps(self._iter_scored(X, affines, sizes, maps))

    def iter_holdout_maps(
        self,
        X: ImagesLike,
        affines: np.ndarray | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield heat maps of training images, each by a model that has not seen it.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            Rows of the X that was passed to ``fit``.
        affines, sizes
            As in :meth:`iter_scored`.
        rows : sequence of int or None
            The row in ``fit`` of each row of X; None = X is the whole X of ``fit``.

        Yields
        ------
        row : int
            The row in ``fit``, in ascending order; only rows in ``holdout_rows_``.
        heat : ndarray of shape (H, W), float32
        """
        check_is_fitted(self)
        X = self._input_to_score(X)
        place = {
            row: i for i, row in enumerate(range(len(X)) if rows is None else rows)
        }
        held = self._held_of_each()
        for row in sorted(held.keys() & place.keys()):
            i = place[row]
            _, inner = self._read_batch(X[i : i + 1])
            outer = np.eye(3) if affines is None else affines[i]
            size = size_of(X, i) if sizes is None else sizes[i]
            yield row, self._map(held[row], outer @ inner[0], size)

    # -- to be implemented by a new detector ------------------------------------------

    def default_features(self) -> ExtractorLike:
        """Return the extractor of ``features=None``; a new detector implements this.

        Returns
        -------
        extractor : unfitted extractor, such as DinoFeatures
        """
        raise NotImplementedError(f"{type(self).__name__} has no default_features.")

    def fit_grids(self, F: np.ndarray) -> None:
        """Learn from features of normal images; a new detector implements this.

        Parameters
        ----------
        F : ndarray of shape (n, h, w, c), float32
            NaN = invalid patch.
        """
        raise NotImplementedError(f"{type(self).__name__} has no fit_grids.")

    def score_grids(self, F: np.ndarray) -> np.ndarray:
        """Return the scores of patches; a new detector implements this.

        Parameters
        ----------
        F : ndarray of shape (n, h, w, c), float32
            NaN = invalid patch.

        Returns
        -------
        D : ndarray of shape (n, h, w), float32
            Higher = more anomalous, NaN = invalid.
        """
        raise NotImplementedError(f"{type(self).__name__} has no score_grids.")

    def holdout_grids(self) -> Sequence[np.ndarray] | np.ndarray | None:
        """Return held-out scores of training images; a new detector implements this.

        Returns
        -------
        D : sequence of ndarray of shape (h, w), or None
            The scores of each training image by a model that has not seen it; None if
            no image could be held out.
        """
        raise NotImplementedError(f"{type(self).__name__} has no holdout_grids.")

    # -- private ----------------------------------------------------------------------

    def _held_of_each(self):
        """Return the held-out score grid of each row of ``fit`` that has one."""
        grids = self.holdout_grids()
        if grids is None:
            return {}
        numbers, grids = self._counted_once(grids)
        known = set(self.holdout_rows_.tolist())
        rows = (self._register.sources[i][0] for i in numbers)
        return {row: grid for row, grid in zip(rows, grids) if row in known}

    def _iter_scored(self, X, affines, sizes, maps):
        row = 0
        for D, inner in self._iter_score_grids(X):
            for grid, score, affine in zip(D, -self._aggregate(D), inner):
                if np.isnan(score):
                    raise nothing_valid(X, row)
                heat = None
                if maps:
                    outer = np.eye(3) if affines is None else affines[row]
                    size = size_of(X, row) if sizes is None else sizes[row]
                    heat = self._map(grid, outer @ affine, size)
                yield score, heat
                row += 1

    def _map(self, grid, affine, size):
        """Return the heat map of one image."""
        # An extractor that crops leaves up to a patch at the edges uncovered.
        margin = 1.5 if getattr(self.features_, "cropping", None) == "patches" else 0.5
        heat = warp_back(self._shown([grid])[0], affine, size, margin=margin)
        share = getattr(self, "map_smoothing", 0)
        if not share or self.features_ is None:  # feature grids have no pixels
            return heat
        inside = None if self._scores_everywhere() else heat > 0
        return smooth_pixels(heat, share * size[0], inside=inside)

    def _scores_everywhere(self):
        """Return whether invalid patches also have a score, which is 0."""
        return False

    def _scores(self, X):
        """Return the scores of all images, NaN where no patch is valid."""
        return -np.concatenate(
            [self._aggregate(D) for D, _ in self._iter_score_grids(X)]
        )

    def _threshold(self):
        threshold = as_threshold(self.offset_)
        if np.isnan(threshold):
            raise ValueError(
                "This detector has no threshold (offset_ is NaN), because no training "
                "image was held out: it was fitted on a single image, or with "
                "holdout=None. Change that, or set offset_ yourself."
            )
        return threshold

    def _aggregate(self, D):
        """Return the anomaly scores of images from their score grids."""
        return aggregate([g if g.ndim == 2 else g[0] for g in D], self.aggregate)

    def _iter_score_grids(self, X):
        """Yield (score grids, affines) batch by batch; all scores come from here."""
        X = self._input_to_score(X)
        row, expected = 0, self.grid_shape_
        for F, affines in self._batches(X, "score"):
            for grid in F:
                self._check_features(grid)
                if expected is not None:
                    self._check_shape(grid.shape, expected, name_of(X, row))
                row += 1
            yield self._score(F), affines

    def _score(self, F):
        """Score features; a list means grids of different sizes."""
        if isinstance(F, list):
            return [self.score_grids(np.asarray(f[None], np.float32))[0] for f in F]
        return self.score_grids(np.asarray(F, np.float32))

    def _check_input(self, X):
        return as_images(X) if self._takes_images(X) else check_grids(X)

    def _input_to_score(self, X):
        X = self._check_input(X)
        if isinstance(X, Images):
            return self._images_to_score(X)
        check_channels(X)
        return X

    def _learn_more_seen(self, X):
        """Record hidden pixels of images that were added after ``fit``."""
        if isinstance(X, Images):
            self.hidden_pixels_ = self.hidden_pixels_ or X.hidden
            self._warn_without_alpha(X)

    def _warn_of_input(self, X):
        if isinstance(X, Images):
            self._warn_without_alpha(X)

    def _takes_images(self, X):
        """Whether X holds images; with an explicit extractor it always does."""
        if self.features is None:
            return holds_images(X)
        return not isinstance(self.features, str)

    def _batches(self, X, task):
        """Yield (features, affines) of a few images at a time, to limit memory."""
        starts = range(0, len(X), size := images_at_once(self.features_))
        quiet = not self.verbose or len(starts) == 1
        for start in tqdm(starts, desc=task, unit="batch", disable=quiet):
            yield self._read_batch(X[start : start + size])

    def _read_batch(self, batch):
        """Return the features and affines of a few images."""
        F, affines = batch, np.broadcast_to(np.eye(3), (len(batch), 3, 3))
        if self.features_ is not None:
            F, affines = self.features_.transform_affines(batch)
        if self._layers_apart:
            F = with_layers_apart(F, getattr(self.features_, "n_groups_", 1))
        return F, affines

    def _check_features(self, grid):
        check_patches(grid, (3, 4) if self._layers_apart else (3,))
