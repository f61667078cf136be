import csv
import json
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from skdinoad import ThresholdTunerCV, predict_map, save, suggest
from skdinoad.cli import _batch
from skdinoad.cli._paths import load_model
from skdinoad.features import _store
from skdinoad.testing import make_images


def test_every_image_gets_a_line_with_the_models_verdict(run, photos, model):
    status, lines, _ = run("score", model, photos / "new")
    assert status == 0
    assert [line.split()[0] for line in lines] == ["good", "good", "defect"]
    estimator = load_model(model)
    paths = [str(photos / f"new/{i}.png") for i in range(3)]
    _, lines, _ = run("score", model, photos / "new", "--json")
    rows = [json.loads(line) for line in lines]
    assert [row["path"] for row in rows] == paths
    assert [row["score"] for row in rows] == estimator.score_samples(paths).tolist()
    assert {row["threshold"] for row in rows} == {estimator.offset_}
    held = estimator.holdout_scores_
    assert rows[2]["p_value"] == 1 / (len(held) + 1)


def test_a_broken_image_is_a_row_and_stops_nothing(run, photos, model):
    (photos / "new/1.png").write_bytes(b"no image")
    out = photos / "out.csv"
    status, _, errors = run("score", model, photos / "new", "no.png", "--csv", out)
    assert status == 0
    assert "2 images could not be scored" in errors
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["verdict"] for row in rows] == ["good", "broken", "defect", "broken"]
    assert "1.png" in rows[1]["error"]
    assert rows[1]["score"] == ""
    status, _, errors = run("score", model, photos / "new", "--strict")
    assert status == 2
    assert "1.png" in errors
    status, _, _ = run("score", model, photos / "new/1.png")
    assert status == 2  # no image could be scored


@pytest.mark.parametrize(
    ("names", "status"), [(["0.png"], 0), (["0.png", "2.png"], 1), (["0.png", "x"], 2)]
)
def test_the_gate_says_by_its_status_whether_all_are_good(
    run, photos, model, names, status
):
    paths = [photos / "new" / name for name in names]
    assert run("score", model, *paths, "--gate")[0] == status


def test_matplotlib_is_loaded_only_for_pictures(run, photos, model, monkeypatch):
    monkeypatch.setattr("skdinoad.cli._batch", _batch)  # restored after the test
    monkeypatch.delitem(sys.modules, "skdinoad.cli._batch")
    for name in ("plotting", "report"):
        monkeypatch.setitem(sys.modules, f"skdinoad.{name}", None)
    regions = photos / "r.json"
    assert run("score", model, photos / "new", "--regions", regions)[0] == 0
    assert run("score", model, photos / "new", "--maps", photos / "maps")[0] == 2


def test_maps_regions_and_report_are_written(run, photos, model):
    maps, regions, page = (photos / name for name in ("maps", "r.json", "r.html"))
    where = ("--maps", maps, "--regions", regions, "--report", page)
    (photos / "again").mkdir()
    Image.fromarray(make_images(1, size=(48, 64))[0]).save(photos / "again/0.png")
    assert run("score", model, photos / "new", photos / "again", *where)[0] == 0
    names = sorted(path.name for path in maps.iterdir())
    assert names == ["0.png", "0_2.png", "1.png", "2.png"]  # two are called 0.png
    with Image.open(maps / "2.png") as picture:
        assert picture.size == (64, 48)
    found = json.loads(regions.read_text())
    odd = found[str(photos / "new/2.png")]
    heat = predict_map(load_model(model), [str(photos / "new/2.png")])[0]
    assert odd[0]["place"] == list(np.unravel_index(heat.argmax(), heat.shape))
    assert "new/2.png" in page.read_text()


def test_old_files_stay_where_a_run_fails(run, photos, model):
    (photos / "new/1.png").write_bytes(b"no image")
    files = photos / "r.json", photos / "r.html"
    for file in files:
        file.write_text("old")
    where = ("--regions", files[0], "--report", files[1], "--strict")
    assert run("score", model, photos / "new", *where)[0] == 2
    assert [file.read_text() for file in files] == ["old", "old"]


def test_results_do_not_depend_on_how_many_are_scored_at_a_time(
    run, photos, model, monkeypatch
):
    whole = run("score", model, photos / "new", "--json")[1]
    monkeypatch.setattr("skdinoad.cli._batch._CHUNK", 1)
    single = run("score", model, photos / "new", "--json")[1]
    for a, b in zip(map(json.loads, whole), map(json.loads, single)):
        assert a["path"] == b["path"]
        assert a["score"] == pytest.approx(b["score"], rel=1e-5)


