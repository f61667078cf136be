"""More images than one process should read: detectors merged, files scored in parts.

The engines are not ours: joblib with any backend, dask.distributed, Ray. Here is what
they need: a fit that can be split, and a piece of work that can be done again.
"""

import hashlib
import json
import multiprocessing
import os
import platform
from collections.abc import Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import joblib
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skdinoad._inputs.files import is_address
from skdinoad._typing import DetectorLike, ExtractorLike, FilePath, ImagesLike
from skdinoad.features._textured import TexturedFeatures
from skdinoad.persistence import load
from skdinoad.persistence._dump import replacing
from skdinoad.persistence._tables import check_format
from skdinoad.persistence._tables import write_table as _write
from skdinoad.regions import regions_table
from skdinoad.results import iter_results
from skdinoad.verdicts import threshold_of

__all__ = [
    "cache_features",
    "fit_sharded",
    "merge",
    "parts_to_score",
    "score_files",
    "score_part",
]

#: Says where and how a detector computes, or what its fitted extractors say better.
_ELSEWHERE = {"batch_size", "cache", "cache_size", "device", "features", "texture"} | {
    *("random_state", "verbose", "weights", "weights_name_"),
}

#: Images whose heat maps are in memory at a time.
_CHUNK = 16

_SCORES = {"path": str, "verdict": str, "score": float, "error": str}
_REGIONS = {
    "path": str,
    **dict.fromkeys(("top", "left", "bottom", "right", "area"), int),
    **{"peak": float, "mean": float, "row": int, "column": int},
}


# -- fitting --------------------------------------------------------------------------


def merge(detectors: Sequence[DetectorLike]) -> Any:
    """Return one detector that knows the images of several.

    Banks of AnomalyDINO and DinoPatch hold the features of their images, so that what
    is left to do is what ``fit`` does behind the network: exact copies are found across
    detectors, every image is held out from the vectors of all others, and scales,
    threshold and limits are learned anew. As long as the banks keep all vectors the
    result is that of one fit on all images, in the order of the detectors. Vectors that
    AnomalyDINO's ``bank_size`` has dropped are gone: the merged bank is a coreset of
    coresets, and an image that lost some keeps the held-out score of its own detector,
    which is too low, so that fewer images are flagged. :func:`fit_sharded` thins once,
    at the end.

    Means and covariances of features add up as well: SubspaceAD and
    ``DFR(autoencoder="linear", holdout=None, max_rows=None)`` get the subspace of one
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
    ``bank_dtype="float16"`` gives the scores of one fit up to its rounding. Under
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
    >>> from skdinoad import AnomalyDINO
    >>> from skdinoad.scale import fit_sharded
    >>> F = np.random.default_rng(0).normal(size=(6, 4, 4, 8)).astype(np.float32)
    >>> estimator = AnomalyDINO(bank_size=20)
    >>> detector = fit_sharded(estimator, [F[:2], F[2:]])
    >>> bool(detector.offset_ == estimator.fit(F).offset_)
    True
    """
    _check_mergeable(estimator, "_keeping_all")
    clone(estimator)._validate_params()
    jobs = [(estimator._keeping_all(), shard, i) for i, shard in enumerate(shards)]
    if not jobs:
        raise ValueError("No shard given: nothing to fit on.")
    parts = _done(_fit, jobs, client)
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
    _done(_extract, jobs, client)


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
    """Refuse what has no ``_join``, or no ``_keeping_all`` that makes it exact."""
    if not hasattr(detector, method):
        raise TypeError(
            f"{type(detector).__name__} cannot be fitted in parts; AnomalyDINO and "
            "DinoPatch can. Behind an aligner, fit that first, on some of the images, "
            "and shard what comes out of it. DFR can with autoencoder='linear', "
            "holdout=None and max_rows=None; SubspaceAD can be merged only, since "
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
        **detector.get_params(deep=False),
        **{
            f"{part}.{name}": value
            for part, extractor in parts.items()
            for name, value in getattr(extractor, "__dict__", {}).items()
        },
        "value_range_": getattr(detector, "value_range_", None),
    }
    return {
        name: joblib.hash(value)
        for name, value in known.items()
        if name.rpartition(".")[2] not in _ELSEWHERE
    }


# -- scoring --------------------------------------------------------------------------


