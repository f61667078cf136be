"""Saving that never destroys what was there before."""

import os
from pathlib import Path

import joblib

__all__ = ["dump"]


def dump(estimator, path, *, compress=0):
    """Save a fitted estimator; read it back with ``joblib.load``.

    The same file as ``joblib.dump`` writes, but complete or not at all: on any
    failure, a full disk for one, the old file stays. The network is not in the file,
    only its digest.

    Parameters
    ----------
    estimator : object
        A detector, Pipeline or search.
    path : str or path
        File to write.
    compress : int, default=0
        As in ``joblib.dump``; 0 allows ``joblib.load(path, mmap_mode="r")``.

    Returns
    -------
    pathlib.Path

    Examples
    --------
    >>> import joblib, tempfile
    >>> from skdinoad import DinoPatch, dump
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = dump(DinoPatch(neighborhood=2), folder + "/model.joblib")
    ...     joblib.load(path)
    DinoPatch(neighborhood=2)
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        joblib.dump(estimator, temporary, compress=compress)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