def test_files_are_scored_as_they_arrive(run, photos, model):
    X = make_images(3, size=(48, 64))
    watched, out = photos / "line", photos / "out.csv"
    watched.mkdir()

    def produce():
        for i, image in enumerate(X):
            time.sleep(0.3)
            Image.fromarray(image).save(watched / f"{i}.png")

    thread = threading.Thread(target=produce)
    thread.start()
    run("score", model, "--watch", watched, "--idle", 4, "--csv", out)
    thread.join()
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert sorted(row["path"][-5:] for row in rows) == ["0.png", "1.png", "2.png"]
    Image.fromarray(X[0]).save(watched / "3.png")
    run("score", model, "--watch", watched, "--idle", 2, "--csv", out)
    text = out.read_text().splitlines()
    assert text[: len(rows) + 1] == [",".join(rows[0]), *text[1 : len(rows) + 1]]
    assert len(text) == len(rows) + 2  # appended under one header, no duplicates
    assert sum(line.startswith("path,") for line in text) == 1


def test_a_run_that_was_killed_goes_on_where_it_stopped(run, photos, model):
    out, new = photos / "out.csv", photos / "new"
    run("score", model, new, "--csv", out)
    whole = out.read_bytes()
    cut = whole[: whole.rfind(b"\n", 0, -1) + 9]  # in the middle of the last row
    out.write_bytes(cut)
    _, lines, _ = run("score", model, new, "--csv", out, "--resume")
    assert [line.split("/")[-1] for line in lines] == ["2.png"]
    assert out.read_bytes() == whole
    status, lines, _ = run("score", model, new, "--csv", out, "--resume")
    assert (status, lines) == (0, [])
    status, _, errors = run("score", model, new, "--resume")
    assert status == 2
    assert "pass --csv" in errors
    status, _, errors = run(
        "score", model, new, "--csv", out, "--resume", "--report", photos / "r.html"
    )
    assert status == 2
    assert "cannot be combined with --resume" in errors


def test_the_gate_of_a_resumed_run_knows_of_the_defects_before(run, photos, model):
    out, new = photos / "out.csv", photos / "new"
    run("score", model, new / "2.png", "--csv", out)
    assert run("score", model, new, "--csv", out, "--resume", "--gate")[0] == 1


def test_a_resumed_run_replaces_no_picture_of_another_image(run, photos, model):
    out, maps, other = photos / "out.csv", photos / "maps", photos / "other"
    other.mkdir()
    (other / "0.png").write_bytes((photos / "new/2.png").read_bytes())
    run("score", model, photos / "new", "--csv", out, "--maps", maps)
    before = {path.name: path.read_bytes() for path in maps.iterdir()}
    run("score", model, other, "--csv", out, "--maps", maps, "--resume")
    after = {path.name: path.read_bytes() for path in maps.iterdir()}
    assert set(after) - set(before) == {"0_2.png"}
    assert before.items() <= after.items()


def test_no_image_is_a_wrong_usage(run, model):
    status, _, errors = run("score", model)
    assert status == 2
    assert "no image given" in errors


def test_a_model_without_a_threshold_says_nothing_is_good(run, photos, model):
    estimator = load_model(model)
    estimator.offset_ = np.nan
    save(estimator, model)
    status, lines, errors = run("score", model, photos / "new")
    assert (status, lines) == (2, [])
    assert "no threshold" in errors


def test_p_values_are_those_of_what_decides(run, photos, model):
    paths = [str(path) for path in sorted((photos / "good").iterdir())]
    tuner = ThresholdTunerCV(load_model(model), target_fpr=0.3).fit(paths)
    save(tuner, model)
    rows = [json.loads(x) for x in run("score", model, photos / "new", "--json")[1]]
    new = [row["path"] for row in rows]
    assert [row["p_value"] for row in rows] == pytest.approx(tuner.p_values(new))
    verdicts = {1: "good", -1: "defect"}
    assert [row["verdict"] for row in rows] == [verdicts[y] for y in tuner.predict(new)]


def test_searches_are_scored_too(run, photos, model):
    paths = [str(path) for path in sorted((photos / "good").iterdir())]
    search = suggest(paths, load_model(model), {"aggregate": [0.01]}, size=0.3)
    save(search, model)
    rows = [json.loads(x) for x in run("score", model, photos / "new", "--json")[1]]
    assert {row["threshold"] for row in rows} == {search.best_estimator_.offset_}


