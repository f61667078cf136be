"""Save files atomically: an existing file is replaced only on success."""

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

#: Age in seconds at which a temporary file is considered left over from a killed save.
_LITTER_AGE = 24 * 3600

#: Suffix of the names of temporary files.
_HEX = re.compile("[0-9a-f]{32}")


def dump(estimator: EstimatorLike, path: FilePath, *, compress: int = 0) -> Path:
    """Save a fitted estimator as a joblib file.

    Load it with ``joblib.load``. The file equals that of ``joblib.dump`` but is saved
    atomically: on any failure, such as a full disk, the old file is kept. If several
    processes save at once, each writes a complete file and the last one is kept. The
    file does not contain the network, only its digest.

    Parameters
    ----------
    estimator : object
        A detector, Pipeline or search.
    path : str or path
        Output file. The permissions of an existing file are kept; if the path is a
        link, its target is replaced.
    compress : int, default=0
        As in ``joblib.dump``; 0 allows ``joblib.load(path, mmap_mode="r")``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OSError
        If the file cannot be written, because the folder is missing, the disk is full
        or permission is denied. The message names the file.

    Examples
    --------
    >>> import joblib, tempfile
    >>> from skdinoad import DinoPatch, dump
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = dump(DinoPatch(target_fpr=0.02), folder + "/model.joblib")
    ...     joblib.load(path)
    DinoPatch(target_fpr=0.02)
    """
    path = Path(path)
    with replacing(path) as temporary:
        joblib.dump(estimator, temporary, compress=compress)
    return path


@contextmanager
def replacing(path):
    """Yield the path of a temporary file, which replaces ``path`` on success."""
    target = Path(os.path.realpath(path))  # replace the target of a link
    temporary = target.with_name(f".{target.name[:100]}.{uuid4().hex}")
    try:
        if target.exists() and not target.is_file():  # a device would be replaced too
            raise OSError("it is a folder or a device; expected a file")
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
    """Return an error of the same type whose message names the file."""
    text = (
        f"{str(path)!r} was not saved; any existing file is unchanged: "
        f"{error.strerror or error}. Check the folder, the free disk space and your "
        "write permission"
    )
    if error.errno is None:
        return OSError(text)
    return type(error)(error.errno, text, str(path))


def _sweep(target):
    """Remove old temporary files left behind by killed saves to this file."""
    begin, oldest = f".{target.name[:100]}.", time.time() - _LITTER_AGE
    for litter in target.parent.iterdir():
        end = litter.name.removeprefix(begin)
        if end != litter.name and _HEX.fullmatch(end):
            with suppress(OSError):  # another process may remove it, too
                if litter.stat().st_mtime < oldest:
                    litter.unlink()


def _bring_to_disk(path):
    """Flush a file to disk, so that it is complete before it is renamed."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
