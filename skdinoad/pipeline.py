"""Pipelines whose heat maps have the pixel coordinates of the input images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import joblib
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline as SklearnPipeline
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.maps import stacked
from skdinoad._compat.sklearn import name_estimators
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import ImageEstimator, reset
from skdinoad._inputs.images import Images, as_images
from skdinoad._typing import (
    DetectorLike,
    ImagesLike,
    LabelsLike,
    OneOrList,
    Self,
    Threshold,
)

__all__ = [
    "Pipeline",
    "final_detector",
    "iter_holdout_maps",
    "iter_maps",
    "iter_scored",
    "make_pipeline",
    "pixel_threshold_owner",
    "predict_map",
    "threshold_owner",
]

#: Number of images aligned and scored at a time; limits memory use.
_CHUNK = 32

_Method = TypeVar("_Method", bound=Callable[..., Any])


def predict_map(estimator: DetectorLike, X: ImagesLike) -> OneOrList:
    """Return heat maps of any fitted estimator that ends in a detector.

    Parameters
    ----------
    estimator : estimator
        A detector, a Pipeline (scikit-learn's or this library's, also nested), a
        search such as GridSearchCV, a FrozenEstimator, or another meta-estimator that
        stores its fitted estimator in ``best_estimator_`` or ``estimator_``.
    X : array, list of images or paths
        Any input that ``estimator.predict`` accepts.

    Returns
    -------
    maps : ndarray of shape (n, H, W), float32
        Higher = more anomalous, in the pixel coordinates of X regardless of alignment
        and resizing. A list of (H, W) arrays if images differ in size.

    Raises
    ------
    TypeError
        If a step changes the geometry of images without ``transform_affines``, or the
        last step is not a detector.

    See Also
    --------
    iter_maps : Yield the maps one by one, for image sets larger than memory.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdinoad import DinoFeatures, DinoPatch, PCAAligner, predict_map
    >>> X = np.random.default_rng(0).random((3, 40, 50, 3))
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> pipe = make_pipeline(PCAAligner(mode="none"), DinoPatch(features=features))
    >>> predict_map(pipe.fit(X), X).shape
    (3, 40, 50)
    """
    return stacked(list(iter_maps(estimator, X)))


def iter_maps(estimator: DetectorLike, X: ImagesLike) -> Iterator[np.ndarray]:
    """Yield the heat maps that :func:`predict_map` returns, one by one.

    Images are read batch by batch as maps are requested, so memory use does not depend
    on the number of images.

    Parameters
    ----------
    estimator : estimator
        As for :func:`predict_map`.
    X : array, list of images or paths

    Yields
    ------
    heat : ndarray of shape (H, W), float32
        Higher = more anomalous, in the pixel coordinates of its image.

    Raises
    ------
    TypeError
        As in :func:`predict_map`. An image that cannot be scored raises an error once
        its batch is reached.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoFeatures, DinoPatch, iter_maps
    >>> X = np.random.default_rng(0).random((3, 40, 50, 3))
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> detector = DinoPatch(features=features).fit(X)
    >>> [heat.shape for heat in iter_maps(detector, X)]
    [(40, 50), (40, 50), (40, 50)]
    """
    X = as_input(estimator, X)
    pairs = iter_scored(estimator, X)
    return _heats(estimator, X, pairs)


def _heats(estimator, X, pairs):
    for _, heat in pairs:
        yield heat
    warn_without_alpha(estimator, X)


def iter_scored(
    estimator: DetectorLike, X: ImagesLike, *, maps: bool = True
) -> Iterator[tuple[float, np.ndarray | None]]:
    """Yield the score and the heat map of each image in one pass.

    Each image is aligned once, passed through the network once, and compared with the
    good images once. All functions that need heat maps use this one.

    Parameters
    ----------
    estimator : estimator
        As for :func:`predict_map`.
    X : array, list of images or paths
    maps : bool, default=True
        Whether to compute heat maps.

    Yields
    ------
    score : float
        Higher = more normal, as returned by ``score_samples``.
    heat : ndarray of shape (H, W), float32, or None
        As yielded by :func:`iter_maps`.
    """
    *transformers, _ = _flatten(estimator)
    detector = final_detector(estimator)
    if not transformers:
        return detector.iter_scored(X, maps=maps)
    return _iter_behind(transformers, detector, as_images(X), maps)


def _iter_behind(transformers, detector, images, maps):
    parts = _transformed(transformers, detector, images, geometry=maps)
    for Z, affines, sizes in parts:
        yield from detector.iter_scored(Z, affines, sizes, maps=maps)


def as_input(estimator, X):
    """Return X as Images, whose slices keep row names; feature grids are unchanged."""
    *transformers, _ = _flatten(estimator)
    detector = final_detector(estimator)
    return as_images(X) if transformers or detector._takes_images(X) else X


def warn_without_alpha(estimator, X):
    """Warn about images read so far without alpha if training images hid pixels."""
    first = _flatten(estimator)[0]
    if isinstance(X, Images) and isinstance(first, ImageEstimator):
        first._warn_without_alpha(X)


def iter_holdout_maps(
    estimator: DetectorLike, X: ImagesLike
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield heat maps of training images, each by a model that has not seen it.

    For detectors that train a network this works only in the process that fitted them,
    because saved files do not contain the data it needs.

    Parameters
    ----------
    estimator : estimator
        As for :func:`predict_map`, fitted on X.
    X : array, list of images or paths
        The images passed to ``estimator.fit``.

    Yields
    ------
    row : int
        Row of X, in increasing order. Rows that were not held out are skipped:
        anomalous images and exact copies, and every row if the threshold does not come
        from held-out images.
    heat : ndarray of shape (H, W), float32
        Higher = more anomalous, in the pixel coordinates of the image.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoFeatures, DinoPatch
    >>> from skdinoad.pipeline import iter_holdout_maps
    >>> X = np.random.default_rng(0).random((3, 40, 50, 3))
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> detector = DinoPatch(features=features).fit(X)
    >>> [(row, heat.shape) for row, heat in iter_holdout_maps(detector, X)]
    [(0, (40, 50)), (1, (40, 50)), (2, (40, 50))]
    """
    *transformers, _ = _flatten(estimator)
    detector = final_detector(estimator)
    if not transformers:
        yield from detector.iter_holdout_maps(X)
        return
    start = 0
    for Z, affines, sizes in _transformed(transformers, detector, as_images(X)):
        rows = range(start, start := start + len(sizes))
        yield from detector.iter_holdout_maps(Z, affines, sizes, rows)


