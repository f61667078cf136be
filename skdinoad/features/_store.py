"""Cache of the features of single images, by content, in memory or on disk."""

import hashlib
import threading

import joblib
import numpy as np

from skdinoad.features._disk import DiskStore, as_bytes
from skdinoad.features._parts import DiskCache

__all__ = ["MEMORY_LIMIT", "clear_memory", "image_key", "open_store"]

#: Largest total size in bytes of the features cached in this process.
MEMORY_LIMIT = 2**30

#: Version of the code that computes features. Raise it if the same settings give other
#: features, so that cached ones are computed again.
_VERSION = 3


def image_key(image, settings: str) -> str:
    """Return the cache key of an image and of all settings that affect its features."""
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(f"{_VERSION}{settings}{image.shape}".encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def open_store(cache):
    """Return the store that ``cache`` describes, or None for no caching.

    Parameters
    ----------
    cache : None, False, path, joblib.Memory or DiskCache
        None caches features in this process, False does not cache, and a path caches
        on disk, where other processes find them too. A Memory stands for its folder.

    Raises
    ------
    ValueError
        If the size of a DiskCache is invalid.
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
    """Delete all features cached in the memory of this process."""
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
        value = value.copy()  # a view would keep the memory of its whole batch
        value.flags.writeable = False
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value
            self._bytes += value.nbytes
            while self._bytes > MEMORY_LIMIT:
                self._bytes -= self._values.pop(self._victim()).nbytes

    def _victim(self):
        # A random entry, because searches read the same images repeatedly: deleting
        # the oldest entry would delete each image just before it is needed.
        return list(self._values)[self._rng.integers(len(self._values) - 1)]


_MEMORY = _MemoryStore()
