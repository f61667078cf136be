"""What a model says of images, in plain numbers."""

import json

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import ShuffleSplit

from skdinoad import DinoPatch, Pipeline, ThresholdTunerCV, load
from skdinoad._arrays.normal_scores import NormalScores, rate_interval
from skdinoad.verdicts import (
    DecisionRule,
    described,
    held_out_scores,
    threshold_of,
)


def test_the_rule_is_what_the_model_decides_by(model):
    detector = load(model)
    rule = DecisionRule.of(detector)
    assert rule.threshold == detector.offset_
    assert rule.pixel_threshold == detector.pixel_threshold_
    assert rule.review_threshold is None
    assert rule.held_out_scores.tolist() == sorted(detector.holdout_scores_)
    middle, n = rule.held_out_scores[2], len(rule.held_out_scores)
    assert rule.p_value(middle) == (1 + 3) / (n + 1)
    json.dumps(described(detector))


def test_without_held_out_images_there_is_no_rule(rng):
    with pytest.warns(UserWarning, match="single image"):
        detector = DinoPatch().fit(rng.random((1, 2, 2, 8)).astype(np.float32))
    rule = DecisionRule.of(detector)
    assert (rule.threshold, rule.pixel_threshold, rule.p_value(-1.0)) == (None,) * 3


def test_each_group_has_a_rule(rng):
    F, groups = rng.random((30, 2, 2, 8)).astype(np.float32), np.arange(30) % 2
    tuner = ThresholdTunerCV(DinoPatch(), target_fpr=0.2).fit(F, groups=groups)
    for group in (0, 1):
        rule = DecisionRule.of(tuner, group)
        assert rule.threshold == tuner.offset_[group]
        own = np.sort(tuner.holdout_scores_[groups == group])
        assert rule.held_out_scores.tolist() == own.tolist()
        scores = tuner.score_samples(F[:1])
        assert rule.p_value(scores[0]) == tuner.p_values(F[:1], [group])[0]
    assert DecisionRule.of(tuner).threshold is None


def test_copies_and_rows_that_no_split_held_out_do_not_count(rng):
    F = rng.random((12, 2, 2, 8)).astype(np.float32)
    F = np.concatenate([F, F[:6]])
    split = [(np.arange(8, 12), np.r_[0:8, 12:18])]
    with pytest.warns(UserWarning, match="exact copies"):
        tuner = ThresholdTunerCV(DinoPatch(), target_fpr=0.2, cv=split).fit(F)
    expected = np.sort(tuner.holdout_scores_[:8])
    assert held_out_scores(tuner).shape == (8,)
    assert DecisionRule.of(tuner).held_out_scores.tolist() == expected.tolist()
    odd = F[:1] + 9
    p = DecisionRule.of(tuner).p_value(tuner.score_samples(odd)[0])
    assert p == tuner.p_values(odd)[0] == 1 / 9
    assert described(tuner)["held_out_images"] == 8


@pytest.mark.parametrize(
    ("offset", "why"), [(np.nan, "no thre"), ({"a": 1.0}, "groups")]
)
def test_a_model_that_judges_nothing_is_refused(model, offset, why):
    detector = load(model)
    detector.offset_ = offset
    with pytest.raises(ValueError, match=why):
        threshold_of(detector)


def test_a_model_with_two_thresholds_has_both_in_its_rule(reviewed):
    detector = load(reviewed)
    rule = DecisionRule.of(detector)
    assert rule.threshold == detector.offset_ < rule.review_threshold
    assert rule.review_threshold == detector.review_offset_
    assert described(detector)["review_threshold"] == detector.review_offset_


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
        DecisionRule.of(detector)


@pytest.mark.parametrize("say", [DecisionRule.of, described])
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
