"""Cache of the features of single images in a folder shared by several processes."""

import hashlib
import io
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np

from skdinoad._compat.caller import warn

__all__ = ["DiskStore", "as_bytes"]

#: Subfolder of the user's folder that holds features; each file format has its own.
_FOLDER = "skdinoad-features-2"

#: Names of the subfolders, and of the files in them: entries and unfinished entries.
_SHARD = re.compile("[0-9a-f]{2}")
_OURS = re.compile(r"[0-9a-f]{38}\.npy|\.[0-9a-f]{32}")

#: Length of a digest in front of an array.
_DIGEST = 64

#: Age in seconds after which an unfinished entry belongs to a process that has died.
_LITTER_AGE = 24 * 3600

#: A limited folder is filled up to the first share of its limit. Each process checks
#: the total size whenever it has written the second share, so ten may write at once.
_FILLED, _UNSEEN = 0.9, 0.01

#: Bytes that this process has written to each folder since its last check.
_WRITTEN = {}

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?((?:[kmgt]i?)?)b", re.IGNORECASE | re.ASCII)


def as_bytes(size) -> int:
    """Return a size in bytes.

    Examples
    --------
    >>> as_bytes("1.5 kB"), as_bytes("2GiB") == 2 * 2**30, as_bytes(7)
    (1500, True, 7)
    """
    if not isinstance(size, str):
        return size
    found = _SIZE.fullmatch(size)
    out = int(float(found[1]) * _unit(found[2].lower())) if found else 0
    if out < 1:
        raise ValueError(
            f"max_size={size!r}: expected a number of bytes, or a text such as "
            "'500MB', '2GB' or '1.5GiB'."
        )
    return out


def _unit(prefix):
    power = " kmgt".index(prefix[:1] or " ")
    return (1024 if prefix.endswith("i") else 1000) ** power


class KeptFile(NamedTuple):
    """A file of a store; the least recently used file is the smallest."""

    used: float  # seconds since the epoch
    path: Path
    n_bytes: int


class DiskStore:
    """A store with one file per image, which holds a digest and an array.

    Files are written under a temporary name and then renamed, so several processes may
    share the folder, and a process that dies leaves no incomplete entry. The time of a
    file is that of its last use. There is no index that could become inconsistent; the
    folder is listed instead.

    Parameters
    ----------
    folder : str or path
        The user's folder; files are in a subfolder of it.
    limit : int or None
        Largest total size of all files in bytes.
    """

    def __init__(self, folder, limit=None):
        self.folder, self._limit = Path(folder) / _FOLDER, limit

    def get(self, key):
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        array = _array(content, path)
        if array is None:
            warn(
                f"The cached features in {path} are damaged; they are computed again. "
                "If this happens often, check the disk.",
                UserWarning,
            )
            return None
        with suppress(OSError):  # deleted by another process, or read-only
            os.utime(path)
        return array

    def put(self, key, value):
        content = _content(value, key)
        if self._limit is not None and len(content) > self._limit:
            self._warn(f"those of one image have {len(content)} bytes, over the limit")
            return
        try:
            self._make_room(len(content))
            self._write(self._path(key), content)
        except OSError as error:
            self._warn(f"{error}", " Is the disk full, or the folder read-only?")

    def entries(self):
        """Return the file of each image, the least recently used first."""
        return sorted(file for file in self._files() if not _is_half(file))

    def damaged(self):
        """Return the paths of entries that have changed since they were written."""
        return [file.path for file in self.entries() if _is_damaged(file.path)]

    def clear(self) -> int:
        """Delete all entries and old unfinished ones; return their number."""
        files = _removable(self._files())
        for file in files:
            file.path.unlink(missing_ok=True)
        return len(files)

    # -- private ----------------------------------------------------------------------

    def _make_room(self, n):
        """Delete the least recently used entries if n more bytes exceed the limit."""
        if self._limit is None:
            return
        written = _WRITTEN.get(self.folder, self._limit) + n
        if written > _UNSEEN * self._limit:
            self._evict(n)
            written = n
        _WRITTEN[self.folder] = written

    def _evict(self, n):
        files = self._files()
        surplus = n + sum(file.n_bytes for file in files) - _FILLED * self._limit
        for file in sorted(_removable(files)):
            if surplus <= 0:
                return
            file.path.unlink(missing_ok=True)  # another process may delete it, too
            surplus -= file.n_bytes

    def _files(self):
        """Return the files of this store, without links and other names."""
        out = []
        for folder in _listed(self.folder):
            if _SHARD.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                ours = (x for x in _listed(folder) if _OURS.fullmatch(x.name))
                out += [kept for kept in map(_kept, ours) if kept]
        return out

    def _write(self, path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{uuid4().hex}")
        try:
            half.write_bytes(content)
            os.replace(half, path)
        finally:
            half.unlink(missing_ok=True)

    def _warn(self, reason, question=""):
        warn(
            f"Features cannot be cached in {self.folder} ({reason}); they are computed "
            f"again when needed.{question}",
            UserWarning,
        )

    def _path(self, key):
        return self.folder / key[:2] / f"{key[2:]}.npy"


def _content(value, key):
    """Return the bytes of an entry: digest, array and key."""
    buffer = io.BytesIO(bytes(_DIGEST))
    buffer.seek(_DIGEST)
    np.save(buffer, value, allow_pickle=False)
    buffer.write(key.encode())
    content = buffer.getbuffer()
    content[:_DIGEST] = hashlib.sha256(content[_DIGEST:]).hexdigest().encode()
    return content


def _array(content, path):
    """Return the array in the bytes of an entry, or None if they are damaged.

    An entry stored under the path of another key counts as damaged, too.
    """
    key = f"{path.parent.name}{path.stem}".encode()
    digest, array = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(array).hexdigest().encode() == digest:
        with suppress(ValueError):  # not an array, or objects, which could run code
            found = np.load(io.BytesIO(array), allow_pickle=False)
            return found if array.endswith(key) else None
    return None


def _is_damaged(path):
    with suppress(FileNotFoundError):  # deleted meanwhile
        return _array(path.read_bytes(), path) is None
    return False


def _removable(files):
    """Return the files without unfinished ones that a process may still write."""
    old = time.time() - _LITTER_AGE
    return [file for file in files if not _is_half(file) or file.used < old]


def _is_half(file):
    return file.path.name.startswith(".")


def _listed(folder):
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        return list(found)
    return []


def _kept(item):
    """Return a file of a folder, or None if it no longer exists."""
    with suppress(FileNotFoundError):
        if item.is_file(follow_symlinks=False):
            stat = item.stat(follow_symlinks=False)
            return KeptFile(stat.st_mtime, Path(item.path), stat.st_size)
    return None
