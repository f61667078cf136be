"""Features of single images, kept by content: in memory, or in files."""

import hashlib
import io
import os
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import joblib
import numpy as np

__all__ = ["MEMORY_LIMIT", "clear_memory", "image_key", "open_store"]

#: Bytes that the features kept in this process may take together.
MEMORY_LIMIT = 2**30


def image_key(image, settings: str) -> str:
    """Return the key of an image under everything else that shapes its features."""
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(f"{settings}{image.shape}".encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def open_store(cache):
    """Return the store that a ``cache`` parameter asks for.

    Parameters
    ----------
    cache : None, False, path or joblib.Memory
        None keeps features in this process, False nowhere, a path on disk, where
        other processes find them too. Of a Memory its folder is taken.
    """
    if cache is False:
        return _NoStore()
    if cache is None:
        return _MEMORY
    if isinstance(cache, joblib.Memory):
        cache = cache.location
    return _NoStore() if cache is None else _DiskStore(Path(cache) / _FOLDER)


def clear_memory():
    """Forget all features that this process keeps in memory."""
    _MEMORY.clear()


class _NoStore:
    def get(self, key):
        return None

    def put(self, key, value):
        pass


class _MemoryStore:
    """A dictionary with a limit in bytes, shared by all extractors of the process."""

    def __init__(self):
        self._lock = threading.Lock()  # searches may run in threads
        self.clear()

    def clear(self):
        self._values, self._bytes = {}, 0
        self._rng = np.random.default_rng(0)

    def get(self, key):
        return self._values.get(key)

    def put(self, key, value):
        if value.nbytes > MEMORY_LIMIT:
            return
        value = value.copy()  # a view would keep its whole batch alive
        value.flags.writeable = False
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value
            self._bytes += value.nbytes
            while self._bytes > MEMORY_LIMIT:
                self._bytes -= self._values.pop(self._victim()).nbytes

    def _victim(self):
        # Random, not the oldest: searches scan the same images again and again, and
        # there "drop the oldest" drops each image just before it is wanted.
        return list(self._values)[self._rng.integers(len(self._values) - 1)]


_MEMORY = _MemoryStore()


class _DiskStore:
    """A file for each image: a digest and an array, nothing that could run.

    A file comes whole, under a name of its own first, so that several processes may
    share the folder and one that is killed leaves no half of it behind.
    """

    def __init__(self, folder):
        self._folder = folder

    def get(self, key):
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, array = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(array).hexdigest().encode() == digest:
            with suppress(ValueError):  # no array, or objects, which could run code
                return np.load(io.BytesIO(array), allow_pickle=False)
        warnings.warn(
            f"The cached features in {path} are damaged; they are computed again. If "
            "that happens often, look after the disk.",
            UserWarning,
            stacklevel=2,
        )
        return None

    def put(self, key, value):
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        try:
            self._write(self._path(key), buffer.getbuffer())
        except OSError as error:
            warnings.warn(
                f"Features cannot be kept in {self._folder} ({error}); work goes on "
                "without. Is the disk full, or the folder read-only?",
                UserWarning,
                stacklevel=2,
            )

    def _write(self, path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{uuid4().hex}")
        try:
            with half.open("wb") as file:
                file.write(hashlib.sha256(array).hexdigest().encode())
                file.write(array)
            os.replace(half, path)
        finally:
            half.unlink(missing_ok=True)

    def _path(self, key):
        return self._folder / key[:2] / f"{key[2:]}.npy"


#: Where features lie below the folder that users name; another format, another name.
_FOLDER = "skdinoad-features-1"

#: Length of a digest in front of an array.
_DIGEST = 64
