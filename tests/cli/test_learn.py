import json

import numpy as np
import pytest
from PIL import Image
from sklearn.frozen import FrozenEstimator

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
    for figure in ("aupro", "recall", "false_alarms"):
        assert all(0 <= row[figure] <= 1 for row in rows)


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
    assert "pass only one of them" in errors


def test_a_folder_to_write_to_is_looked_for_first(run, photos):
    status, _, errors = run("fit", photos / "good", "-o", photos / "no/such/m")
    assert status == 2
    assert "there is no folder" in errors


# -- accept, review or reject ---------------------------------------------------------


@pytest.mark.usefixtures("tiny_default")
def test_fit_learns_both_thresholds(run, photos):
    how = ["--target-fpr", "0.2", "--target-review-rate", "0.5", "-o", photos / "m"]
    said = json.loads(run("fit", photos / "good", *how, "--json")[1][0])
    tuner = load_model(photos / "m")
    assert said["review_threshold"] == tuner.review_offset_ > tuner.offset_
    assert "to be reviewed" in run("fit", photos / "good", *how)[1][0]
    paths = [str(photos / f"new/{i}.png") for i in range(3)]
    kinds = {1: "good", 0: "review", -1: "defect"}
    lines = run("score", photos / "m", *paths)[1]
    expected = [kinds[k] for k in tuner.predict_review(paths).tolist()]
    assert [line.split()[0] for line in lines] == expected


def test_both_thresholds_are_those_of_the_tuner(run, photos, model):
    (photos / "bad").mkdir()
    for i in range(3):
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, 20 * i :] = 250
        Image.fromarray(image).save(photos / f"bad/{i}.png")
    good, bad = (sorted(map(str, (photos / k).iterdir())) for k in ("good", "bad"))
    y = [1] * len(good) + [-1] * len(bad)
    frozen = FrozenEstimator(load_model(model))
    halves = [(np.arange(9), np.arange(9))]  # all are held out; the model has seen none
    for options, parameters in [
        (["--target-review-rate", 0.5], {"target_review_rate": 0.5}),
        (["--bad", photos / "bad", "--target-fnr", 0.3], {"target_fnr": 0.3}),
    ]:
        tuner = ThresholdTunerCV(
            frozen, target_fpr=0.3, cv=halves, refit=False, **parameters
        ).fit([*good, *bad], y)
        out = photos / "tuned"
        where = ["--good", photos / "good", "--target-fpr", 0.3, "-o", out]
        status, lines, _ = run("tune", model, *where, *options)
        assert status == 0
        tuned = load_model(out)
        assert tuned.offset_ == tuner.offset_
        assert tuned.review_offset_ == tuner.review_offset_
        below = (tuner.holdout_scores_[:6] < tuner.review_offset_).sum()
        assert f"; {below} of these 6 good images" in lines[0].split("reviewed")[1]


def test_a_second_threshold_beside_the_best_f1(run, photos, model):
    (photos / "bad").mkdir()
    (photos / "new/2.png").rename(photos / "bad/2.png")
    where = ["--good", photos / "new", "--bad", photos / "bad", "-o", photos / "t"]
    run("tune", model, *where)
    alone = load_model(photos / "t").offset_
    run("tune", model, *where, "--target-fnr", 0.5)
    both = load_model(photos / "t")
    assert both.offset_ == both.review_offset_ == alone  # they do not overlap


def test_a_second_threshold_that_is_not_asked_for_goes_and_says_so(
    run, photos, reviewed
):
    where = ["--good", photos / "new", "--target-fpr", 0.5]
    status, _, errors = run("tune", reviewed, *where)
    assert status == 0
    assert "pass --target-review-rate" in errors
    assert not hasattr(load_model(reviewed), "review_offset_")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--target-fnr", 0.3], "pass defects as --bad"),
        (["--target-review-rate", 0.01], "expected at least --target-fpr, 0.05"),
        (["--bad", "new", "--target-review-rate", 0.3], "pass only one of them"),
        (["--bad", "new", "--target-fnr", 0.01], "needs 99 defective images, got 3"),
        (
            ["--target-fpr", 0.2, "--target-review-rate", 0.1],
            "expected at least --target-fpr, 0.2",
        ),
    ],
)
def test_rates_that_cannot_be_kept_are_refused(run, photos, model, options, why):
    options = [photos / "new" if x == "new" else x for x in options]
    before = model.read_bytes()
    status, _, errors = run("tune", model, "--good", photos / "good", *options)
    assert status == 2
    assert why in errors
    assert model.read_bytes() == before


def test_fit_asks_for_the_rate_of_rejects_too(run, photos):
    where = ["-o", photos / "m", "--target-review-rate", 0.3]
    status, _, errors = run("fit", photos / "good", *where)
    assert status == 2
    assert "pass --target-fpr" in errors


@pytest.mark.usefixtures("tiny_default")
def test_fit_names_odd_photographs_and_shows_all(run, photos):
    odd = np.asarray(Image.open(photos / "new/2.png"))
    Image.fromarray(odd).save(photos / "good/odd.png")
    page = photos / "review.html"
    how = ["-o", photos / "m", "--review", page, "--json"]
    with pytest.warns(UserWarning, match=r"1 of 7 .*good/odd\.png"):
        status, lines, _ = run("fit", photos / "good", *how)
    assert status == 0
    said = json.loads(lines[0])
    assert len(said["suspects"]) == 1
    assert "good/odd.png: " in said["suspects"][0]
    assert said["target_fpr"] == 0.05
    assert page.read_text().count("<article") == 7


@pytest.mark.usefixtures("tiny_default")
def test_fit_says_how_sure_the_rate_of_false_alarms_is(run, photos):
    said = run("fit", photos / "good", "-o", photos / "m")[1][0]
    assert "0 of 6 held-out good images would be flagged" in said
    assert "between 0.0% and 39.3% (90 % interval)" in said
    assert "aims at 5.0% false alarms" in said


def test_a_page_in_no_folder_is_refused_before_any_work(run, photos):
    where = photos / "nowhere/review.html"
    status, _, errors = run(
        "fit", photos / "good", "-o", photos / "m", "--review", where
    )
    assert status == 2
    assert "cannot be written" in errors
    assert not (photos / "m").exists()
