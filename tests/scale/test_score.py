"""Files scored in parts: each image once, whatever is interrupted."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_all_scored, rows_of

import skdinoad
from skdinoad import (
    iter_results,
    save,
)
from skdinoad.scale import (
    _score,
    parts_to_score,
    score_files,
    score_part,
)

# -- score_files ----------------------------------------------------------------------


def test_files_are_scored_in_parts(many, model, photos):
    files = score_files(model, [*many, many[0]], photos / "out", part_size=5)
    assert [file.name for file in files] == [f"part-{i:06d}.csv" for i in range(3)]
    assert_all_scored(files, many, model)


def test_images_to_review_are_told(many, reviewed, photos):
    files = score_files(reviewed, many[:4], photos / "out")
    detector = skdinoad.load(reviewed)
    expected = [result.verdict for result in iter_results(detector, many[:4])]
    assert [row["verdict"] for row in rows_of(files)] == expected
    assert "review" in expected


def test_a_part_that_is_there_is_not_scored_again(many, model, photos, monkeypatch):
    """The run is stopped in the second part, and once more between its two files."""
    original = _score.iter_results

    def counting(detector, paths, **how):
        if many[3] in paths:
            raise KeyboardInterrupt
        return original(detector, paths, **how)

    how = {"folder": photos / "out", "part_size": 3}
    with monkeypatch.context() as patched:
        patched.setattr(_score, "iter_results", counting)
        with pytest.raises(KeyboardInterrupt):
            score_files(model, many, **how)
    left = [name for name, _ in parts_to_score(model, many, **how)]
    assert left == [f"part-{i:06d}.csv" for i in (1, 2, 3)]
    first = photos / "out/scores/part-000000.csv"
    before, written = first.stat().st_mtime_ns, _score._write

    def stopping(path, columns, rows):
        if path.parent.name == "scores":
            raise KeyboardInterrupt
        written(path, columns, rows)

    with monkeypatch.context() as patched:
        patched.setattr(_score, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            score_files(model, many, **how)
    files = score_files(model, many, **how)
    assert_all_scored(files, many, model)
    assert first.stat().st_mtime_ns == before
    assert parts_to_score(model, many, **how) == []


def test_another_run_does_not_go_into_the_same_folder(many, model, photos):
    score_files(model, many[:2], photos / "out")
    with pytest.raises(ValueError, match="another paths: choose a new folder"):
        score_files(model, many, photos / "out")
    with pytest.raises(ValueError, match="another part_size"):
        score_files(model, many[:2], photos / "out", part_size=1)
    digest = json.loads((photos / "out/run.json").read_text())["model"]
    save(skdinoad.load(model).set_params(aggregate=0.5), model)
    with pytest.raises(ValueError, match="another model"):
        score_files(model, many[:2], photos / "out")
    _score._loaded.cache_clear()
    with pytest.raises(ValueError, match="changed since the run began"):
        _score._score_by_file(str(model), digest, many[2:], photos / "out", "a.csv")


def test_a_machine_that_does_not_see_the_images_breaks_none(many, model, photos):
    detector, gone = skdinoad.load(model), str(photos / "unmounted" / "a.png")
    with pytest.raises(FileNotFoundError, match="unmounted' is no folder on"):
        score_files(model, [*many, gone], photos / "out")
    with pytest.raises(FileNotFoundError, match="unmounted"):
        score_part(detector, [gone], photos / "out", "a.csv")
    assert not (photos / "out").exists()
    with pytest.raises(FileNotFoundError):
        score_files(photos / "none.skd", many, photos / "out")
    with pytest.raises(ValueError, match="expected 1 or more"):
        score_files(model, many, photos / "out", part_size=0)
    detector.offset_ = np.nan
    (photos / "out/scores").mkdir(exist_ok=True, parents=True)
    with pytest.raises(ValueError, match="no threshold"):
        score_part(detector, many, photos / "out", "a.csv")
    assert not list((photos / "out/scores").iterdir())


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_formats_hold_the_same_and_do_not_mix(many, model, photos, format):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    how = {"folder": photos / "out", "part_size": 5}
    files = score_files(model, many, format=format, **how)
    assert [file.name for file in files] == [f"part-{i:06d}.{format}" for i in range(3)]
    assert parts_to_score(model, many, format=format, **how) == []
    other = {"csv": "parquet", "parquet": "csv"}[format]
    with pytest.raises(ValueError, match="another format: choose"):
        score_files(model, many, format=other, **how)
    csvs = score_files(model, many, photos / "csv", part_size=5)
    for kind in ("scores", "regions"):
        parts = sorted((photos / "csv" / kind).glob("*.csv"))
        expected = pandas.concat(map(pandas.read_csv, parts), ignore_index=True)
        if format == "parquet":  # the folder is one data set
            found = pandas.read_parquet(photos / "out" / kind)
        else:
            parts = [photos / "out" / kind / part.name for part in parts]
            found = pandas.concat(map(pandas.read_csv, parts), ignore_index=True)
        pandas.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert_all_scored(csvs, many, model)


def test_a_part_of_parquet_is_not_scored_again(many, model, photos, monkeypatch):
    pytest.importorskip("pyarrow")
    how = {"folder": photos / "out", "part_size": 3, "format": "parquet"}
    written = _score._write

    def stopping(path, columns, rows):
        if path == photos / "out/scores/part-000001.parquet":
            raise KeyboardInterrupt
        written(path, columns, rows)

    with monkeypatch.context() as patched:
        patched.setattr(_score, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            score_files(model, many, **how)
    left = [name for name, _ in parts_to_score(model, many, **how)]
    assert left == [f"part-{i:06d}.parquet" for i in (1, 2, 3)]
    first = photos / "out/scores/part-000000.parquet"
    before = first.stat().st_mtime_ns
    assert len(score_files(model, many, **how)) == 4
    assert first.stat().st_mtime_ns == before


def test_a_run_of_before_there_were_formats_goes_on(many, model, photos):
    score_files(model, many[:2], photos / "out", part_size=1)
    file = photos / "out/run.json"
    run = json.loads(file.read_text())
    assert run.pop("format") == "csv"
    file.write_text(json.dumps(run))
    (photos / "out/scores/part-000001.csv").unlink()
    assert len(score_files(model, many[:2], photos / "out", part_size=1)) == 2


@pytest.fixture
def stored(many):
    """The same photographs in fsspec's memory."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    addresses = [f"memory://skdinoad/[{Path(path).name}" for path in many]
    for path, address in zip(many, addresses):
        store.pipe_file(address, Path(path).read_bytes())
    yield addresses
    store.rm("skdinoad", recursive=True)