def score_files(
    model: FilePath,
    paths: Sequence[FilePath],
    folder: FilePath,
    *,
    part_size: int = 256,
    format: Literal["csv", "parquet"] = "csv",
    client: Any = None,
) -> list[Path]:
    """Score any number of image files into a data set of CSV or Parquet files.

    A part is written whole or not at all, and one that is there is not scored again:
    after a kill, of a worker or of everything, the same call goes on where it was. Each
    process loads the model once, and its arrays stay in the file.

    Parameters
    ----------
    model : str or path
        A file of :func:`skdinoad.save`, which all machines can read.
    paths : sequence of str or path
        Image files, likewise; one that is named twice is scored once. Addresses too
        ("s3://bucket/0.png"), which fsspec reads (``pip install 'skdinoad[fsspec]'``).
    folder : str or path
        Where the data set goes, likewise: ``scores/part-*.csv`` with path, verdict
        ("good", "defect", "broken", or "review" between two thresholds), score (higher
        = more normal) and error (why an image is broken); ``regions/part-*.csv`` as
        :func:`skdinoad.regions_table` has them, "image" being "path". ``run.json`` says
        what was scored by what.
    part_size : int, default=256
        Images in a part.
    format : {"csv", "parquet"}, default="csv"
        Of the parts. "parquet" needs pyarrow (``pip install 'skdinoad[parquet]'``);
        what a row has nothing of is null.
    client : dask.distributed.Client or None, default=None
        None = joblib, by its present backend.

    Returns
    -------
    files : list of pathlib.Path
        The parts of the scores.

    Raises
    ------
    FileNotFoundError
        If the model, or a folder that images should lie in, is not there; on any
        machine.
    ValueError
        If the folder holds scores of another model or of other paths, the model has no
        threshold, or has changed since the call began.
    TypeError
        If ``client`` is no client.
    RuntimeError
        If the store of an address does not answer, or refuses: then no image is broken,
        and the same call goes on later. An address where nothing is makes a row.
    ImportError
        If fsspec, or pyarrow, is needed and missing.

    See Also
    --------
    score_part : The piece of work, for other engines.

    Examples
    --------
    >>> import csv, tempfile
    >>> from PIL import Image
    >>> from skdinoad import AnomalyDINO, DinoFeatures, save
    >>> from skdinoad.scale import score_files
    >>> from skdinoad.testing import make_images
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     detector = AnomalyDINO(features=features, rotations="none")
    ...     model = save(detector.fit(make_images(3)), folder + "/model.skd")
    ...     Image.fromarray(make_images(1)[0]).save(folder + "/a.png")
    ...     files = score_files(model, [folder + "/a.png"], folder + "/out")
    ...     lines = files[0].read_text().splitlines()
    ...     [row["verdict"] for row in csv.DictReader(lines)]
    ['good']
    """
    model, folder = os.path.abspath(model), os.path.abspath(folder)
    parts = parts_to_score(model, paths, folder, part_size=part_size, format=format)
    digest = _digest(model)
    jobs = [(model, digest, part, folder, name) for name, part in parts]
    _done(_score_by_file, jobs, client)
    return sorted(Path(folder, "scores").glob(f"part-*.{format}"))


def parts_to_score(
    model: FilePath,
    paths: Sequence[FilePath],
    folder: FilePath,
    *,
    part_size: int = 256,
    format: Literal["csv", "parquet"] = "csv",
) -> list[tuple[str, list[str]]]:
    """Return the parts of :func:`score_files` that are not there yet.

    Parameters
    ----------
    model, paths, folder, part_size, format
        As there.

    Returns
    -------
    parts : list of (str, list of str)
        Name and image files, as absolute paths, of each; for :func:`score_part`.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As there.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skdinoad.scale import parts_to_score
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = Path(folder, "model.skd")
    ...     _ = model.write_bytes(b"as save writes it")
    ...     paths = [Path(folder, f"{i}.png") for i in range(5)]
    ...     parts = parts_to_score(model, paths, folder + "/out", part_size=2)
    >>> [(name, len(files)) for name, files in parts]
    [('part-000000.csv', 2), ('part-000001.csv', 2), ('part-000002.csv', 1)]
    """
    if part_size < 1:
        raise ValueError(f"part_size={part_size}: expected 1 or more images.")
    check_format(format)
    files = list(dict.fromkeys(map(_absolute, paths)))
    _check_folders(files)
    for kind in ("scores", "regions"):
        Path(folder, kind).mkdir(parents=True, exist_ok=True)
    listed = hashlib.sha256("\0".join(files).encode("utf-8", "surrogateescape"))
    run = {"model": _digest(model), "paths": listed.hexdigest(), "part_size": part_size}
    _note_run(Path(folder, "run.json"), {**run, "format": format})
    starts = range(0, len(files), part_size)
    parts = [
        (f"part-{i:06d}.{format}", files[k : k + part_size])
        for i, k in enumerate(starts)
    ]
    return [(n, part) for n, part in parts if not Path(folder, "scores", n).exists()]


