"""What a model says of images, in plain numbers."""

import json

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import ShuffleSplit

from skdinoad import DinoPatch, Pipeline, ThresholdTunerCV, find_regions, load
from skdinoad._arrays.normal_scores import NormalScores, rate_interval
from skdinoad.verdicts import Judge, as_json, described, threshold_of


def test_rows_say_what_the_model_decides(model, photos):
    detector = load(model)
    judge = Judge.of(detector)
    paths = [str(photos / f"new/{i}.png") for i in range(3)]
    rows = [judge.row(p, s) for p, s in zip(paths, detector.score_samples(paths))]
    verdicts = {1: "good", -1: "defect"}
    assert [row["verdict"] for row in rows] == [
        verdicts[label] for label in detector.predict(paths)
    ]
    assert judge.row("a.png", detector.offset_)["verdict"] == "good"
    n = len(detector.holdout_scores_)
    middle = np.sort(detector.holdout_scores_)[2]
    assert judge.row("a.png", middle)["p_value"] == (1 + 3) / (n + 1)
    json.dumps([rows, described(detector)])


def test_models_without_a_pixel_threshold_take_the_display_limit(model):
    detector = load(model)
    assert Judge.of(detector).pixel_threshold == detector.pixel_threshold_
    del detector.pixel_threshold_
    assert Judge.of(detector).pixel_threshold == detector.map_limits_[1]


@pytest.mark.parametrize(
    ("offset", "why"), [(np.nan, "no thre"), ({"a": 1.0}, "groups")]
)
def test_a_model_that_judges_nothing_is_refused(model, offset, why):
    detector = load(model)
    detector.offset_ = offset
    with pytest.raises(ValueError, match=why):
        threshold_of(detector)


def test_regions_become_plain_numbers():
    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 5] = 3
    said = json.loads(json.dumps([as_json(r) for r in find_regions(heat, 1.0)]))
    assert said == [
        {"box": [2, 5, 4, 6], "area": 2, "peak": 3.0, "mean": 3.0, "place": [2, 5]}
    ]


def test_between_two_thresholds_is_what_a_person_looks_at(reviewed):
    judge = Judge.of(load(reviewed))
    low, high = judge.threshold, judge.review
    assert low < high
    around = (np.nextafter(low, -np.inf), low, np.nextafter(high, -np.inf), high)
    rows = [judge.row("a.png", score) for score in around]
    assert [row["verdict"] for row in rows] == ["defect", "look", "look", "good"]
    assert {row["review_threshold"] for row in rows} == {high}
    assert described(judge.model)["review_threshold"] == high


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("offset_", "a", "offset_='a': expected a number"),
        ("offset_", True, "offset_=True: expected"),
        ("review_offset_", "a", "review_offset_='a': expected a number"),
        ("review_offset_", np.nan, "review_offset_ is NaN"),
    ],
)
def test_what_is_no_threshold_is_refused(model, name, value, why):
    detector = load(model)
    setattr(detector, name, value)
    with pytest.raises((TypeError, ValueError), match=why):
        Judge.of(detector)


@pytest.mark.parametrize("say", [Judge.of, described])
@pytest.mark.parametrize(
    "model",
    [DinoPatch(), Pipeline([("d", DinoPatch())]), ThresholdTunerCV(DinoPatch())],
    ids=["detector", "pipeline", "tuner"],
)
def test_models_that_were_never_fitted_are_refused_in_a_sentence(say, model):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        say(model)


def test_a_model_says_which_false_alarms_its_threshold_aims_at(model):
    detector = load(model)
    assert "target_fpr" not in described(detector)  # the fixture has moved it
    detector.offset_ = -NormalScores(-detector.holdout_scores_).threshold(0.05)
    said = described(detector)
    assert said["target_fpr"] == 0.05
    flagged = (detector.holdout_scores_ < detector.offset_).sum()
    assert said["held_out_flagged"] == flagged
    low, high = said["false_alarm_interval"]
    assert low <= flagged / len(detector.holdout_scores_) <= high
    detector.offset_ += 1
    assert "target_fpr" not in described(detector)


def test_a_tuner_aims_at_its_own_rate(rng):
    F = rng.random((20, 2, 2, 8)).astype(np.float32)
    tuner = ThresholdTunerCV(DinoPatch(), target_fpr=0.1).fit(F)
    assert described(tuner)["target_fpr"] == 0.1
    tuner.offset_ -= 1
    assert "target_fpr" not in described(tuner)
    tuner.set_params(scoring="f1").fit(np.concatenate([F, F + 1]), [1] * 20 + [-1] * 20)
    assert "target_fpr" not in described(tuner)


def test_suspects_are_named(rng):
    F = rng.random((12, 2, 2, 8)).astype(np.float32)
    F[4] += 9
    with pytest.warns(UserWarning, match="look odd"):
        said = described(DinoPatch().fit(F))["suspects"]
    assert len(said) == 1
    assert said[0].startswith("row 4: ")


def test_rows_that_no_split_held_out_do_not_narrow_the_interval(rng):
    F = rng.random((30, 2, 2, 8)).astype(np.float32)
    split = ShuffleSplit(1, test_size=10, random_state=0)
    tuner = ThresholdTunerCV(DinoPatch(), target_fpr=0.1, cv=split).fit(F)
    said = described(tuner)
    assert np.isfinite(tuner.holdout_scores_).sum() == 10
    expected = rate_interval(said["held_out_flagged"], 10)
    assert said["false_alarm_interval"] == pytest.approx(expected, abs=1e-4)
