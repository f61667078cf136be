import hashlib
import pickle

import joblib
import numpy as np
import pytest
from conftest import tiny_features
from joblib import Parallel, delayed

from skdinoad import DinoFeatures, DiskCache
from skdinoad.features import _store
from skdinoad.features._store import image_key, open_store
from skdinoad.testing import make_images


@pytest.fixture
def forwards(monkeypatch):
    """Return a list that grows by the number of images in each forward pass."""
    counts, run = [], DinoFeatures._run

    def counted(self, images, *sizes):
        counts.append(len(images))
        return run(self, images, *sizes)

    monkeypatch.setattr(DinoFeatures, "_run", counted)
    return counts


@pytest.mark.parametrize("kind", ["memory", "path", "joblib"])
def test_each_image_passes_the_network_once(kind, tmp_path, make_tiny, forwards):
    memory = joblib.Memory(tmp_path, verbose=0)
    cache = {"memory": None, "path": str(tmp_path), "joblib": memory}[kind]
    X = make_images()
    first = make_tiny(cache=cache).transform(X)
    again = make_tiny(cache=cache, batch_size=2).transform(X[::-1])
    assert sum(forwards) == len(X)
    assert np.array_equal(first, again[::-1])


def test_without_cache_every_call_computes(make_tiny, forwards):
    for _ in range(2):
        make_tiny(cache=False).transform(make_images())
    assert sum(forwards) == 12


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 80},
        {"layers": 2},
        {"norm": False},
        {"cropping": 32},
        {"dtype": "bfloat16"},
        {"layers": [1, 2]},
    ],
)
def test_whatever_shapes_a_feature_is_part_of_its_key(change, make_tiny, forwards):
    for parameters in ({}, change):
        make_tiny(**parameters).transform(make_images(1))
    assert sum(forwards) == 2


def test_weights_are_part_of_the_key(forwards):
    for seed in range(2):
        DinoFeatures(
            model="test_vit", weights=f"random:{seed}", image_size=64
        ).transform(make_images(1))
    assert sum(forwards) == 2


def test_alpha_and_shape_are_part_of_the_key(rng):
    image = rng.integers(0, 255, (4, 6, 4), np.uint8)
    keys = {image_key(x, "") for x in (image, image[..., :3], image.reshape(6, 4, 4))}
    assert len(keys) == 3


def test_what_other_code_computed_is_not_found(monkeypatch):
    image = np.zeros((4, 6, 3), np.uint8)
    before = image_key(image, "")
    monkeypatch.setattr("skdinoad.features._store._VERSION", 0)
    assert image_key(image, "") != before


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_damaged_file_is_computed_again(tmp_path, make_tiny, forwards):
    X = make_images(2)
    expected = make_tiny(cache=tmp_path).transform(X)
    for path in files(tmp_path):
        path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="cached features .* are damaged") as caught:
        assert np.array_equal(make_tiny(cache=tmp_path).transform(X), expected)
    assert len(caught) == 2
    assert sum(forwards) == 4
    assert np.array_equal(make_tiny(cache=tmp_path).transform(X), expected)
    assert sum(forwards) == 4  # repaired


@pytest.mark.filterwarnings("ignore:The cached features")
def test_no_flipped_bit_gives_other_features(tmp_path, rng):
    store = open_store(tmp_path)
    value = rng.random((3, 4), dtype=np.float32)
    store.put("abcdef", value)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        assert store.get("abcdef") is None
    path.write_bytes(content[:-1])
    assert store.get("abcdef") is None
    path.write_bytes(content)
    assert np.array_equal(store.get("abcdef"), value)


def test_entries_that_were_swapped_are_damaged(tmp_path):
    store, keys = open_store(tmp_path), ("a" * 40, "b" * 40)
    for key in keys:
        store.put(key, np.full(3, ord(key[0])))
    one, other = files(tmp_path)
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    assert len(store.damaged()) == 2
    for key in keys:
        with pytest.warns(UserWarning, match="damaged"):
            assert store.get(key) is None


