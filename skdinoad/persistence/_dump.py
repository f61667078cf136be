"""Saving that never destroys what was there before."""

import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import joblib

from skdinoad._typing import EstimatorLike, FilePath

__all__ = ["dump", "replacing"]

#: Seconds after which a temporary file beside a model is the litter of a killed save.
_LITTER_AGE = 24 * 3600

#: How the names of temporary files end.
_HEX = re.compile("[0-9a-f]{32}")


def dump(estimator: EstimatorLike, path: FilePath, *, compress: int = 0) -> Path:
    """Save a fitted estimator; read it back with ``joblib.load``.

    The same file as ``joblib.dump`` writes, but complete or not at all: on any
    failure, a full disk for one, the old file stays, and of several processes that
    save at once each writes a whole file, of which the last stays. The network is not
    in the file, only its digest.

    Parameters
    ----------
    estimator : object
        A detector, Pipeline or search.
    path : str or path
        File to write. An old file keeps its permissions; a link stays a link, to what
        is written.
    compress : int, default=0
        As in ``joblib.dump``; 0 allows ``joblib.load(path, mmap_mode="r")``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OSError
        If the file cannot be written, naming it: no such folder, no space, no right.

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
    with replacing(path) as temporary:
        joblib.dump(estimator, temporary, compress=compress)
    return path


@contextmanager
def replacing(path):
    """Yield the path of a new file, which replaces another once it is whole."""
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name[:100]}.{uuid4().hex}")
    try:
        if target.exists() and not target.is_file():  # a device would be replaced too
            raise OSError("it is a folder or a device, and a file is expected")
        _sweep(target)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            _bring_to_disk(temporary)
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _named(error, path) from error


def _named(error, path):
    """Return an error of the same kind that says which file was not saved."""
    text = (
        f"{str(path)!r} was not saved, and what was there before stays: "
        f"{error.strerror or error}. Check the folder, the space left on the disk and "
        "your right to write there"
    )
    if error.errno is None:
        return OSError(text)
    return type(error)(error.errno, text, str(path))


def _sweep(target):
    """Remove what saves to this file have left behind that were killed long ago."""
    begin, oldest = f".{target.name[:100]}.", time.time() - _LITTER_AGE
    for litter in target.parent.iterdir():
        end = litter.name.removeprefix(begin)
        if end != litter.name and _HEX.fullmatch(end):
            with suppress(OSError):  # another process may be sweeping too
                if litter.stat().st_mtime < oldest:
                    litter.unlink()


def _bring_to_disk(path):
    """Have the system write a file out: a name must not come before its content."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
