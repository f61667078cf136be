import errno
import os
import pickle
import stat
import subprocess
import sys
import threading

import joblib
import numpy as np
import pytest
from conftest import tiny_features

from skdinoad import DinoPatch, LocalBank, PCAAligner, Pipeline, dump
from skdinoad.datasets import make_screws

SCRIPT = """
import sys, joblib, numpy as np
pipe = joblib.load(sys.argv[1])
X = np.load(sys.argv[2])
np.savez(sys.argv[3], scores=pipe.score_samples(X), maps=pipe.predict_map(X))
"""


@pytest.fixture(scope="module")
def fitted():
    X, _ = make_screws(8, size=128)
    detector = DinoPatch(features=tiny_features(image_size=128))
    return Pipeline([PCAAligner(output_size=128), detector]).fit(X), X


def test_fresh_process_gives_bit_equal_scores(fitted, tmp_path):
    pipe, X = fitted
    X = 255 - X
    dump(pipe, tmp_path / "model.joblib")
    np.save(tmp_path / "X.npy", X)
    arguments = [tmp_path / name for name in ("model.joblib", "X.npy", "out.npz")]
    subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], check=True)
    out = np.load(tmp_path / "out.npz")
    assert np.array_equal(out["scores"], pipe.score_samples(X))
    assert np.array_equal(out["maps"], pipe.predict_map(X))


def test_plain_joblib_gives_the_same_file(fitted, tmp_path):
    pipe, _ = fitted
    joblib.dump(pipe, tmp_path / "a.joblib")
    dump(pipe, tmp_path / "b.joblib")
    assert (tmp_path / "a.joblib").read_bytes() == (tmp_path / "b.joblib").read_bytes()


def test_file_holds_the_bank_and_little_else(fitted, tmp_path):
    pipe, _ = fitted
    path = dump(pipe, tmp_path / "model.joblib")
    assert path.stat().st_size < 1.2 * pipe[-1].bank_.vectors.nbytes + 2**20
    # The same bound where the bank is large against the allowance.
    F = np.random.default_rng(0).normal(size=(8, 16, 16, 384)).astype(np.float32)
    detector = DinoPatch().fit(F)
    path = dump(detector, tmp_path / "large.joblib")
    assert path.stat().st_size < 1.2 * detector.bank_.vectors.nbytes


def test_bank_can_be_mapped_from_disk(fitted, tmp_path):
    pipe, X = fitted
    path = dump(pipe, tmp_path / "model.joblib")
    mapped = joblib.load(path, mmap_mode="r")
    assert isinstance(mapped[-1].bank_.vectors, np.memmap)
    assert np.array_equal(mapped.score_samples(X), pipe.score_samples(X))


def test_failed_save_keeps_the_old_file(fitted, tmp_path, monkeypatch):
    path = tmp_path / "model.joblib"
    dump({"old": 1}, path)

    def full_disk(value, file, **_):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(joblib, "dump", full_disk)
    with pytest.raises(OSError, match="No space"):
        dump(fitted[0], path)
    assert joblib.load(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, TypeError])
def test_interrupted_save_keeps_the_old_file(error, tmp_path, monkeypatch):
    path = dump({"old": 1}, tmp_path / "model.joblib")

    def stop(value, file, **_):
        raise error

    monkeypatch.setattr(joblib, "dump", stop)
    with pytest.raises(error):
        dump({"new": 2}, path)
    monkeypatch.undo()
    assert joblib.load(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "model.joblib"

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(
        OSError, match=r"model\.joblib' was not saved.* No space"
    ) as seen:
        dump({}, path)
    assert (seen.value.errno, seen.value.filename) == (errno.ENOSPC, str(path))
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"no/model\.joblib' was not saved"):
        dump({}, tmp_path / "no" / "model.joblib")
    with pytest.raises(OSError, match="was not saved"):
        dump({}, tmp_path)


def test_saves_at_the_same_time_leave_one_whole_model(tmp_path):
    F = np.random.default_rng(0).normal(size=(6, 4, 4, 32)).astype(np.float32)
    models = [DinoPatch(bank=LocalBank(neighborhood=0)).fit(F + i) for i in (0, 9)]
    path, failures = tmp_path / "model.joblib", []

    def write(model):
        try:
            dump(model, path)
        except Exception as error:
            failures.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=write, args=(m,)) for m in models * 2]
        [t.start() for t in threads], [t.join() for t in threads]
        found = joblib.load(path)
        true = models[int(found.bank_.vectors.mean() > 4)]
        assert np.array_equal(found.bank_.vectors, true.bank_.vectors)
        assert found.offset_ == true.offset_
    assert not failures
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_stay(tmp_path):
    real, link = tmp_path / "real.joblib", tmp_path / "link.joblib"
    before = os.umask(0o027)
    try:
        dump({"first": 1}, real)
    finally:
        os.umask(before)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    real.chmod(0o664)
    link.symlink_to(real)
    dump({"second": 2}, link)
    assert link.is_symlink()
    assert joblib.load(real) == {"second": 2}
    assert stat.S_IMODE(real.stat().st_mode) == 0o664


def test_litter_of_killed_saves_goes_after_a_day(tmp_path):
    path = tmp_path / "model.joblib"
    names = [f".model.joblib.{i:032x}" for i in range(2)]
    others = [f".other.joblib.{0:032x}", ".model.joblib.backup", "notes.txt"]
    for name in names + others:
        (tmp_path / name).write_bytes(b"half")
        if name != names[1]:
            os.utime(tmp_path / name, (0, 0))
    dump({}, path)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {path.name, names[1], *others}


def test_other_weights_at_load_time_name_both_digests(fitted, tmp_path):
    pipe, X = fitted
    loaded = joblib.load(dump(pipe, tmp_path / "model.joblib"))
    features = loaded[-1].features_.set_params(weights="random:7")
    with pytest.raises(
        ValueError, match=f"fitted with weights {features.weights_digest_}"
    ):
        loaded.predict(X)


def test_model_fitted_on_a_gpu_opens_on_a_cpu(fitted, tmp_path):
    """As far as a machine without a GPU can tell."""
    pipe, X = fitted
    loaded = joblib.load(dump(pipe, tmp_path / "model.joblib"))
    loaded[-1].features_.set_params(runtime__device="cuda")
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.warns(UserWarning, match="not available"):
        scores = loaded.score_samples(X)
    assert np.array_equal(scores, pipe.score_samples(X))


def test_what_cannot_be_pickled_leaves_the_old_file(tmp_path):
    path = dump({"old": 1}, tmp_path / "model.joblib")
    with pytest.raises((pickle.PicklingError, AttributeError), match="pickle"):
        dump(lambda: 0, path)
    assert joblib.load(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_are_no_longer_than_the_disk_allows(tmp_path):
    path = tmp_path / ("m" * 248 + ".joblib")
    assert joblib.load(dump(1, path)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_devices_and_folders_are_not_replaced(tmp_path):
    """A pipe stands for a device: a test must not risk a real one."""
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (folder, pipe):
        with pytest.raises(OSError, match=r"was not saved.* a folder or a device"):
            dump(1, path)
    assert pipe.is_fifo()
    assert set(tmp_path.iterdir()) == {folder, pipe}
