"""Features of single images, kept by content: in memory, or on disk by joblib."""

import hashlib
import threading
from pathlib import Path

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
        None keeps features in this process, False nowhere, a path or a Memory on
        disk, where other processes find them too.
    """
    if cache is False:
        return _NoStore()
    if cache is None:
        return _MEMORY
    if isinstance(cache, (str, Path)):
        cache = joblib.Memory(cache, verbose=0)
    return _DiskStore(cache)


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


def _stored(key, compute):
    """The function that joblib remembers: by key alone."""
    return compute()


class _DiskStore:
    """joblib.Memory: atomic writes, safe under several processes."""

    def __init__(self, memory):
        self._call = memory.cache(_stored, ignore=["compute"])

    def get(self, key):
        if not self._call.check_call_in_cache(key, None):
            return None
        try:
            return self._call(key, _missing)
        except KeyError:  # the file is damaged: compute it again
            return None

    def put(self, key, value):
        self._call(key, lambda: value)


def _missing():
    raise KeyError
