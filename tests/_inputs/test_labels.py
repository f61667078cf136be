import numpy as np
import pytest

from skdinoad import to_labels
from skdinoad._inputs.labels import check_labels, labels_of, normal_rows


def test_to_labels():
    assert to_labels(np.array([True, False])).tolist() == [-1, 1]
    assert to_labels(["ok", "bad"], defect="bad").tolist() == [1, -1]
    assert to_labels([0, 1, 2], defect=[1, 2]).tolist() == [1, -1, -1]
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        to_labels(np.zeros((2, 2)))


def test_to_labels_refuses_what_it_would_invert_or_lose():
    with pytest.raises(ValueError, match="already"):
        to_labels([1, 1, -1])
    with pytest.raises(ValueError, match="No label is 1"):
        to_labels(["good", "bad"])
    assert to_labels([0, 0]).tolist() == [1, 1]


def test_normal_rows_from_labels_and_masks():
    assert normal_rows(None, 3).tolist() == [0, 1, 2]
    assert normal_rows([1, -1, 1.0], 3).tolist() == [0, 2]
    assert normal_rows(np.ones(2, int), 2).tolist() == [0, 1]
    masks = [np.zeros((2, 3)), np.array([[0, 255]]), np.zeros((4, 4))]
    assert normal_rows(masks, 3).tolist() == [0, 2]
    assert normal_rows(np.zeros((2, 5, 5), bool), 2).tolist() == [0, 1]
    assert normal_rows([None, np.ones((2, 2))], 2).tolist() == [0]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 1], "to_labels"),
        ([True, False], "to_labels"),
        (["good", "bad"], "to_labels"),
        ([1, 1, 1], "3 entries"),
        ([-1, -1], "All 2 rows"),
        ([1, np.nan], "to_labels"),
        (1, "y is 1"),
    ],
)
def test_unusable_labels_are_explained(y, words):
    with pytest.raises(ValueError, match=words):
        normal_rows(y, 2)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([np.zeros((4, 4)), np.ones((4, 4, 4))], r"y\[1\] has shape \(4, 4, 4\)"),
        (np.ones((2, 4, 4, 1)), r"y\[0\] has shape \(4, 4, 1\)"),
        ([np.zeros((4, 4)), 1], r"y\[1\] has shape \(\)"),
    ],
)
def test_masks_of_another_form_are_explained(y, words):
    with pytest.raises(ValueError, match=words):
        normal_rows(y, 2)


@pytest.mark.parametrize("y", [[True, False], [0, 1], ["good", "bad"]])
def test_the_error_does_not_guess_which_value_is_a_defect(y):
    """Booleans may mean is_good or is_defect; only their author knows."""
    with pytest.raises(ValueError, match="say which value means a defect") as seen:
        check_labels(y)
    assert "to_labels(is_good, defect=False)" in str(seen.value)


@pytest.mark.parametrize("mask", [[[np.nan, 0.0]], [["a", "b"]], [[None, 1]]])
def test_masks_hold_true_and_false(mask):
    """NaN, strings and objects would be true as booleans, hence defects."""
    with pytest.raises(ValueError, match=r"y\[1\] has dtype"):
        labels_of([None, mask], 2)
