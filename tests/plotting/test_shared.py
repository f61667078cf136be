"""Axes that are given or made, and lengths that must agree."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skdinoad.plotting._shared import axes_grid, check_lengths, exactly


def test_axes_are_made_or_taken():
    made = axes_grid(None, 2, 3)
    assert made.shape == (2, 3)
    assert axes_grid(made.ravel(), 2, 3).shape == (2, 3)
    with pytest.raises(ValueError, match="Got 6 axes, expected 1 x 2"):
        axes_grid(made, 1, 2)
    plt.close("all")


def test_lengths_must_agree():
    check_lengths(2, maps=np.zeros((2, 3, 3)), names=None)
    with pytest.raises(ValueError, match="Got 2 images and 3 names"):
        check_lengths(2, names=["a", "b", "c"])


def test_iterators_are_counted():
    assert list(exactly(2, iter("ab"))) == ["a", "b"]
    for maps, said in (("a", "1 maps"), ("abc", "3 maps or more")):
        with pytest.raises(ValueError, match=f"Got 2 images and {said}"):
            list(exactly(2, iter(maps)))
