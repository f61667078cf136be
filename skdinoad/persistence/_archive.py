"""A model file that runs no code and knows damage.

``SKDINOAD`` and the format's version; the sha256 of all that follows; the length of the
description; the description, JSON; the arrays, each at a multiple of 64 bytes.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import skdinoad
from skdinoad._typing import EstimatorLike, FilePath
from skdinoad.persistence._dump import replacing
from skdinoad.persistence._graph import decode, encode

__all__ = ["FORMAT", "ModelFileError", "load", "save"]

#: Raised when files of this release can no longer be read by it, or the other way.
FORMAT = 1

_MAGIC = b"SKDINOAD"
_HEAD = len(_MAGIC) + 4 + 1 + 64 + 1  # magic, version, newline, digest, newline
_ALIGN = 64


#: What a description raises that is none, with a right digest all the same.
_ODD = (ArithmeticError, AttributeError, LookupError, RecursionError)
_ODD += (TypeError, ValueError)


class ModelFileError(ValueError):
    """A model file is damaged, of another format, or not what it says."""


def save(estimator: EstimatorLike, path: FilePath) -> Path:
    """Save a fitted estimator in a file that runs no code.

    Detectors, aligners, Pipelines, searches and ThresholdTunerCV, and what else is made
    of objects of skdinoad, estimators of scikit-learn, plain data and arrays. The file
    is written whole or not at all. The network is not in it, only its digest.

    Parameters
    ----------
    estimator : object
    path : str or path
        File to write; ``.skd`` by custom.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    TypeError
        If something in it is of another kind: ``dump`` takes anything.
    OSError
        If the file cannot be written, naming it.

    See Also
    --------
    load : Reads it.
    dump : The same as a joblib file, which can run code.

    Examples
    --------
    >>> import tempfile
    >>> from skdinoad import DinoPatch, load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(DinoPatch(neighborhood=2), folder + "/model.skd")
    ...     load(path)
    DinoPatch(neighborhood=2)
    """
    arrays = []
    data = encode(estimator, arrays)
    places, end = [], 0
    for array in arrays:
        start = -(-end // _ALIGN) * _ALIGN
        order = "C" if array.flags.c_contiguous else "F"
        places.append([array.dtype.str, list(array.shape), order, start])
        end = start + array.nbytes
    known = {"skdinoad": skdinoad.__version__, "arrays": places, "model": data}
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
    """Read what :func:`save` wrote; no code in it runs.

    Every byte is compared with the file's digest. Names of classes and functions are
    looked up in skdinoad and scikit-learn alone.

    Parameters
    ----------
    path : str or path
    mmap : bool, default=False
        Whether arrays stay in the file, read-only, where all processes share them.

    Returns
    -------
    estimator

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is cut, damaged, no model file, written by a newer format, or names what
        no file may name.
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
            raise ValueError("arrays overlap")  # a small file must not grow
        if not mmap:
            arrays = [array.copy(order="K") for array in arrays]
        return decode(text["model"], arrays)
    except _ODD as error:
        raise ModelFileError(
            f"{str(path)!r} holds no model ({type(error).__name__}: {error})."
        ) from error


def _check_head(path, content):
    """Refuse all but whole files of this format."""
    head = bytes(content[:_HEAD])
    if not head.startswith(_MAGIC) or len(head) < _HEAD:
        raise ModelFileError(
            f"{str(path)!r} is no model file of skdinoad: expected {_MAGIC!r} at its "
            f"begin, got {head[:8]!r}. Files of dump are read by joblib.load."
        )
    version = head[len(_MAGIC) : len(_MAGIC) + 4]
    if version.isdigit() and int(version) > FORMAT:
        raise ModelFileError(
            f"{str(path)!r} has format {int(version)}, this release knows {FORMAT}: "
            "install a newer skdinoad."
        )
    digest = hashlib.sha256(content[_HEAD:]).hexdigest()
    if head != _MAGIC + f"{FORMAT:04d}\n{digest}\n".encode():
        raise ModelFileError(
            f"{str(path)!r} is damaged: its content is not what its digest says. Copy "
            "it again, or fit again."
        )


def _description(content):
    """Return the description, and where the arrays begin."""
    start = _HEAD + 17
    length = int(bytes(content[_HEAD:start]))
    text = json.loads(bytes(content[start : start + length]))
    return text, -(-(start + length) // _ALIGN) * _ALIGN


def _array(content, begin, dtype, shape, order, start):
    """Return an array of the file, if it lies in it."""
    dtype, shape = np.dtype(dtype), tuple(shape)
    if dtype.hasobject or min(shape, default=0) < 0 or start < 0:
        raise ValueError(f"array of dtype {dtype}, shape {shape}, at {start}")
    stop = begin + start + dtype.itemsize * math.prod(shape)
    return content[begin + start : stop].view(dtype).reshape(shape, order=order)
