import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from skdinoad._arrays.thresholds import (
    OBJECTIVES,
    as_threshold,
    best_bin,
    best_threshold,
    conformal_p_values,
    conformal_rank,
    controlled_bin,
    cost_objective,
    display_limits,
    normals_needed,
    recall_objective,
)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3, 0.5])
def test_needed_normals_are_the_fewest_that_give_a_rank(rate):
    n = normals_needed(rate)
    assert conformal_rank(n, rate) == 1
    assert conformal_rank(n - 1, rate) == 0


@pytest.mark.parametrize("n", [9, 19, 50])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_a_new_score_falls_below_as_rarely_as_promised(n, rate):
    """All orders of n + 1 distinct scores are equally likely, so count them."""
    k, held = conformal_rank(n, rate), np.arange(n + 1)
    below = [np.delete(held, i)[k - 1] > held[i] for i in range(n + 1)]
    assert np.mean(below) == pytest.approx(k / (n + 1))
    assert rate - 1 / (n + 1) < np.mean(below) <= rate + 1e-12


def test_p_values_agree_with_the_threshold(rng):
    held, scores = rng.normal(size=49).round(1), rng.normal(size=200).round(1)
    p = conformal_p_values(held, scores)
    assert p.min() >= 1 / 50
    assert p.max() <= 1
    for rate in (0.02, 0.1, 0.33):
        threshold = np.sort(held)[conformal_rank(49, rate) - 1]
        assert np.array_equal(scores < threshold, p <= rate + 1e-12)


MATRIX = ((-1, 7), (2, 0))


def value(name, y, flagged):
    """Compute each figure by scikit-learn, or from the confusion matrix."""
    labels = np.where(flagged, -1, 1)
    counts = confusion_matrix(y, labels, labels=[-1, 1])
    if name == "recall":
        allowed = counts[1, 0] <= 0.2 * counts[1].sum()
        return counts[0, 0] / counts[0].sum() if allowed else -np.inf
    if name == "cost":
        return -(counts * np.array(MATRIX)).sum()
    if name == "f1":
        return f1_score(y, labels, pos_label=-1, zero_division=0)
    return balanced_accuracy_score(y, labels)


ALL = {
    **OBJECTIVES,
    "recall": recall_objective(0.2),
    "cost": cost_objective(MATRIX),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("decimals", [9, 0])
@pytest.mark.parametrize("seed", range(5))
def test_best_threshold_is_the_best_of_all(name, decimals, seed):
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(30) < 0.4, -1, 1)
    scores = (y + rng.normal(0, 1.5, 30)).round(decimals)
    threshold = best_threshold(y == 1, scores, ALL[name])
    every = [value(name, y, scores < t) for t in [*scores, np.inf]]
    assert value(name, y, scores < threshold) == pytest.approx(max(every))


def test_threshold_lies_half_way():
    normal = np.array([True, True, False])
    assert best_threshold(normal, np.array([2.0, 1.0, 0.0]), OBJECTIVES["f1"]) == 0.5


def test_neighbouring_numbers_are_told_apart():
    low = np.float64(1)
    scores = np.array([low, np.nextafter(low, 2)])
    threshold = best_threshold(np.array([False, True]), scores, OBJECTIVES["f1"])
    assert scores[0] < threshold <= scores[1]


def test_free_misses_flag_nothing_and_free_alarms_all(rng):
    normal, scores = rng.random(20) < 0.5, rng.normal(size=20)
    never = best_threshold(normal, scores, cost_objective(((0, 0), (1, 0))))
    assert not (scores < never).any()
    always = best_threshold(normal, scores, cost_objective(((0, 9), (0, 0))))
    assert (scores < always)[~normal].all()


