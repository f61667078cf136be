"""Fitting in parts: shards, merged detectors, features that several fits share."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import joblib
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skdinoad._typing import DetectorLike, ExtractorLike, ImagesLike
from skdinoad.features._textured import TexturedFeatures
from skdinoad.scale._jobs import run_jobs

__all__ = ["cache_features", "fit_sharded", "merge"]

#: Settings that do not affect results, or that fitted extractors state more precisely.
_ELSEWHERE = {"runtime", "cache", "device", "features", "texture"} | {
    *("random_state", "verbose", "weights", "weights_name_"),
}


#: Images whose features are in memory at a time.
_CHUNK = 16


def merge(detectors: Sequence[DetectorLike]) -> Any:
    """Return one detector that knows the images of several.

    Banks of AnomalyDINO and DinoPatch hold the features of their images, so that what
    is left to do is what ``fit`` does behind the network: exact copies are found across
    detectors, every image is held out from the vectors of all others, and scales,
    threshold and limits are learned anew. As long as the banks keep all vectors the
    result is that of one fit on all images, in the order of the detectors. Vectors
    beyond the ``size`` of AnomalyDINO's bank are gone: the merged bank is a coreset of
    coresets, and an image that lost some keeps the held-out score of its own detector,
    which is too low, so that fewer images are flagged. :func:`fit_sharded` thins once,
    at the end.

    Means and covariances of features add up as well: SubspaceAD and
    ``LinearDFR(holdout=None, max_rows=None)`` get the subspace of one
    fit, up to rounding. They hold no image to be held out: the merged ones have no
    threshold, and SubspaceAD compares layers by what is left of all patches learned.

    Parameters
    ----------
    detectors : sequence of AnomalyDINO, of DinoPatch, of SubspaceAD or of DFR
        Fitted, all with the same parameters and the same weights.

    Returns
    -------
    detector : AnomalyDINO, DinoPatch, SubspaceAD or DFR
        A new one; those given stay as they are.

    Raises
    ------
    TypeError
        If one is of another kind: what a trained network has learned does not add up.
    ValueError
        If parameters, weights or what an extractor has learned differ (naming what),
        there is none, a DinoPatch keeps a reduced bank, or a SubspaceAD has turned
        images that one fit would not.
    NotFittedError
        If one is not fitted.

    See Also
    --------
    fit_sharded : Fits the parts, too.

    Notes
    -----
    A bank with ``dtype="float16"`` gives the scores of one fit up to its rounding. With
    ``rotations="informed"`` turned copies that all detectors have dropped stay away.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoPatch
    >>> from skdinoad.scale import merge
    >>> F = np.random.default_rng(0).normal(size=(5, 4, 4, 8)).astype(np.float32)
    >>> detector = merge([DinoPatch().fit(F[:2]), DinoPatch().fit(F[2:])])
    >>> bool(detector.offset_ == DinoPatch().fit(F).offset_)
    True
    """
    detectors = list(detectors)
    if not detectors:
        raise ValueError("No detector given: nothing to merge.")
    _check_one_kind(detectors)
    for detector in detectors:
        _check_mergeable(detector, "_join")
        check_is_fitted(detector)
    _check_alike(detectors)
    return clone(detectors[0])._merge(detectors)


def fit_sharded(
    estimator: Any, shards: Sequence[ImagesLike], client: Any = None
) -> Any:
    """Fit a detector on images in several lists, each read somewhere else.

    Parameters
    ----------
    estimator : AnomalyDINO, DinoPatch or DFR
        It is not changed. Of DFR the one that :func:`merge` takes. For all others
        :func:`cache_features`, and one ``fit``.
    shards : sequence of lists of paths, of images, or of arrays
        Good images alone, as ``fit`` takes them; one list is one piece of work. Give
        paths that all machines can read: arrays travel to them.
    client : dask.distributed.Client or None, default=None
        None = joblib, by its present backend: inside
        ``joblib.parallel_config(n_jobs=4)`` four processes.

    Returns
    -------
    detector : AnomalyDINO, DinoPatch or DFR
        Fitted as by ``fit`` on all images, in their order: what is thinned or projected
        is so once, at the end and here. This process therefore holds the features of
        all images, as one fit would.

    Raises
    ------
    TypeError
        If the estimator is of another kind, or ``client`` is none.
    ValueError, OSError
        As ``fit`` raises them, naming the shard; or if an extractor has learned another
        thing from each shard, or images have more than 8 bits, whose range would be.

    See Also
    --------
    merge : Of detectors that are fitted already.
    cache_features : Shares the network's work for a fit of any detector.

    Notes
    -----
    Results differ from one fit's as far as the network's do for batches of another
    size: in the last bits. A worker of Dask that dies loses its shard, which another
    fits again.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import AnomalyDINO, MemoryBank
    >>> from skdinoad.scale import fit_sharded
    >>> F = np.random.default_rng(0).normal(size=(6, 4, 4, 8)).astype(np.float32)
    >>> estimator = AnomalyDINO(bank=MemoryBank(size=20))
    >>> detector = fit_sharded(estimator, [F[:2], F[2:]])
    >>> bool(detector.offset_ == estimator.fit(F).offset_)
    True
    """
    _check_mergeable(estimator, "_clone_for_merge")
    clone(estimator)._validate_params()
    jobs = [(estimator._clone_for_merge(), shard, i) for i, shard in enumerate(shards)]
    if not jobs:
        raise ValueError("No shard given: nothing to fit on.")
    parts = run_jobs(_fit, jobs, client)
    _check_alike(parts)
    return clone(estimator)._merge(parts)


def _fit(estimator, shard, number):
    with _shard_named(number):
        return clone(estimator).fit(shard)


def cache_features(
    features: ExtractorLike, shards: Sequence[ImagesLike], client: Any = None
) -> None:
    """Compute the features of images in several lists, each read somewhere else.

    They go to the extractor's folder, ``cache=``, from where one ``fit`` on all images
    takes them: it reads the images, and the network sees none. So the network's work is
    shared for any detector: a trained one, whose networks do not add up, a search, or
    thresholds by folds.

    Parameters
    ----------
    features : DinoFeatures or CNNFeatures
        With ``cache=`` a folder that all machines can reach. It is not changed.
    shards : sequence of lists of paths, of images, or of arrays
        As for :func:`fit_sharded`, of 8 bits: what other depths are scaled by is
        learned from all images.
    client : dask.distributed.Client or None, default=None
        None = joblib, by its present backend.

    Raises
    ------
    ValueError
        If ``cache`` is no folder, images have more than 8 bits, or one cannot be read,
        naming the shard.
    TypeError
        If ``client`` is no client.

    Examples
    --------
    >>> import tempfile
    >>> from skdinoad import DinoFeatures, SubspaceAD
    >>> from skdinoad.scale import cache_features
    >>> from skdinoad.testing import make_images
    >>> X = make_images(6)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     how = {"model": "test_vit", "weights": "random:0", "image_size": 64}
    ...     features = DinoFeatures(cache=folder, **how)
    ...     cache_features(features, [X[:3], X[3:]])
    ...     detector = SubspaceAD(features=features, rotations="none").fit(X)
    >>> detector.predict(X[:2])
    array([1, 1])
    """
    if getattr(features, "cache", None) in (None, False):
        raise ValueError(
            f"{features!r} keeps no features on disk: pass cache='folder', one that "
            "all machines can reach."
        )
    jobs = [(features, shard, i) for i, shard in enumerate(shards)]
    run_jobs(_extract, jobs, client)


def _extract(features, shard, number):
    with _shard_named(number):
        fitted = clone(features).fit(shard)
        if fitted.value_range_ is not None:
            raise ValueError(
                "images of more than 8 bits, whose range is learned from all of them: "
                "scale them to 8 bits."
            )
        for start in range(0, len(shard), _CHUNK):
            fitted.transform(shard[start : start + _CHUNK])


@contextmanager
def _shard_named(number):
    """Say in which shard an error has come up."""
    try:
        yield
    except Exception as error:
        if len(error.args) == 1:
            error.args = (f"shards[{number}]: {error.args[0]}",)
        raise


def _check_one_kind(detectors):
    first = type(detectors[0]).__name__
    for i, detector in enumerate(detectors):
        own = type(detector).__name__
        if type(detector) is not type(detectors[0]):
            raise TypeError(
                f"detectors[{i}] is {own}, detectors[0] is {first}: {own} cannot be "
                f"merged with {first}; expected detectors of one kind."
            )


def _check_mergeable(detector, method):
    """Refuse what has no ``_join``, or no ``_clone_for_merge`` that makes it exact."""
    if not hasattr(detector, method):
        raise TypeError(
            f"{type(detector).__name__} cannot be fitted in parts; AnomalyDINO and "
            "DinoPatch can. Behind an aligner, fit that first, on some of the images, "
            "and shard what comes out of it. LinearDFR can with holdout=None "
            "and max_rows=None; SubspaceAD can be merged only, since "
            "thresholds need a second look at each image. For all others: "
            "cache_features, and one fit."
        )
    learns = "standardize"  # from images, so that each shard would have another scale
    extractors = detector.features, getattr(detector, "texture", None)
    if any(getattr(extractor, learns, False) is True for extractor in extractors):
        raise ValueError(
            "An extractor with standardize=True learns from the images it sees, here "
            "another thing in each part: pass standardize=False or 'levels'."
        )


def _check_alike(detectors):
    """Refuse to merge what is not one thing in parts."""
    first = _settings(detectors[0])
    for i, detector in enumerate(detectors):
        own = _settings(detector)
        differing = sorted(k for k in {*own, *first} if own.get(k) != first.get(k))
        if differing:
            raise ValueError(
                f"detectors[{i}] differs from detectors[0] in {', '.join(differing)}: "
                "they could not be one fit. Fit them again, alike; images of more than "
                "8 bits, whose range fit learns (value_range_), scaled to 8 bits."
            )


def _settings(detector):
    """Return digests of what shapes all that a detector learns from an image."""
    parts = {"features_": detector.features_}
    if isinstance(detector.features_, TexturedFeatures):
        both = detector.features_
        parts = {"features_": both.features_, "texture_": both.texture_}
    known = {
        **_parameters(detector),
        **{
            f"{part}.{name}": value
            for part, extractor in parts.items()
            for name, value in _attributes(extractor).items()
        },
        "value_range_": getattr(detector, "value_range_", None),
    }
    return {
        name: joblib.hash(value)
        for name, value in known.items()
        if name.rpartition(".")[2] not in _ELSEWHERE
    }


def _parameters(estimator):
    """Return all parameters by name, those of default parts too."""
    known = estimator.get_params(deep=False)
    for name in getattr(estimator, "_default_parts", ()):
        known[name] = estimator._part(name).get_params()
    return known


def _attributes(extractor):
    """Return the parameters of a fitted extractor, and what it has learned."""
    if not hasattr(extractor, "get_params"):
        return {}
    known = {**vars(extractor), **_parameters(extractor)}
    if "runtime" in known:
        known["dtype"] = known["runtime"]["dtype"]
    return known
