"""Drift: its promise on numbers, and alarms on images that change."""

import pickle

import cv2
import numpy as np
import pytest
from conftest import tiny_features
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skdinoad import load, save
from skdinoad.monitoring import (
    _MEMORY,
    DriftMonitor,
    _after_a_bet,
    _cells,
    _pooled,
    _properties,
)
from skdinoad.testing import make_images


def monitor(**parameters):
    return DriftMonitor(
        **{"features": tiny_features(), "false_alarm_every": 1000, **parameters}
    )


def bare(values, every):
    """Return a monitor that has learned numbers (n, k) instead of images."""
    out = DriftMonitor(false_alarm_every=every)
    out.mean_, out._usual, out._seed = 0, np.sort(values, axis=0), 0
    out.statistics_ = [f"{i}, {s}" for i in range(values.shape[1]) for s in "lh"][1:]
    return out.reset()


def run_length(out, draw, most):
    return next((t for t in range(1, most + 1) if out._bet(draw())), most)


def test_false_alarms_are_as_rare_as_promised(rng):
    lengths = [
        run_length(bare(rng.normal(size=(20, 4)), 100), lambda: rng.normal(size=4), 800)
        for _ in range(60)
    ]
    assert np.mean(lengths) > 100


@pytest.mark.parametrize("n", [12, 50])
def test_a_change_is_noticed_within_tens_of_images_however_long_all_was_well(rng, n):
    out = bare(rng.normal(size=(n, 4)), 10_000)
    for _ in range(200):
        assert not out._bet(rng.normal(size=4))
    change = np.array([0, 0, 4, 0])
    assert run_length(out, lambda: rng.normal(size=4) + change, 100) < 30
    assert max(out.evidence_of_, key=out.evidence_of_.get) == "2, h"


@pytest.mark.parametrize("every", [200, 10_000])
def test_a_gross_change_right_after_fit_is_noticed_within_some_images(rng, every):
    for _ in range(5):
        out = bare(rng.normal(size=(20, 4)), every)
        change = np.array([0, 0, 6, 0])
        assert run_length(out, lambda c=change: rng.normal(size=4) + c, 20) <= 10


def test_bets_are_fair():
    """Over equally likely ranks no bet wins or loses, or the promise would not hold."""
    p = (np.arange(2000) + 0.5) / 2000
    won = _after_a_bet(np.ones((2000, 3, _MEMORY)), p, 200)
    np.testing.assert_allclose(won.mean(axis=0), 1)


def test_a_stake_is_laid_at_each_image(rng):
    """One bet after the other, in other words than ours."""
    ranks, wealth = rng.uniform(0, 0.3, size=6), np.zeros((1, 3, _MEMORY))
    for t, p in enumerate(ranks):
        wealth = _after_a_bet(wealth, np.array([p]), 21 + t)
    expected = 0
    for first in range(6):
        stake = 1
        for t in range(first, 6):
            share = (t - first + 1) / (21 + t)
            stake *= 0.6 / share if ranks[t] <= share else 0.4 / (1 - share)
        expected += stake
    assert wealth[0, 1].sum() == pytest.approx(expected)


def test_order_of_training_images_does_not_matter():
    X = make_images(32)
    found = []
    for order in (slice(None, 12), slice(11, None, -1)):
        out = monitor().fit(X[order])
        out.update(X[12:])
        found.append(list(out.evidence_of_.values()))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_a_monitor_saved_when_bets_were_others_lays_its_own():
    X = make_images(20)
    out, other = monitor().fit(X[:12]), monitor().fit(X[:12])
    del other._stakes
    other._wealth = np.ones((7, 3))
    assert np.array_equal(other.update(X[12:]), out.update(X[12:]))
    assert other.evidence_of_ == out.evidence_of_


def test_evidence_stays_a_number_however_strong(rng):
    out = bare(rng.normal(size=(2000, 4)), 10)
    for _ in range(2 * _MEMORY):
        out._bet(rng.normal(size=4) + 100)
    assert np.isfinite(out.evidence_)


def test_single_odd_images_are_no_drift(rng):
    out = bare(rng.normal(size=(30, 4)), 1000)
    for t in range(300):
        odd = 20 if t % 50 == 49 else 0  # two in a hundred
        assert not out._bet(rng.normal(size=4) + odd)


def test_ranks_are_uniform_also_with_ties(rng):
    out = bare(np.zeros((9, 1)), 10)
    p = [out._p_value([0.0] * 9, 0.0, share) for share in np.linspace(0, 1, 11)]
    np.testing.assert_allclose(p, np.linspace(0, 1, 11))
    assert out._p_value([1.0, 2.0, 3.0], 2.5, 0.5) == (2 + 0.5) / 4
    assert out._p_value([1.0, 2.0, 3.0], 2.0, 0.0) == 1 / 4