def test_an_entry_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("boom").touch, ())

    store = open_store(tmp_path)
    store.put("abcdef", np.zeros(3))
    (path,) = files(tmp_path)
    array = pickle.dumps(Bomb())
    path.write_bytes(hashlib.sha256(array).hexdigest().encode() + array)
    with pytest.warns(UserWarning, match="damaged"):
        assert store.get("abcdef") is None
    assert not tmp_path.joinpath("boom").exists()


def test_a_full_disk_leaves_no_half_of_an_entry(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.warns(UserWarning, match=r"cannot be cached .* \(full\)"):
        store.put("abcdef", np.zeros(3))
    assert files(tmp_path) == []
    assert store.get("abcdef") is None


def test_memory_stays_below_its_limit(monkeypatch):
    store = _store._MemoryStore()
    monkeypatch.setattr(_store, "MEMORY_LIMIT", 1000)
    for i in range(20):
        store.put(str(i), np.zeros(100, np.uint8))
    store.put("too large", np.zeros(2000, np.uint8))
    kept = [key for key in map(str, range(20)) if store.get(key) is not None]
    assert len(kept) == 10
    assert store.get("19") is not None
    assert store.get("too large") is None


def test_stored_arrays_cannot_be_changed_by_the_caller(make_tiny):
    X = [make_images(1)[0], make_images(1, (64, 48))[0]]
    for _ in range(2):
        features = make_tiny().transform(X)
    with pytest.raises(ValueError, match="read-only"):
        features[0][:] = 0


def test_several_processes_share_a_folder(tmp_path):
    X = make_images(3)
    jobs = [delayed(_transform)(X, str(tmp_path)) for _ in range(4)]
    results = Parallel(n_jobs=2)(jobs)
    assert all(np.array_equal(results[0], other) for other in results)


def _transform(X, cache):
    return tiny_features(cache=cache).transform(X)


def test_open_store_accepts_all_forms(tmp_path):
    for cache in (None, tmp_path, str(tmp_path), joblib.Memory(tmp_path)):
        assert open_store(cache).get("nothing") is None
    assert open_store(False) is open_store(joblib.Memory(None)) is None


def test_without_a_store_no_image_is_hashed_and_features_are_the_same(
    make_tiny, monkeypatch
):
    X = make_images(3)
    kept = make_tiny().transform(X)
    monkeypatch.setattr("skdinoad.features._extractor.image_key", None)
    assert np.array_equal(make_tiny(cache=False).transform(X), kept)
    with pytest.raises(TypeError):
        make_tiny().transform(X)


def test_alpha_is_applied_to_what_is_kept(make_tiny, forwards):
    X = make_images(2)
    clear = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    clear[:, :, :32, 3] = 0
    X[:, :, :32] = X[:, :, 32:33]  # as hidden pixels are filled
    whole, masked = make_tiny().transform(X), make_tiny().transform(clear)
    assert sum(forwards) == 2
    invalid = np.isnan(masked).all(-1)
    assert invalid.any()
    assert np.array_equal(masked[~invalid], whole[~invalid])
    assert np.isfinite(make_tiny().transform(X)).all()  # cached features are unchanged


def test_a_limited_folder_keeps_what_was_used_last(tmp_path, make_tiny, forwards):
    X = make_images(6)
    make_tiny(cache=tmp_path / "one").transform(X[:1])
    (file,) = files(tmp_path / "one")
    limited = make_tiny(cache=DiskCache(tmp_path, max_size=4 * file.stat().st_size))
    expected = make_tiny().transform(X)
    forwards.clear()
    assert np.array_equal(limited.transform(X), expected)
    assert np.array_equal(limited.transform(X[3:]), expected[3:])
    assert sum(forwards) == 6
    assert np.array_equal(limited.transform(X[:3]), expected[:3])
    assert sum(forwards) == 9


@pytest.mark.parametrize("size", ["much", "0GB", "-1"])
def test_what_is_no_size_is_an_error_in_fit(make_tiny, tmp_path, size):
    with pytest.raises(ValueError, match="max_size"):
        make_tiny(cache=DiskCache(tmp_path, max_size=size)).fit()