def _transformed(transformers, detector, images, *, geometry=True):
    """Yield the detector's input, affines and sizes for a few images at a time.

    Without ``geometry``, affines and sizes are None and steps may change image sizes.
    """
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        sizes = [chunk.size(i) for i in range(len(chunk))] if geometry else None
        with isolated_torch_state():
            Z, affines = _transform(transformers, chunk, geometry)
            if getattr(detector, "features_", None) is not None:
                Z = as_images(Z, first=chunk.row(0))  # messages name rows of X
        yield Z, affines, sizes


def final_detector(estimator):
    """Return the fitted detector at the end of an estimator; see predict_map."""
    detector = _flatten(estimator)[-1]
    if hasattr(detector, "estimator"):
        check_is_fitted(detector)
    if not hasattr(detector, "iter_scored"):
        raise TypeError(
            f"The last step is {detector!r}, which has no heat maps; expected a "
            "detector of skdinoad, such as DinoPatch."
        )
    check_is_fitted(detector)
    return detector


def _flatten(estimator):
    """Return the fitted steps without their wrappers; the detector comes last."""
    estimator = _unwrap(estimator)
    if not isinstance(estimator, SklearnPipeline):
        return [estimator]
    return [inner for step in _steps(estimator) for inner in _flatten(step)]


def _steps(pipeline):
    """Return the steps that do something."""
    return [step for _, step in pipeline.steps if step not in (None, "passthrough")]


def _unwrap(estimator, names=("best_estimator_", "estimator_")):
    if isinstance(estimator, FrozenEstimator):
        return _unwrap(estimator.estimator, names)
    for name in names:
        if hasattr(estimator, name):
            return _unwrap(getattr(estimator, name), names)
    return estimator


def threshold_owner(estimator):
    """Return the estimator whose threshold is used: the final detector or a tuner."""
    estimator = _unwrap(estimator, names=("best_estimator_",))
    if not isinstance(estimator, SklearnPipeline):
        return estimator
    return threshold_owner([None, *_steps(estimator)][-1])


def pixel_threshold_owner(estimator):
    """Return the estimator whose threshold on heat maps is used.

    This is the tuner if it has chosen one, otherwise the final detector.
    """
    judging = threshold_owner(estimator)
    return judging if hasattr(judging, "pixel_threshold_") else _last(estimator)


def _leaves(pipeline):
    """Return the estimators that ``pipeline.fit`` fits, also in nested Pipelines."""
    if isinstance(pipeline, SklearnPipeline):
        return [leaf for step in _steps(pipeline) for leaf in _leaves(step)]
    kept = isinstance(pipeline, FrozenEstimator) or not hasattr(pipeline, "fit")
    return [] if kept else [pipeline]