CHANGES = {
    "dim": lambda X: (X * 0.6).astype(np.uint8),
    "bright": lambda X: (X * 1.25).clip(0, 255).astype(np.uint8),
    "blurred": lambda X: np.stack([cv2.GaussianBlur(x, (0, 0), 3) for x in X]),
    "warm": lambda X: (X * [1.2, 1, 0.8]).clip(0, 255).astype(np.uint8),
    "shifted": lambda X: np.roll(X, 12, axis=2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_raise_the_alarm_and_equal_ones_do_not(change):
    X = make_images(60)
    out = monitor().fit(X[:20])
    assert not out.update(X[20:40]).any()
    before = out.evidence_
    alarms = out.update(CHANGES[change](X[40:]))
    assert alarms[-1]
    assert out.alarm_
    assert (np.diff(alarms.astype(int)) >= 0).all()  # it stays
    assert out.evidence_ > 1000 > before
    assert out.n_seen_ == 40


def test_reset_begins_anew():
    X = make_images(40)
    out = monitor().fit(X[:20])
    first = out.update(X[20:]), out.evidence_
    out.update(CHANGES["dim"](X))
    assert out.reset() is out
    assert (out.alarm_, out.n_seen_, out.evidence_) == (False, 0, 0.0)
    again = out.update(X[20:]), out.evidence_
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_and_calls_do_not_matter(batch_size):
    X = make_images(30)
    whole = monitor().fit(X[:12])
    parts = monitor(batch_size=batch_size).fit(X[:12])
    expected = whole.update(X[12:])
    found = np.concatenate([parts.update(X[12:15]), parts.update(X[15:])])
    assert np.array_equal(found, expected)
    assert parts.evidence_ == pytest.approx(whole.evidence_, rel=1e-6)


def test_one_from_a_file_goes_on_as_it_would_have(tmp_path):
    X = make_images(30)
    out = monitor().fit(X[:12])
    out.update(X[12:20])
    save(out, tmp_path / "m.skd")
    others = [load(tmp_path / "m.skd"), pickle.loads(pickle.dumps(out))]
    out.update(X[20:])
    for other in others:
        other.update(X[20:])
        assert other.evidence_of_ == out.evidence_of_


def test_ties_fall_after_a_file_as_they_would_have():
    """Of images that are all alike ranks are drawn, and nothing else tells."""
    out = bare(np.zeros((20, 4)), 1000)
    for _ in range(8):
        out._bet(np.zeros(4))
    other = pickle.loads(pickle.dumps(out))
    drawn = bare(np.zeros((20, 4)), 1000)
    drawn._seed = 1
    for _ in range(8):
        drawn._bet(np.zeros(4))
    assert drawn.evidence_ != out.evidence_
    for _ in range(20):
        out._bet(np.zeros(4))
        other._bet(np.zeros(4))
        assert other.evidence_of_ == out.evidence_of_


def test_what_lies_outside_a_region_never_matters():
    X = make_images(30)
    alpha = np.zeros((30, 48, 64, 1), np.uint8)
    alpha[:, :, :32] = 255
    noisy = X.copy()
    noisy[:, :, 32:] = np.random.default_rng(1).integers(0, 255, noisy[:, :, 32:].shape)
    found = []
    for images in (X, noisy):
        images = np.concatenate([images, alpha], axis=-1)
        out = monitor().fit(images[:12])
        out.update(images[12:])
        found.append(list(out.evidence_of_.values()))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_properties_of_a_known_image():
    image = np.full((8, 8, 3), [120, 60, 30], np.uint8)
    level, detail, warmth = _properties(image)
    assert (level, detail) == (70, 0)
    assert warmth == pytest.approx(121 / 31)
    image = np.dstack([image, np.zeros((8, 8, 1), np.uint8)])
    assert _properties(image) == (0, 0, 1)


def test_pooled_features_are_means_of_cells_and_of_unit_length():
    grid = np.zeros((8, 8, 1), np.float32)
    grid[:2, :2] = 3  # one cell of sixteen
    vector = _pooled(grid)
    assert vector.shape == (16,)
    assert (vector[0], abs(vector[1:]).max()) == (1, 0)
    grid[7, 7] = np.nan
    assert np.isfinite(_pooled(grid)).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 39)])
def test_any_grid_has_sixteen_cells_that_hold_all_of_it(size):
    grid = np.arange(1.0, size[0] * size[1] + 1).reshape(*size, 1)
    assert _pooled(grid).shape == (16,)
    covered = np.zeros(size)
    for rows in _cells(size[0]):
        for columns in _cells(size[1]):
            assert covered[rows, columns].size
            covered[rows, columns] += 1
    assert (covered > 0).all()


def test_missing_alpha_is_told():
    X = make_images(12)
    alpha = np.full((12, 48, 64, 1), 255, np.uint8)
    alpha[:, :10] = 0
    out = monitor().fit(np.concatenate([X, alpha], axis=-1))
    with pytest.warns(UserWarning, match=r"X\[0\] and 11 more images without alpha"):
        out.update(X)


def test_bad_use_is_explained():
    with pytest.raises(ValueError, match="X holds 1 image"):
        monitor().fit(make_images(1))
    with pytest.raises(ValueError, match="false_alarm_every"):
        monitor(false_alarm_every=0.5).fit(make_images(3))
    with pytest.raises(NotFittedError):
        monitor().update(make_images(1))
    fitted = monitor().fit(make_images(3))
    with pytest.raises(ValueError, match=r"X\[1\]"):
        fitted.update([make_images(1)[0], np.zeros((0, 3, 3), np.uint8)])
    assert not hasattr(clone(fitted), "evidence_")
