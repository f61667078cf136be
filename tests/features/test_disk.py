import errno
import os
import time

import numpy as np
import pytest
from joblib import Parallel, delayed

from skdinoad.features import _disk
from skdinoad.features._disk import DiskStore, as_bytes

VALUE = np.arange(100, dtype=np.float32)


def key(i):
    """Return a key of the same length as those of images."""
    return f"{i % 7:02x}{i:038x}"


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fill(store, n):
    """Store n entries with old times of use, one second apart."""
    for i in range(n):
        store.put(key(i), VALUE + i)
        os.utime(store._path(key(i)), (1e9 + i, 1e9 + i))


def kept(store, n):
    return [i for i in range(n) if store._path(key(i)).exists()]


@pytest.fixture
def one(tmp_path):
    """Return the number of bytes of one entry."""
    DiskStore(tmp_path / "one").put(key(0), VALUE)
    return size(tmp_path / "one")


@pytest.mark.parametrize(
    ("text", "n"),
    [(5, 5), ("5B", 5), ("2 kB", 2000), ("1.5GiB", 3 * 2**29), ("2gb", 2 * 10**9)],
)
def test_sizes(text, n):
    assert as_bytes(text) == n


@pytest.mark.parametrize("text", ["", "2", "GB", "2G", "2 apples", "-2GB", "0GB", "iB"])
def test_what_is_no_size_is_an_error(text):
    with pytest.raises(ValueError, match=r"max_size=.*expected .*'2GB'"):
        as_bytes(text)


def test_a_folder_never_passes_its_limit(tmp_path, one):
    store = DiskStore(tmp_path, 10 * one)
    for i in range(50):
        store.put(key(i), VALUE)
        assert size(tmp_path) <= 10 * one
        assert store.get(key(i)) is not None
    assert size(tmp_path) > 8 * one


def test_a_folder_of_many_small_files_never_passes_its_limit(tmp_path, one):
    """The folder is not listed for each file; the test counts exactly."""
    store, looks = DiskStore(tmp_path, 300 * one), []
    evict = store._evict
    store._evict = lambda n: looks.append(n) or evict(n)
    for i in range(400):
        store.put(key(i), VALUE)
        assert len(kept(store, i + 1)) <= 300
    assert len(kept(store, 400)) >= 269
    assert len(looks) < 200


def test_a_process_looks_before_it_writes_for_the_first_time(tmp_path, one):
    fill(DiskStore(tmp_path), 250)
    DiskStore(tmp_path, 200 * one).put(key(250), VALUE)
    assert kept(DiskStore(tmp_path), 251) == [*range(71, 251)]


def test_what_was_longest_unused_goes_first(tmp_path, one):
    fill(DiskStore(tmp_path), 8)
    DiskStore(tmp_path).get(key(1))  # updates its time of use
    DiskStore(tmp_path, 6 * one).put(key(8), VALUE)
    assert kept(DiskStore(tmp_path), 9) == [1, 5, 6, 7, 8]


def test_other_files_stay(tmp_path, one):
    """Whatever their names; only entries are deleted, never links."""
    store = DiskStore(tmp_path, 10 * one)
    fill(store, 3)
    outside = tmp_path / "outside"
    (outside / "ab").mkdir(parents=True)
    name = key(3)[2:] + ".npy"
    foreign = [
        outside / name,
        outside / "ab" / name,
        store.folder / name,
        store.folder / "00" / "notes.npy",
        store.folder / "00" / f"{name}.bak",
        store.folder / "00" / ".hidden",
    ]
    (store.folder / "old").mkdir()
    foreign.append(store.folder / "old" / name)
    for path in foreign:
        path.write_text("mine")
        os.utime(path, (1, 1))
    links = [store.folder / "00" / name, store.folder / "ee"]
    links[0].symlink_to(outside / name)
    links[1].symlink_to(outside / "ab")
    DiskStore(tmp_path, one).put(key(9), VALUE)
    assert kept(store, 10) == [9]
    assert store.clear() == 1
    assert [path.read_text() for path in foreign] == ["mine"] * len(foreign)
    assert all(path.is_symlink() for path in links)


def test_what_killed_processes_left_counts_and_goes(tmp_path, one):
    store = DiskStore(tmp_path, 2 * one)
    fill(DiskStore(tmp_path), 2)
    old, young = (store.folder / "00" / ("." + c * 32) for c in "ab")
    for path in (old, young):
        path.write_bytes(bytes(one))
    os.utime(old, (1e9 - 1, 1e9 - 1))
    store.put(key(2), VALUE)
    assert (old.exists(), young.exists()) == (False, True)  # may still be being written
    assert kept(store, 3) == [2]
    os.utime(young, (time.time() - 25 * 3600,) * 2)
    assert store.clear() == 2
    assert not young.exists()


def test_an_image_that_does_not_fit_is_told_and_nothing_goes(tmp_path, one):
    fill(DiskStore(tmp_path), 2)
    with pytest.warns(UserWarning, match=rf"have {one} bytes, over the limit"):
        DiskStore(tmp_path, one - 1).put(key(2), VALUE)
    assert kept(DiskStore(tmp_path), 3) == [0, 1]
    DiskStore(tmp_path, one).put(key(2), VALUE)
    assert kept(DiskStore(tmp_path), 3) == [2]


def test_without_a_right_to_delete_nothing_is_kept(tmp_path, one, monkeypatch):
    fill(DiskStore(tmp_path), 2)

    def refuse(*args, **kwargs):
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(_disk.Path, "unlink", refuse)
        with pytest.warns(UserWarning, match="cannot be cached .*not yours"):
            DiskStore(tmp_path, 2 * one).put(key(2), VALUE)
    assert kept(DiskStore(tmp_path), 3) == [0, 1]


def test_what_cannot_be_marked_as_used_is_read(tmp_path, monkeypatch):
    store = DiskStore(tmp_path)
    store.put(key(0), VALUE)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(store.get(key(0)), VALUE)


def test_a_file_that_vanishes_while_one_looks_is_no_error(tmp_path, one, monkeypatch):
    """Another process may delete files at the same time."""
    store = DiskStore(tmp_path, 3 * one)
    fill(store, 2)
    files = store._files()
    monkeypatch.setattr(store, "_files", lambda: files)
    store._path(key(0)).unlink()
    store.put(key(2), VALUE)
    assert store.damaged() == []
    assert store.clear() == 2


def test_processes_that_write_and_read_at_once_keep_the_limit(tmp_path, one):
    limit = 30 * one
    jobs = [delayed(_work)(tmp_path, limit, seed) for seed in range(4)]
    wrong = Parallel(n_jobs=2)(jobs)
    assert wrong == [0] * 4
    assert size(tmp_path) <= limit
    assert len(list(tmp_path.rglob("*.npy"))) > 20
    assert DiskStore(tmp_path).damaged() == []


def _work(folder, limit, seed):
    """Return how often a read array was missing or differed from the written one."""
    store, rng, wrong = DiskStore(folder, limit), np.random.default_rng(seed), 0
    for i in rng.integers(0, 60, 300).tolist():
        found = store.get(key(i))
        if found is None:
            store.put(key(i), VALUE + i)
        else:
            wrong += not np.array_equal(found, VALUE + i)
    return wrong
