import inspect
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import build, tiny_features
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import FunctionTransformer

import skdinoad
from skdinoad import DinoPatch, LocalBank, PCAAligner, Pipeline, load, save
from skdinoad.datasets import make_screws
from skdinoad.persistence import ModelFileError, _archive
from skdinoad.testing import make_images

KEPT = Path(__file__).parent / "data" / "format1.skd"

ESTIMATORS = [
    item
    for item in (getattr(skdinoad, name) for name in skdinoad.__all__)
    if inspect.isclass(item)
    and issubclass(item, BaseEstimator)
    and not issubclass(item, Pipeline)
    and hasattr(item, "fit")
]


def known_answer():
    """Features of four good images and of two others, always the same."""
    rng = np.random.default_rng(0)
    return np.split(rng.normal(size=(6, 3, 4, 8)).astype(np.float32), [4])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small fitted model, its file, and what it is asked."""
    good, new = known_answer()
    path = tmp_path_factory.mktemp("saved") / "model.skd"
    save(DinoPatch(bank=LocalBank(neighborhood=1)).fit(good), path)
    return path, new


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_every_estimator_comes_back_bit_by_bit(cls, tmp_path):
    X = make_images(6)
    estimator = build(cls).fit(X)
    found = load(save(estimator, tmp_path / "m.skd"))
    assert type(found) is cls
    asked = "score_samples" if hasattr(estimator, "score_samples") else "transform"
    np.testing.assert_array_equal(
        getattr(found, asked)(X), getattr(estimator, asked)(X)
    )
    assert repr(found) == repr(estimator)


def test_pipelines_and_searches_come_back(tmp_path):
    X, _ = make_screws(6, size=96)
    bad, _ = make_screws(2, size=96, defect="second_washer")
    detector = DinoPatch(features=tiny_features(image_size=None))
    pipe = Pipeline([PCAAligner(output_size=96), detector])
    search = GridSearchCV(
        pipe,
        {"dinopatch__bank__neighborhood": [0, 1]},
        scoring="roc_auc",
        cv=StratifiedKFold(2),
    )
    search.fit(np.concatenate([X, bad]), [1] * 6 + [-1] * 2)
    found = load(save(search, tmp_path / "m.skd"))
    assert np.array_equal(found.score_samples(X), search.score_samples(X))
    assert np.array_equal(
        skdinoad.predict_map(found, bad), skdinoad.predict_map(search, bad)
    )
    assert found.best_params_ == search.best_params_


def test_a_file_of_the_first_release_is_read_for_ever():
    good, new = known_answer()
    model = load(KEPT)
    expected = DinoPatch(bank=LocalBank(neighborhood=1)).fit(good)
    np.testing.assert_allclose(model.score_samples(new), expected.score_samples(new))
    assert model.offset_ == pytest.approx(expected.offset_)


def test_no_flipped_bit_is_taken_for_a_model(saved, tmp_path):
    path, _ = saved
    content = path.read_bytes()
    rng, damaged = np.random.default_rng(0), tmp_path / "damaged.skd"
    places = [*range(90), *rng.integers(90, len(content), 60)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.write_bytes(flipped)
        with pytest.raises(ModelFileError):
            load(damaged)


def test_cut_files_are_refused(saved, tmp_path):
    path, _ = saved
    content, cut = path.read_bytes(), tmp_path / "cut.skd"
    for length in (0, 1, 40, 78, 200, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            load(cut)
    cut.write_bytes(content + b"\0")
    with pytest.raises(ModelFileError, match="damaged"):
        load(cut)


def test_other_files_say_what_they_are(saved, tmp_path):
    path, _ = saved
    other = tmp_path / "other"
    with pytest.raises(FileNotFoundError, match="other"):
        load(other)
    skdinoad.dump(DinoPatch(), other)
    with pytest.raises(ModelFileError, match=r"joblib\.load"):
        load(other)
    content = path.read_bytes()
    other.write_bytes(content[:8] + b"0002" + content[12:])
    with pytest.raises(ModelFileError, match="install a newer skdinoad"):
        load(other)


def hostile(tmp_path, text):
    """Write a file whose digest is right and whose description is ``text``."""
    path = tmp_path / "hostile.skd"
    with path.open("wb+") as file:
        _archive._write(file, json.dumps(text).encode(), [], [])
    return path


def test_a_file_that_is_whole_and_hostile_runs_nothing(tmp_path):
    touch = {"$": "named", "name": "os:system"}
    partial = {"$": "partial", "items": [touch, ["touch boom"], {}]}
    for model in (touch, partial, {"$": "object", "class": "os:system", "state": []}):
        path = hostile(tmp_path, {"arrays": [], "model": model})
        with pytest.raises(ModelFileError, match="holds no model"):
            load(path)
    for place in (
        ["<f4", [10**9], "C", 0],
        ["<f4", [-1], "C", 0],
        ["|O", [1], "C", 0],
        ["<f4", [1], "C", -64],
        ["x", [1], "C", 0],
        [],
    ):
        path = hostile(tmp_path, {"arrays": [place], "model": None})
        with pytest.raises(ModelFileError, match="holds no model"):
            load(path)
    with pytest.raises(ModelFileError, match="holds no model"):
        load(hostile(tmp_path, ["nothing"]))


def test_a_mapped_model_shares_the_file_and_scores_equally(saved):
    path, new = saved
    model, mapped = load(path), load(path, mmap=True)
    assert not mapped.bank_.vectors.flags.writeable
    assert (
        isinstance(mapped.bank_.vectors.base, np.memmap)
        or mapped.bank_.vectors.base is not None
    )
    assert np.array_equal(mapped.score_samples(new), model.score_samples(new))


def test_a_failed_save_leaves_the_old_file(saved, tmp_path):
    path = save(DinoPatch(bank=LocalBank(neighborhood=3)), tmp_path / "m.skd")
    estimator = DinoPatch(features=lambda X: X)
    with pytest.raises(TypeError, match="cannot be saved"):
        save(estimator, path)
    assert load(path).bank.neighborhood == 3
    assert [p.name for p in tmp_path.iterdir()] == ["m.skd"]


def test_another_process_reads_it(saved, tmp_path):
    path, new = saved
    np.save(tmp_path / "new.npy", new)
    code = (
        "import sys, numpy as np; from skdinoad import load; "
        "print(load(sys.argv[1]).score_samples(np.load(sys.argv[2])).tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "new.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(out.stdout) == load(path).score_samples(new).tolist()


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"arrays": [], "model": {"$": "again", "number": 7}}', "[]"],
    ids=["deep", "unknown", "list"],
)
def test_a_right_digest_of_what_is_no_model_is_refused(text, tmp_path):
    path = tmp_path / "m.skd"
    with path.open("wb+") as file:
        _archive._write(file, text.encode(), [], [])
    with pytest.raises(ModelFileError, match=r"m\.skd' holds no model"):
        load(path)


@pytest.mark.parametrize("place", [["<f4", [4], "C", -64], ["<f4", [-1], "C", 0]])
def test_arrays_that_lie_outside_their_part_of_a_file_are_refused(place, tmp_path):
    """The text before the arrays, or all of the file, would be taken for numbers."""
    known = {"arrays": [place], "model": {"$": "array", "number": 0}}
    path = tmp_path / "m.skd"
    array = np.arange(32, dtype=np.float32)
    with path.open("wb+") as file:
        text = json.dumps(known).encode()
        _archive._write(file, text, [array], [["<f4", [32], "C", 0]])
    with pytest.raises(ModelFileError, match="holds no model"):
        load(path)


@pytest.mark.parametrize(
    "name",
    [
        "sklearn.utils._testing:assert_run_python_script_without_output",
        "sklearn.utils._testing:_delete_folder",
        "sklearn.datasets:clear_data_home",
        "sklearn.datasets:fetch_olivetti_faces",
        "sklearn.utils:gen_batches",
        "sklearn.metrics._scorer:_cached_call",
        "skdinoad.persistence:dump",
        "skdinoad:load",
        "skdinoad.features._disk:DiskStore",
    ],
)
def test_what_could_write_or_run_is_not_named(tmp_path, name):
    # FunctionTransformer would call it, with arguments of the file, when it scores.
    named = {"$": "named", "name": name}
    for model in (named, {"$": "partial", "items": [named, ["x"], {}]}):
        path = hostile(tmp_path, {"arrays": [], "model": model})
        with pytest.raises(ModelFileError, match="neither a metric"):
            load(path)


def test_what_could_write_or_run_is_not_saved(tmp_path):
    calls = FunctionTransformer(partial(save, path=str(tmp_path / "other")))
    with pytest.raises(TypeError, match="metrics and estimators"):
        save(calls, tmp_path / "model.skd")


def test_arrays_that_overlap_do_not_fill_the_memory(tmp_path):
    path = tmp_path / "hostile.skd"
    text = {"arrays": [["|u1", [1000], "C", 0]] * 3, "model": None}
    with path.open("wb+") as file:
        content = np.zeros(1000, np.uint8)
        _archive._write(
            file, json.dumps(text).encode(), [content], [["|u1", [1000], "C", 0]]
        )
    with pytest.raises(ModelFileError, match="overlap"):
        load(path)