def test_rows_of_another_threshold_are_not_gone_on_with(run, photos, model):
    rows = photos / "rows.csv"
    run("score", model, photos / "new/0.png", "--csv", rows)
    before = rows.read_text()
    run("tune", model, "--good", photos / "new", "--target-fpr", 0.5)
    status, _, errors = run("score", model, photos / "new", "--csv", rows, "--resume")
    assert status == 2
    assert "model or was tuned since" in errors
    assert rows.read_text() == before


def test_a_folder_to_write_to_must_be_there(run, photos, model):
    where = ("--csv", photos / "no/rows.csv")
    status, _, errors = run("score", model, photos / "new", *where)
    assert status == 2
    assert "there is no folder" in errors


# -- accept, review or reject ---------------------------------------------------------


def by_hand(photos, reviewed):
    estimator = load_model(reviewed)
    paths = [str(photos / f"new/{i}.png") for i in range(3)]
    known = estimator.offset_, estimator.review_offset_
    kinds = ["defect", "review", "good"]
    scores = estimator.score_samples(paths)
    return [kinds[int(np.searchsorted(known, s, side="right"))] for s in scores]


def test_what_is_to_be_looked_at_is_told_everywhere(run, photos, reviewed):
    out, page = photos / "out.csv", photos / "r.html"
    where = ("--csv", out, "--report", page)
    status, lines, errors = run("score", reviewed, photos / "new", *where)
    assert status == 0
    expected = by_hand(photos, reviewed)
    assert sorted(expected) == ["defect", "good", "review"]
    assert [line.split()[0] for line in lines] == expected
    assert "1 images need review" in errors
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["verdict"] for row in rows] == expected
    assert {float(row["review_threshold"]) for row in rows} == {
        load_model(reviewed).review_offset_
    }
    assert f'"review": {load_model(reviewed).review_offset_}' in page.read_text()


def test_the_gate_tells_a_look_from_a_defect_and_from_none(run, photos, reviewed):
    at = {
        kind: photos / f"new/{i}.png"
        for i, kind in enumerate(by_hand(photos, reviewed))
    }
    out = photos / "out.csv"
    assert run("score", reviewed, at["good"], "--gate")[0] == 0
    assert run("score", reviewed, at["review"], "--csv", out, "--gate")[0] == 3
    again = ("--csv", out, "--resume", "--gate")
    assert (
        run("score", reviewed, at["good"], *again)[0] == 3
    )  # counts rows of earlier runs
    assert run("score", reviewed, at["defect"], *again)[0] == 1
    assert run("score", reviewed, "no.png", *again)[0] == 2
    assert run("score", reviewed, at["review"], "no.png")[0] == 0
    lines = out.read_text().splitlines()
    assert lines[-1].split(",")[1] == "broken"
    assert len({line.count(",") for line in lines[:-1]}) == 1


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_rows_with_and_without_review_are_not_mixed(
    run, photos, model, reviewed, before, after
):
    out, models = photos / "out.csv", (model, reviewed)
    run("score", models[before], photos / "new/0.png", "--csv", out)
    text = out.read_text()
    status, _, errors = run(
        "score", models[after], photos / "new", "--csv", out, "--resume"
    )
    assert status == 2
    assert "has the columns" in errors
    assert out.read_text() == text


def test_rows_of_another_review_threshold_are_not_gone_on_with(run, photos, reviewed):
    out = photos / "out.csv"
    run("score", reviewed, photos / "new/0.png", "--csv", out)
    estimator = load_model(reviewed)
    estimator.review_offset_ += 1e-3
    save(estimator, reviewed)
    status, _, errors = run("score", reviewed, photos / "new", "--csv", out, "--resume")
    assert status == 2
    assert "rows with the review threshold" in errors


def test_a_file_of_something_else_is_not_appended_to(run, photos, model):
    out = photos / "other.csv"
    out.write_text("name,price\na,1\n")
    status, _, errors = run("score", model, photos / "new", "--csv", out, "--resume")
    assert status == 2
    assert "has the columns 'name,price', expected" in errors
    assert out.read_text() == "name,price\na,1\n"


def test_features_are_not_kept_from_batch_to_batch(run, photos, model, monkeypatch):
    estimator = load_model(model)
    estimator.features_.cache = None  # in memory, for searches
    save(estimator, model)
    monkeypatch.setattr("skdinoad.cli._batch._CHUNK", 1)
    run("score", model, photos / "new")
    assert not _store._MEMORY._values