def _transform(transformers, images, geometry):
    """Apply all steps; return the result and its affines to pixels of ``images``."""
    affines = np.broadcast_to(np.eye(3), (len(images), 3, 3)) if geometry else None
    # Images report a bad image by its row; other libraries' steps get X as passed.
    known = hasattr(transformers[0], "transform_affines")
    Z = images if known else images.as_given()
    for step in transformers:
        if not geometry:
            Z = step.transform(Z)
        elif hasattr(step, "transform_affines"):
            Z, inner = step.transform_affines(Z)
            affines = affines @ inner
        else:
            Z = _pixelwise(step, Z)
    return Z, affines


def _pixelwise(step, Z):
    """Apply a step without ``transform_affines``; it must not change the geometry."""
    out = step.transform(Z)
    before, after = as_images(Z), as_images(out)
    same = len(before) == len(after) and all(
        before.size(i) == after.size(i) for i in range(len(before))
    )
    if not same:
        raise TypeError(
            f"{step!r} changes the size of images but has no transform_affines, so "
            "heat maps cannot be mapped back to the input. Add a method "
            "transform_affines(X) "
            "-> (Xt, affines), where affines (n, 3, 3) map output to input pixels."
        )
    return out


def _final_estimator_has_maps(pipeline):
    return _is_sound(pipeline.steps) and hasattr(
        [None, *_flatten(pipeline)][-1], "iter_scored"
    )


def _inherited(name: str) -> Callable[[_Method], _Method]:
    """Decorate a method that exists if scikit-learn's Pipeline would have it."""
    return _where(lambda pipeline: hasattr(super(Pipeline, pipeline), name))


def _where(check: Callable[[Any], bool]) -> Callable[[_Method], _Method]:
    """Return scikit-learn's ``available_if``, typed to preserve the signature."""
    return available_if(check)


