"""Model files that run no code on loading and detect damage.

Layout: ``SKDINOAD`` and the format version; the sha256 of everything that follows; the
length of the description; the description as JSON; the arrays, each aligned to 64
bytes.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from skdinoad._typing import EstimatorLike, FilePath
from skdinoad._version import __version__
from skdinoad.persistence._dump import replacing
from skdinoad.persistence._graph import decode, encode

__all__ = ["FORMAT", "ModelFileError", "load", "save"]

#: Format version, increased on every incompatible change.
FORMAT = 1

_MAGIC = b"SKDINOAD"
_HEAD = len(_MAGIC) + 4 + 1 + 64 + 1  # magic, version, newline, digest, newline
_ALIGN = 64


#: Exceptions raised by an invalid description in a file with a correct digest.
_ODD = (ArithmeticError, AttributeError, LookupError, RecursionError)
_ODD += (TypeError, ValueError)


class ModelFileError(ValueError):
    """Raised if a model file is damaged, invalid or of another format."""


def save(estimator: EstimatorLike, path: FilePath) -> Path:
    """Save a fitted estimator in a file that runs no code on loading.

    Supports detectors, aligners, Pipelines, searches, ThresholdTunerCV and any other
    composition of skdinoad objects, scikit-learn estimators, plain data and arrays. The
    file is written atomically. It does not contain the network, only its digest.

    Parameters
    ----------
    estimator : object
    path : str or path
        Output file, by convention with the suffix ``.skd``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    TypeError
        If the estimator holds an unsupported object. :func:`dump` supports any object.
    OSError
        If the file cannot be written; the message names it.

    See Also
    --------
    load : Load the file.
    dump : Save as a joblib file, which can run code on loading.

    Examples
    --------
    >>> import tempfile
    >>> from skdinoad import DinoPatch, load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(DinoPatch(target_fpr=0.02), folder + "/model.skd")
    ...     load(path)
    DinoPatch(target_fpr=0.02)
    """
    arrays = []
    data = encode(estimator, arrays)
    places, end = [], 0
    for array in arrays:
        start = -(-end // _ALIGN) * _ALIGN
        order = "C" if array.flags.c_contiguous else "F"
        places.append([array.dtype.str, list(array.shape), order, start])
        end = start + array.nbytes
    known = {"skdinoad": __version__, "arrays": places, "model": data}
    text = json.dumps(known)
    path = Path(path)
    with replacing(path) as temporary, open(temporary, "rb+") as file:
        _write(file, text.encode(), arrays, places)
    return path


def _write(file, text, arrays, places):
    digest = hashlib.sha256()

    def put(part):
        digest.update(part)
        file.write(part)

    file.write(b" " * _HEAD)
    put(f"{len(text):016d}\n".encode())
    put(text)
    put(b" " * (-file.tell() % _ALIGN))
    begin = file.tell()
    for array, (_, _, order, start) in zip(arrays, places):
        put(b"\0" * (begin + start - file.tell()))
        flat = array.reshape(-1, order=order)
        put(memoryview(flat.view(np.uint8)) if array.size else b"")
    file.seek(0)
    file.write(_MAGIC + f"{FORMAT:04d}\n{digest.hexdigest()}\n".encode())


def load(path: FilePath, *, mmap: bool = False) -> Any:
    """Load a model written by :func:`save`, without running code from the file.

    The digest of the whole file is verified. Classes and functions are looked up in
    skdinoad and scikit-learn only.

    Parameters
    ----------
    path : str or path
    mmap : bool, default=False
        Whether to memory-map the arrays read-only, so that processes share them.

    Returns
    -------
    estimator

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ModelFileError
        If the file is truncated, damaged, not a model file, of a newer format, or names
        a class or function that is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"model file {str(path)!r} does not exist.")
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0)
    _check_head(path, content)
    try:
        text, begin = _description(content)
        arrays = [_array(content, begin, *place) for place in text["arrays"]]
        if sum(array.nbytes for array in arrays) > len(content):
            raise ValueError("arrays overlap")  # or a small file could use any memory
        if not mmap:
            arrays = [array.copy(order="K") for array in arrays]
        return decode(text["model"], arrays)
    except _ODD as error:
        raise ModelFileError(
            f"{str(path)!r} holds no model ({type(error).__name__}: {error})."
        ) from error


def _check_head(path, content):
    """Raise an error unless the file is complete and of this format."""
    head = bytes(content[:_HEAD])
    if not head.startswith(_MAGIC) or len(head) < _HEAD:
        raise ModelFileError(
            f"{str(path)!r} is not a model file of skdinoad: expected {_MAGIC!r} at "
            f"its start, got {head[:8]!r}. Load files of dump with joblib.load."
        )
    version = head[len(_MAGIC) : len(_MAGIC) + 4]
    if version.isdigit() and int(version) > FORMAT:
        raise ModelFileError(
            f"{str(path)!r} has format {int(version)}, but this release reads formats "
            f"up to {FORMAT}: install a newer skdinoad."
        )
    digest = hashlib.sha256(content[_HEAD:]).hexdigest()
    if head != _MAGIC + f"{FORMAT:04d}\n{digest}\n".encode():
        raise ModelFileError(
            f"{str(path)!r} is damaged: its content does not match its digest. Copy it "
            "again, or fit again."
        )


def _description(content):
    """Return the description and the offset of the arrays."""
    start = _HEAD + 17
    length = int(bytes(content[_HEAD:start]))
    text = json.loads(bytes(content[start : start + length]))
    return text, -(-(start + length) // _ALIGN) * _ALIGN


def _array(content, begin, dtype, shape, order, start):
    """Return an array stored in the file."""
    dtype, shape = np.dtype(dtype), tuple(shape)
    if dtype.hasobject or min(shape, default=0) < 0 or start < 0:
        raise ValueError(f"array of dtype {dtype}, shape {shape}, at {start}")
    stop = begin + start + dtype.itemsize * math.prod(shape)
    return content[begin + start : stop].view(dtype).reshape(shape, order=order)