def score_part(
    model: DetectorLike, paths: Sequence[FilePath], folder: FilePath, name: str
) -> Path:
    """Score a few image files into one part of a data set, unless it is there.

    Parameters
    ----------
    model : estimator
        A fitted detector, Pipeline, search or ThresholdTunerCV with a threshold.
    paths : sequence of str
        Image files. One that cannot be scored is a row with its reason.
    folder : str or path
        As for :func:`score_files`.
    name : str
        The part's, as :func:`parts_to_score` gives it; its end says the format.

    Returns
    -------
    file : pathlib.Path
        Its scores. They are written last, so that a part which has them has regions.

    Raises
    ------
    FileNotFoundError
        If a folder that images should lie in is not there: on a machine that does not
        see them no image is broken.
    ValueError
        If the model has no threshold.
    OSError
        If a file cannot be written, naming it.
    RuntimeError, ImportError
        As in :func:`score_files`.

    See Also
    --------
    score_files : Does so with joblib or Dask.
    """
    regions, scores = Path(folder, "regions", name), Path(folder, "scores", name)
    if not scores.exists():
        paths = [str(path) for path in paths]
        _check_folders(paths)
        threshold_of(model)  # without one there are no verdicts
        rows, found = _tables(model, paths)
        _write(regions, _REGIONS, found)
        _write(scores, _SCORES, rows)
    return scores


def _tables(model, paths):
    """Return rows of scores and of regions."""
    rows, regions = [], []
    results = iter_results(model, paths, regions=True, maps=False, errors="keep")
    for path, result in zip(paths, results):
        row = {"path": path, "verdict": result.verdict}
        if result.error:
            rows.append({**row, "error": " ".join(str(result.error).split())})
            continue
        rows.append({**row, "score": float(result.score)})
        there = regions_table([result.regions], [path])
        regions += [{"path": row.pop("image"), **row} for row in there]
    return rows, regions


def _score_by_file(model, digest, paths, folder, name):
    score_part(_loaded(model, digest), paths, folder, name)


@lru_cache(maxsize=1)
def _loaded(model, digest):
    """Return the model of a file: read once in each process."""
    if _digest(model) != digest:
        raise ValueError(
            f"{model!r} has changed since the run began: parts would be scored by "
            "different models. Save models under new names."
        )
    return load(model, mmap=True)


def _digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _absolute(path):
    return path if is_address(path) else os.path.abspath(path)


def _check_folders(paths):
    local = (path for path in paths if not is_address(path))
    for folder in sorted({os.path.dirname(path) for path in local}):
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"{folder!r} is no folder on {platform.node()}: all machines must see "
                "the images under the same path."
            )


def _note_run(file, run):
    """Keep what is scored by what; refuse to mix it with something else."""
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(run, indent=1) + "\n")
    before = {"format": "csv", **json.loads(file.read_text())}
    differing = [name for name in run if run[name] != before.get(name)]
    if differing:
        raise ValueError(
            f"{str(file.parent)!r} holds a run with another {' and '.join(differing)}: "
            "choose a new folder, or the same arguments to go on with that run."
        )


# -- engines --------------------------------------------------------------------------


def _done(work, jobs, client):
    """Return work(*job) of each job, in order, by joblib or on a cluster of Dask."""
    if client is None:
        return joblib.Parallel()(joblib.delayed(work)(*job) for job in jobs)
    if not hasattr(client, "nthreads"):
        raise TypeError(
            f"client={client!r}: expected a dask.distributed.Client or None (joblib)."
        )
    return _on_dask(work, jobs, client)


def _on_dask(work, jobs, client):
    """Keep a few jobs under way, and fetch each result as soon as it is there.

    What was fetched is safe from the death of a worker; what was not is done again.
    """
    from distributed import as_completed

    results, numbers = [None] * len(jobs), {}
    waiting, running = iter(enumerate(jobs)), as_completed()

    def fill():
        room = 2 * max(1, sum(client.nthreads().values())) - len(numbers)
        for number, job in islice(waiting, max(0, room)):
            future = client.submit(_alone, work, *job, pure=False)
            numbers[future] = number
            running.add(future)

    try:
        fill()
        for future in running:
            results[numbers[future]] = future.result()
            del numbers[future]
            fill()
    finally:
        client.cancel(list(numbers))  # of a run that failed or was interrupted
    return results


def _alone(work, *job):
    """Run a job in one thread, where a process has as many jobs as it has cores.

    The caller's own process, in which a cluster may run too, stays as it is.
    """
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    return work(*job)