class Pipeline(SklearnPipeline):
    """scikit-learn's Pipeline with heat maps and optional step names.

    Parameters
    ----------
    steps : list of estimators or of (name, estimator) pairs
        Steps without a name are named as ``make_pipeline`` names them.
    transform_input, memory, verbose
        As in :class:`sklearn.pipeline.Pipeline`.

    Attributes
    ----------
    offset_ : float, or dict of group to float
        The threshold that ``predict`` uses. It belongs to the last step, also inside
        Pipelines, searches and FrozenEstimators. A ThresholdTunerCV uses its own
        threshold, not that of its detector. It can be set; ``clone`` and ``fit``
        discard a value that was set.
    map_limits_ : (float, float)
        The detector's display range for heat maps. It can be set too.
    pixel_threshold_ : float, or dict of group to float
        The threshold on heat maps, found like ``offset_``. A ThresholdTunerCV without
        ``target_pixel_fpr`` uses that of its detector. It can be set too.

    Notes
    -----
    If ``fit`` fails or is interrupted, all steps are left unfitted. Otherwise a newly
    fitted aligner could feed a detector of an earlier fit, which would give wrong
    scores without an error.

    Examples
    --------
    >>> from skdinoad import DinoPatch, PCAAligner, Pipeline
    >>> list(Pipeline([PCAAligner(), DinoPatch()]).named_steps)
    ['pcaaligner', 'dinopatch']
    """

    def __init__(
        self,
        steps: Sequence[Any],
        *,
        transform_input: Sequence[str] | None = None,
        memory: str | joblib.Memory | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            _named(steps),
            transform_input=transform_input,
            memory=memory,
            verbose=verbose,
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return parameters by name, including those of the steps if ``deep``."""
        return super().get_params(deep=deep and _is_sound(self.steps))

    def set_params(self, **params: Any) -> Self:
        """Set parameters, as in scikit-learn; ``steps`` need no names.

        Parameters
        ----------
        **params
            ``steps``, the name of a step, or ``step__parameter``.

        Returns
        -------
        self
        """
        if "steps" in params:
            params["steps"] = _named(params["steps"])
        return super().set_params(**params)

    def fit(self, X: ImagesLike, y: LabelsLike | None = None, **params: Any) -> Self:
        """Fit all steps, each on the output of the previous one.

        Parameters
        ----------
        X : array, list of images or paths
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous.
        **params
            As in :class:`sklearn.pipeline.Pipeline`: ``step__parameter``.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If ``steps`` are not estimators or (name, estimator) pairs.
        """
        with _all_or_nothing(self):
            return super().fit(X, y, **params)

    @_inherited("fit_transform")
    def fit_transform(
        self, X: ImagesLike, y: LabelsLike | None = None, **params: Any
    ) -> Any:
        """Fit all steps and transform X; parameters as in ``fit``."""
        with _all_or_nothing(self):
            return super().fit_transform(X, y, **params)

    @_inherited("fit_predict")
    def fit_predict(
        self, X: ImagesLike, y: LabelsLike | None = None, **params: Any
    ) -> np.ndarray:
        """Fit all steps and predict the labels of X; parameters as in ``fit``."""
        with _all_or_nothing(self):
            return super().fit_predict(X, y, **params)

    @property
    def offset_(self) -> Threshold:
        return _holder(self, "offset_", threshold_owner).offset_

    @offset_.setter
    def offset_(self, value: Threshold) -> None:
        _holder(self, "offset_", threshold_owner).offset_ = value

    @property
    def map_limits_(self) -> tuple[float, float]:
        return _holder(self, "map_limits_", _last).map_limits_

    @map_limits_.setter
    def map_limits_(self, value: tuple[float, float]) -> None:
        _holder(self, "map_limits_", _last).map_limits_ = value

    @property
    def pixel_threshold_(self) -> Threshold:
        return _holder(self, "pixel_threshold_", pixel_threshold_owner).pixel_threshold_

    @pixel_threshold_.setter
    def pixel_threshold_(self, value: Threshold) -> None:
        _holder(
            self, "pixel_threshold_", pixel_threshold_owner
        ).pixel_threshold_ = value

    def __sklearn_tags__(self):
        if not _is_sound(self.steps):
            return super(SklearnPipeline, self).__sklearn_tags__()
        tags, first = super().__sklearn_tags__(), _first(self)
        if hasattr(first, "__sklearn_tags__"):
            tags.input_tags = get_tags(first).input_tags
        return tags

    @_where(_final_estimator_has_maps)
    def predict_map(self, X: ImagesLike) -> OneOrList:
        """Return heat maps in the coordinates of X; see :func:`predict_map`.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        maps : ndarray of shape (n, H, W), float32, or list of (H, W)
            Higher = more anomalous.
        """
        return predict_map(self, X)


@contextmanager
def _all_or_nothing(pipeline):
    """Leave all steps unfitted if the block fails."""
    _check_steps(pipeline.steps)
    try:
        yield
    except BaseException:
        for step in _leaves(pipeline):
            step._reset() if isinstance(step, ImageEstimator) else reset(step)
        raise


def _first(estimator):
    """Return the first step."""
    if not isinstance(estimator, SklearnPipeline):
        return estimator
    return _first([*_steps(estimator), None][0])


def _last(estimator):
    return [None, *_flatten(estimator)][-1]


def _holder(pipeline, name, find):
    """Return the fitted estimator whose attribute a Pipeline exposes."""
    holder = find(pipeline) if _is_sound(pipeline.steps) else None
    if not hasattr(holder, name):
        raise AttributeError(
            f"This Pipeline has no {name}: it is not fitted, or its last step is "
            "not a detector. Call fit first."
        )
    return holder


def _named(steps):
    """Name steps without a name; return a list of named steps unchanged.

    Anything that is not a list is also returned unchanged; ``fit`` raises the error.
    """
    if not isinstance(steps, (list, tuple)) or all(map(_has_name, steps)):
        return steps  # clone requires the same object
    bare = [step[-1] if _has_name(step) and step else step for step in steps]
    names = [name for name, _ in name_estimators(bare)]
    return [s if _has_name(s) else (n, s) for n, s in zip(names, steps)]


def _has_name(step):
    return isinstance(step, (list, tuple))


def _is_pair(step):
    return _has_name(step) and len(step) == 2 and isinstance(step[0], str)


def _is_sound(steps):
    return isinstance(steps, (list, tuple)) and all(map(_is_pair, steps))


def _check_steps(steps):
    """Raise an error unless steps are pairs; scikit-learn checks their contents."""
    if isinstance(steps, (list, tuple)) and not steps:
        raise ValueError("This Pipeline has no steps; it needs at least a detector.")
    if not _is_sound(steps):
        wrong = steps
        if isinstance(steps, (list, tuple)):
            wrong = next(step for step in steps if not _is_pair(step))
        raise TypeError(
            "Pipeline expects steps as a list of estimators or of (name, estimator) "
            f"pairs, such as [PCAAligner(), DinoPatch()]; got {wrong!r}."
        )


def make_pipeline(
    *steps: Any,
    memory: str | joblib.Memory | None = None,
    transform_input: Sequence[str] | None = None,
    verbose: bool = False,
) -> Pipeline:
    """Return a :class:`Pipeline` of steps named after their classes.

    Parameters
    ----------
    *steps : estimators
    memory, transform_input, verbose
        As in :class:`sklearn.pipeline.Pipeline`.

    Returns
    -------
    Pipeline
    """
    return Pipeline(
        list(steps), memory=memory, transform_input=transform_input, verbose=verbose
    )
