import json

import numpy as np
import pytest
from PIL import Image

from skdinoad import Pipeline, RegionMask, ThresholdTunerCV
from skdinoad.cli._paths import load_model


@pytest.mark.usefixtures("tiny_default")
def test_fit_saves_a_model_that_scores(run, photos):
    status, lines, _ = run("fit", photos / "good", "-o", photos / "m")
    assert status == 0
    assert "6 good images" in lines[0]
    model = load_model(photos / "m")
    assert type(model).__name__ == "AnomalyDINO"
    assert len(model.holdout_scores_) == 6


@pytest.mark.usefixtures("tiny_default")
def test_region_alignment_size_and_rate_become_a_pipeline(run, photos):
    region = np.zeros((48, 64), np.uint8)
    region[:, :40] = 255
    Image.fromarray(region).save(photos / "roi.png")
    how = ["--method", "dinopatch", "--roi", photos / "roi.png", "--target-fpr", "0.3"]
    said = run("fit", photos / "good", "-o", photos / "m", *how, "--json")[1]
    model = load_model(photos / "m")
    assert isinstance(model, ThresholdTunerCV)
    assert model.target_fpr == 0.3
    assert json.loads(said[0])["threshold"] == model.offset_
    pipe = model.estimator_
    assert isinstance(pipe, Pipeline)
    assert isinstance(pipe[0], RegionMask)
    heat = model.predict_map([str(photos / "new/2.png")])[0]
    assert (heat[:, 56:] == 0).all()


@pytest.mark.usefixtures("tiny_default")
def test_size_is_the_networks_input_or_behind_an_aligner_its_frame(run, photos):
    run("fit", photos / "good", "-o", photos / "m", "--size", "32")
    assert load_model(photos / "m").features.image_size == 32
    how = ["--size", "32", "--align", "pca", "--method", "dinopatch"]
    run("fit", photos / "good", "-o", photos / "m", *how)
    assert load_model(photos / "m")[0].output_size == 32


def test_a_threshold_is_chosen_by_rate_or_by_defects(run, photos, model):
    good = load_model(model).score_samples(
        [str(photos / f"good/{i}.png") for i in range(6)]
    )
    out = photos / "tuned"
    rate = ["--target-fpr", "0.3"]
    assert run("tune", model, "--good", photos / "good", *rate, "-o", out)[0] == 0
    # k = floor(7 * 0.3) = 2: the second lowest.
    assert load_model(out).offset_ == np.sort(good)[1]
    (photos / "bad").mkdir()
    (photos / "new/2.png").rename(photos / "bad/2.png")
    where = ["--good", photos / "new", "--bad", photos / "bad"]
    assert run("tune", model, *where)[0] == 0
    tuned = load_model(model)
    assert tuned.predict([str(photos / "bad/2.png")]) == [-1]
    assert (tuned.predict([str(photos / f"new/{i}.png") for i in (0, 1)]) == 1).all()


def test_a_rate_that_so_few_images_cannot_promise_is_refused(run, photos, model):
    before = model.read_bytes()
    status, _, errors = run(
        "tune", model, "--good", photos / "good", "--target-fpr", 0.01
    )
    assert status == 2
    assert "needs 99 good images, got 6" in errors
    assert model.read_bytes() == before


@pytest.mark.usefixtures("tiny_default")
def test_methods_are_compared_on_planted_defects(run, photos):
    how = ["--methods", "anomalydino", "subspacead", "--defect-size", "0.3", "--json"]
    status, lines, _ = run("compare", photos / "good", *how)
    assert status == 0
    rows = json.loads(lines[0])
    assert [row["method"] for row in rows] == ["anomalydino", "subspacead"]
    assert all(0 <= row["aupro"] <= 1 for row in rows)


def test_a_folder_without_images_is_a_wrong_input(run, tmp_path):
    status, _, errors = run("fit", tmp_path, "-o", tmp_path / "m")
    assert status == 2
    assert "no image to learn from" in errors
    assert not (tmp_path / "m").exists()


def test_a_model_that_judges_nothing_is_not_saved(run, photos, tiny_default):
    for i in range(1, 6):
        (photos / f"good/{i}.png").unlink()
    with pytest.warns(UserWarning, match="single image"):
        status, _, errors = run("fit", photos / "good", "-o", photos / "m")
    assert status == 2
    assert "no threshold" in errors
    assert not (photos / "m").exists()


@pytest.mark.usefixtures("tiny_default")
def test_a_promised_threshold_is_tuned_as_any_other(run, photos):
    how = ["--target-fpr", "0.3", "-o", photos / "m"]
    run("fit", photos / "good", *how)
    run("tune", photos / "m", "--good", photos / "new", "--target-fpr", "0.5")
    paths = [str(photos / f"new/{i}.png") for i in range(3)]
    model = load_model(photos / "m")
    scores = model.score_samples(paths)
    assert model.offset_ == np.sort(scores)[1]  # floor(4 * 0.5) = 2: the second lowest
    assert (model.predict(paths) == -1).sum() == 1


def test_images_that_the_model_knows_are_told_of(run, photos, model):
    where = ["--target-fpr", 0.3, "-o", photos / "t"]
    errors = run("tune", model, "--good", photos / "good", *where)[2]
    assert "learned from 6 of these 6 good images" in errors
    errors = run("tune", model, "--good", photos / "new", *where)[2]
    assert "learned from" not in errors


@pytest.mark.usefixtures("tiny_default")
def test_images_known_behind_an_aligner_are_told_of(run, photos):
    how = ["--align", "pca", "--size", "32", "-o", photos / "m"]
    run("fit", photos / "good", *how)
    where = ["--target-fpr", 0.3, "-o", photos / "t"]
    errors = run("tune", photos / "m", "--good", photos / "good", *where)[2]
    assert "learned from 6 of these 6" in errors


@pytest.mark.parametrize("rate", ["2", "0", "-1", "nan", "1"])
@pytest.mark.parametrize("command", ["fit", "tune"])
def test_a_rate_is_a_share(run, photos, model, command, rate, capsys):
    where = [photos / "good", "-o", photos / "t"]
    where = where if command == "fit" else [model, "--good", *where]
    with pytest.raises(SystemExit) as status:
        run(command, *where, f"--target-fpr={rate}")
    assert status.value.code == 2
    assert f"{rate}: expected a share between 0 and 1" in capsys.readouterr().err


def test_two_ways_to_choose_a_threshold_exclude_each_other(run, photos, model):
    where = ["--good", photos / "new", "--bad", photos / "new", "--target-fpr", 0.2]
    status, _, errors = run("tune", model, *where)
    assert status == 2
    assert "leave one of the two out" in errors


def test_a_folder_to_write_to_is_looked_for_first(run, photos):
    status, _, errors = run("fit", photos / "good", "-o", photos / "no/such/m")
    assert status == 2
    assert "there is no folder" in errors