@pytest.mark.parametrize("name", ALL)
def test_best_bin_is_the_best_of_all(name, rng):
    bad, good = rng.integers(0, 9, 40), rng.integers(0, 9, 40)
    bad[:20], good[30:] = 0, 0
    y = np.repeat([-1, 1], [bad.sum(), good.sum()])
    bins = np.concatenate([np.repeat(np.arange(40), n) for n in (bad, good)])
    found = best_bin(bad, good, ALL[name])
    every = [value(name, y, bins > b) for b in range(-1, 40)]
    assert value(name, y, bins > found) == pytest.approx(max(every))


def test_controlled_share_is_as_promised_over_all_orders(rng):
    """Each of n + 1 maps can be the new one; its mean share is at most the rate."""
    shares = rng.random((12, 300)) ** 4
    shares /= shares.sum(1, keepdims=True)
    for rate in (0.1, 0.3):
        new = []
        for i in range(12):
            b = controlled_bin(np.delete(shares, i, 0).sum(0), 11, rate)
            new.append(shares[i, b + 1 :].sum())
        assert np.mean(new) <= rate
        assert np.mean(new) > 0
    assert controlled_bin(shares.sum(0), 12, 1 / 13) == 299  # nothing may be above


def test_nothing_is_flagged_where_that_is_best():
    """Defects cannot be detected, and every bin contains many good pixels."""
    bad, good = np.array([0, 5, 0]), np.array([0, 50, 50])
    assert best_bin(bad, good, cost_objective([[0, 1], [10, 0]])) == 2
    assert best_bin(bad, good, recall_objective(0.01)) == 2
    assert best_bin(bad, good, recall_objective(1.0)) == 0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(8))
def test_best_bin_of_data_that_overlap(name, seed):
    rng = np.random.default_rng(seed)
    bad, good = rng.integers(0, 4, 20), rng.integers(0, 40, 20)
    y = np.repeat([-1, 1], [bad.sum(), good.sum()])
    bins = np.concatenate([np.repeat(np.arange(20), n) for n in (bad, good)])
    every = [value(name, y, bins > b) for b in range(-1, 20)]
    found = best_bin(bad, good, ALL[name])
    assert value(name, y, bins > found) == pytest.approx(max(every))


def test_what_cannot_be_answered_is_refused():
    shares = np.full(9, 0.5)
    with pytest.raises(ValueError, match=r"needs 33 .* there are 12"):
        controlled_bin(shares, 12, 0.03)
    with pytest.raises(ValueError, match="0 anomalous and 2 normal"):
        best_threshold(np.ones(2, bool), np.zeros(2), OBJECTIVES["f1"])
    with pytest.raises(ValueError, match="finite costs"):
        cost_objective([[0, np.nan], [1, 0]])
    nowhere = lambda *counts: np.full(3, np.nan)  # noqa: E731
    with pytest.raises(ValueError, match="NaN at every threshold"):
        best_threshold(np.array([True, False]), np.arange(2.0), nowhere)


def test_a_figure_of_0_by_0_is_not_the_best():
    precision = lambda found, false, *_: found / (found + false)  # noqa: E731
    normal, scores = np.array([True, True, False]), np.array([2.0, 1.0, 0.0])
    assert best_threshold(normal, scores, precision) == 0.5


def test_display_limits_have_the_usual_hottest_patch_half_way_up():
    grids = [np.array([[0.0, 1.0], [2.0, 5.0]]), np.array([[1.0, np.nan], [1.0, 3.0]])]
    assert display_limits(grids) == (1, 1 + 2 * (4 - 1))
    low, high = display_limits([np.zeros((2, 2))])
    assert low < high


@pytest.mark.parametrize("value", [-1, 0.5, np.float32(0.5), np.array(0.5), -np.inf])
def test_a_number_set_by_hand_is_a_threshold(value):
    assert as_threshold(value) == float(value)
    assert type(as_threshold(value)) is float


@pytest.mark.parametrize("value", ["a", None, True, np.array([0.5]), {0: 1.0}, 1j])
def test_what_is_no_number_is_no_threshold(value):
    with pytest.raises(TypeError, match=r"x_=.*expected a number"):
        as_threshold(value, "x_")
