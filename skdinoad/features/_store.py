"""Features of single images, kept by content: in memory, or in files."""

import hashlib
import threading

import joblib
import numpy as np

from skdinoad.features._disk import DiskStore, as_bytes
from skdinoad.features._parts import DiskCache

__all__ = ["MEMORY_LIMIT", "clear_memory", "image_key", "open_store"]

#: Bytes that the features kept in this process may take together.
MEMORY_LIMIT = 2**30

#: Of the code that computes features; raised when the same settings come to give
#: others, and those that older code kept are computed anew.
_VERSION = 3


def image_key(image, settings: str) -> str:
    """Return the key of an image under everything else that shapes its features."""
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(f"{_VERSION}{settings}{image.shape}".encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def open_store(cache):
    """Return the store that ``cache`` asks for, or None for none.

    Parameters
    ----------
    cache : None, False, path, joblib.Memory or DiskCache
        None keeps features in this process, False nowhere, a path on disk, where
        other processes find them too. Of a Memory its folder is taken.

    Raises
    ------
    ValueError
        If the size of a DiskCache is none.
    """
    if cache is None:
        return _MEMORY
    if isinstance(cache, DiskCache):
        most = cache.max_size
        return DiskStore(cache.folder, None if most is None else as_bytes(most))
    if isinstance(cache, joblib.Memory):
        cache = False if cache.location is None else cache.location
    return None if cache is False else DiskStore(cache, None)


def clear_memory():
    """Forget all features that this process keeps in memory."""
    _MEMORY.clear()


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
