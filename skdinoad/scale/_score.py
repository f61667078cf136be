"""Scoring any number of image files into a data set, part by part."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from skdinoad._inputs.files import is_address
from skdinoad._typing import DetectorLike, FilePath
from skdinoad.persistence import load
from skdinoad.persistence._dump import replacing
from skdinoad.persistence._tables import check_format
from skdinoad.persistence._tables import write_table as _write
from skdinoad.regions import regions_table
from skdinoad.results import iter_results
from skdinoad.scale._jobs import run_jobs
from skdinoad.verdicts import threshold_of

__all__ = ["parts_to_score", "score_files", "score_part"]

_SCORES = {"path": str, "verdict": str, "score": float, "error": str}
_REGIONS = {
    "path": str,
    **dict.fromkeys(("top", "left", "bottom", "right", "area"), int),
    **{"peak": float, "mean": float, "row": int, "column": int},
}


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
    run_jobs(_score_by_file, jobs, client)
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
