"""Pipelines that carry heat maps back to the images given in."""

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline as SklearnPipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skdinoad._compat.sklearn import name_estimators
from skdinoad._inputs.images import as_images
from skdinoad.base import TakesImages

__all__ = ["Pipeline", "final_detector", "make_pipeline", "predict_map"]

#: Images that are aligned and scored at a time: bounds the memory.
_CHUNK = 32


def predict_map(estimator, X):
    """Return heat maps of any fitted estimator that ends in a detector.

    Parameters
    ----------
    estimator : estimator
        A detector, a Pipeline (scikit-learn's own or ours, nested too), a search
        such as GridSearchCV, a FrozenEstimator, or another meta-estimator that keeps
        its fitted part in ``best_estimator_`` or ``estimator_``.
    X : array, list of images or paths
        What ``estimator.predict`` takes.

    Returns
    -------
    maps : ndarray of shape (n, H, W), float32
        Higher = more anomalous, in the pixel coordinates of X, whatever alignment
        and resizing stand between. A list of (H, W) arrays if images differ in size.

    Raises
    ------
    TypeError
        If a step changes the geometry of images without ``transform_frames``, or the
        last step is no detector.

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
    *transformers, _ = _flatten(estimator)
    detector = final_detector(estimator)
    if not transformers:
        return detector.predict_map(X)
    images = as_images(X)
    maps = []
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        sizes = [chunk.size(i) for i in range(len(chunk))]
        Z, frames = _transform(transformers, chunk, X[start : start + _CHUNK])
        if getattr(detector, "features_", None) is not None:
            Z = as_images(Z, first=start)  # so that messages name rows of X
        maps.extend(detector.map_frames(Z, frames, sizes))
    if isinstance(transformers[0], TakesImages):
        transformers[0]._warn_without_alpha(images, stacklevel=3)
    return np.stack(maps) if len({m.shape for m in maps}) == 1 else maps


def final_detector(estimator):
    """Return the fitted detector in which an estimator ends; as for predict_map."""
    detector = _flatten(estimator)[-1]
    if not hasattr(detector, "map_frames"):
        raise TypeError(
            f"The last step is {detector!r}, which has no heat maps; expected a "
            "detector of skdinoad, such as DinoPatch."
        )
    check_is_fitted(detector)
    return detector


def _flatten(estimator):
    """Return the fitted steps, transformers first, with all wrappers taken off."""
    estimator = _unwrap(estimator)
    if not isinstance(estimator, SklearnPipeline):
        return [estimator]
    steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    return [inner for step in steps for inner in _flatten(step)]


def _unwrap(estimator):
    if isinstance(estimator, FrozenEstimator):
        return _unwrap(estimator.estimator)
    for name in ("best_estimator_", "estimator_"):
        if hasattr(estimator, name):
            return _unwrap(getattr(estimator, name))
    return estimator


def _transform(transformers, images, X):
    """Apply all steps; return the result and its frames to the pixels of X."""
    frames = np.broadcast_to(np.eye(3), (len(images), 3, 3))
    # Images name a bad image by its row in X; a foreign first step wants X itself.
    Z = images if hasattr(transformers[0], "transform_frames") else X
    for step in transformers:
        if hasattr(step, "transform_frames"):
            Z, inner = step.transform_frames(Z)
            frames = frames @ inner
        else:
            Z = _pixelwise(step, Z)
    return Z, frames


def _pixelwise(step, Z):
    """Apply a step that says nothing of geometry, if it leaves the pixels in place."""
    out = step.transform(Z)
    before, after = as_images(Z), as_images(out)
    same = len(before) == len(after) and all(
        before.size(i) == after.size(i) for i in range(len(before))
    )
    if not same:
        raise TypeError(
            f"{step!r} changes the size of images but has no transform_frames, so maps "
            "cannot be carried back through it. Give it a method transform_frames(X) "
            "-> (Xt, frames), frames (n, 3, 3) taking output to input pixels."
        )
    return out


def _final_estimator_has_maps(pipeline):
    return hasattr(_flatten(pipeline)[-1], "map_frames")


class Pipeline(SklearnPipeline):
    """scikit-learn's Pipeline, with heat maps and bare steps.

    Parameters
    ----------
    steps : list of estimators or of (name, estimator) pairs
        Steps without a name are named as ``make_pipeline`` names them.
    transform_input, memory, verbose
        As in :class:`sklearn.pipeline.Pipeline`.

    Examples
    --------
    >>> from skdinoad import DinoPatch, PCAAligner, Pipeline
    >>> list(Pipeline([PCAAligner(), DinoPatch()]).named_steps)
    ['pcaaligner', 'dinopatch']
    """

    def __init__(self, steps, *, transform_input=None, memory=None, verbose=False):
        super().__init__(
            _named(steps),
            transform_input=transform_input,
            memory=memory,
            verbose=verbose,
        )

    @available_if(_final_estimator_has_maps)
    def predict_map(self, X):
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


def _named(steps):
    """Name bare steps; a list that has names already is returned as it is."""
    if all(isinstance(step, tuple) for step in steps):
        return steps  # the same object, or clone would complain
    names = [name for name, _ in name_estimators([_bare(s) for s in steps])]
    return [s if isinstance(s, tuple) else (n, s) for n, s in zip(names, steps)]


def _bare(step):
    return step[1] if isinstance(step, tuple) else step


def make_pipeline(*steps, memory=None, transform_input=None, verbose=False):
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