def test_addresses_are_scored_as_files_are(many, stored, model, photos):
    gone = "memory://skdinoad/gone.png"
    files = score_files(model, [*stored, many[0], gone], photos / "out", part_size=4)
    rows = rows_of(files)
    expected = rows_of(score_files(model, many, photos / "local", part_size=4))
    said = [(row["verdict"], row["score"]) for row in rows]
    local = [(row["verdict"], row["score"]) for row in expected]
    assert said == [*local, local[0], ("broken", "")]
    assert [row["path"] for row in rows] == [*stored, many[0], gone]
    assert stored[7] in rows[7]["error"]
    assert f"{gone!r}) does not exist" in rows[-1]["error"]


def test_a_store_that_does_not_answer_breaks_no_image(
    stored, model, photos, monkeypatch
):
    fsspec = pytest.importorskip("fsspec")
    memory, how = type(fsspec.filesystem("memory")), {"part_size": 3}

    def refusing(self, path, **_):
        raise PermissionError("403")

    with monkeypatch.context() as patched:
        patched.setattr(memory, "cat_file", refusing)
        with pytest.raises(RuntimeError, match=r"memory://.*cannot be fetched: 403"):
            score_files(model, stored, photos / "out", **how)
    assert not list((photos / "out/scores").iterdir())
    with pytest.raises(RuntimeError, match="cannot be fetched: Protocol not known"):
        score_files(model, ["memry://a.png"], photos / "other")
    assert len(score_files(model, stored, photos / "out", **how)) == 4
