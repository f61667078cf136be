import numpy as np
import pytest

from skdinoad import DinoPatch
from skdinoad.metrics._streaming import N_BINS, bins_of
from skdinoad.model_selection._folds import (
    check_scores,
    checked_groups,
    count_once,
    fitted,
    merged,
    score_fold,
    spread,
)
from skdinoad.testing import make_images


def test_every_label_of_every_group_is_in_as_many_folds_as_can_be():
    labels = np.repeat([1, -1], [14, 6])
    groups = np.arange(20) % 2
    fold = spread(labels, groups, np.arange(20), 4, np.random.default_rng(0))
    assert np.bincount(fold).tolist() == [5, 5, 5, 5]
    for label in (1, -1):
        for group in (0, 1):
            rows = (labels == label) & (groups == group)
            counts = np.bincount(fold[rows], minlength=4)
            assert counts.max() - counts.min() <= 1


def test_copies_share_a_fold_and_count_once():
    labels, groups, first = np.ones(12, int), np.zeros(12, int), np.arange(12) % 6
    fold = spread(labels, groups, first, 3, np.random.default_rng(0))
    assert np.array_equal(fold[:6], fold[6:])
    assert np.bincount(fold).tolist() == [4, 4, 4]
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]
    counted = count_once(first, groups, splits)
    assert sorted(first[counted]) == list(range(6))


def test_of_copies_the_one_held_out_counts_in_each_group():
    first, groups = np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    splits = [(np.array([0]), np.array([2, 3, 1]))]
    counted = count_once(first, groups, splits)
    assert counted.tolist() == [False, True, True, True]


def test_groups_are_one_for_each_row():
    assert checked_groups(None, 3).tolist() == [0, 0, 0]
    assert checked_groups(["a", "b"], 2).tolist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"shape \(2,\); expected one of 3"):
        checked_groups([1, 2], 3)


def test_the_row_of_a_score_that_is_no_number_is_named():
    check_scores(np.zeros(2), np.array([4, 7]))
    with pytest.raises(ValueError, match=r"X\[7\] is not finite"):
        check_scores(np.array([0, np.inf]), np.array([4, 7]))


@pytest.fixture
def found(tiny):
    """Two folds of eight images, of which the first has a mask of 200 pixels."""
    X, masks = make_images(8, size=(64, 64)), np.zeros((8, 64, 64), bool)
    masks[0, 40:50, 10:30] = True
    labels, groups = np.where(masks.any((1, 2)), -1, 1), np.array(list("aabbaabb"))
    task = DinoPatch(features=tiny), X, labels, groups, masks, np.ones(8, bool), True
    halves = np.arange(4), np.arange(4, 8)
    return X, [score_fold(*task, *pair) for pair in (halves, halves[::-1])]


def test_a_fold_is_judged_by_a_model_of_the_other_normal_rows(found, tiny):
    X, folds = found
    model = fitted(DinoPatch(features=tiny), X, np.arange(1, 4))  # row 0 is anomalous
    np.testing.assert_allclose(folds[0].scores, model.score_samples(X[4:]), rtol=1e-5)
    assert folds[0].rows.tolist() == [4, 5, 6, 7]
    assert np.array_equal(folds[0].model.bank_.vectors, model.bank_.vectors)


def test_pixels_are_counted_by_group_and_kind(found):
    X, folds = found
    shares, n, bad, good = merged([fold.counts for fold in folds], "a")
    assert n == 3  # rows 1, 4, 5; row 0 is no normal map
    assert shares.sum() == pytest.approx(3)
    assert bad.sum() == 200
    assert good.sum() == 4 * 64 * 64 - 200
    shares, n, bad, good = merged([fold.counts for fold in folds], "b")
    assert (n, bad.sum(), good.sum()) == (4, 0, 4 * 64 * 64)
    maps = [folds[1].model.predict_map(X[2:4]), folds[0].model.predict_map(X[6:])]
    expected = np.bincount(bins_of(np.concatenate(maps)).ravel(), minlength=N_BINS)
    assert np.array_equal(good, expected)
    np.testing.assert_allclose(shares, expected / 64**2)
