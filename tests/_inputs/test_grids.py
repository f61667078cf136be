"""Valid and invalid inputs X."""

import numpy as np
import pytest

from skdinoad._inputs.grids import (
    check_channels,
    check_grids,
    holds_images,
    name_of,
    nothing_valid,
    size_of,
)
from skdinoad._inputs.images import as_images


@pytest.mark.parametrize(
    ("X", "images"),
    [
        (np.zeros((2, 9, 9, 3), np.uint8), True),
        (np.zeros((2, 9, 9), np.float32), True),
        (np.zeros((2, 9, 9, 4)), True),
        (np.zeros((2, 9, 9, 5)), False),
        (np.array(["a.png"], object), True),
        (["a.png"], True),
        ([np.zeros((9, 9, 3)), np.zeros((8, 9, 3))], True),
        ([np.zeros((9, 9, 6)), np.zeros((8, 9, 6))], False),
        # Channels first: an error about images is more helpful than one about grids,
        (np.zeros((2, 3, 40, 40)), True),
        # but pixels are never negative.
        (np.full((2, 3, 40, 40), -1.0), False),
    ],
)
def test_grids_are_told_from_images(X, images):
    assert holds_images(X) is images


def test_grids_must_be_finite_or_missing():
    F = np.full((2, 3, 4, 8), np.nan)
    assert check_grids(F) is F
    F[1, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"X\[1\] has shape \(3, 4, 8\)"):
        check_grids(F)
    with pytest.raises(ValueError, match="0 samples"):
        check_grids(F[:0])


def test_grids_that_float32_could_not_compare_are_refused():
    """They became infinite in float32, hence invalid, and were ignored silently."""
    for odd in (1e60, -1e16, np.inf):
        F = np.zeros((2, 3, 4, 8))
        F[1, 2, 3, 4] = odd
        with pytest.raises(ValueError, match=r"X\[1\] .* numbers up to .*within \+-1e"):
            check_grids(F)
    for odd in (F[0].astype(object), F[0].astype(int), F[0][:0], None, "a"):
        with pytest.raises(ValueError, match=r"X\[1\] (has shape|is a)"):
            check_grids([F[0] * 0, odd])
    with pytest.raises(ValueError, match=r"X\[1\] .* same channels"):
        check_channels([np.zeros((3, 4, 8)), np.zeros((3, 4, 9))])


def test_messages_call_images_by_name_and_grids_by_row():
    X = as_images(np.zeros((2, 5, 7, 3), np.uint8))
    F = np.zeros((2, 3, 4, 8))
    assert name_of(X, 1) == X.name(1)
    assert name_of(F, 1) == "X[1]"
    assert size_of(X, 0) == (5, 7)
    assert size_of(F, 0) == (3, 4)
    assert "X[1] has no valid patch" in str(nothing_valid(F, 1))


def test_masked_grids_are_refused():
    F = np.ma.masked_array(np.zeros((2, 3, 4, 8)), mask=False)
    for X in (F, [F.data[0], F[1]]):
        with pytest.raises(TypeError, match=r"X\[[01]\] is a masked array"):
            check_grids(X)
