"""Images before and after an aligner."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skdinoad import (
    PCAAligner,
)
from skdinoad.plotting import (
    AlignmentDisplay,
    AnomalyMapDisplay,
)
from skdinoad.testing import make_images


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def X():
    return make_images(12, size=(64, 64))


def test_alignment_shows_before_after_and_valid(X):
    aligner = PCAAligner(output_size=48).fit(X)
    display = AlignmentDisplay.from_estimator(aligner, X[:3])
    assert display.axes_.shape == (3, 3)
    Z = aligner.transform(X[:3])
    before, after, valid = (ax.images[0].get_array() for ax in display.axes_[:, 1])
    assert np.array_equal(before, X[1])
    assert np.array_equal(after, Z[1, ..., :3])
    assert np.array_equal(valid, Z[1, ..., 3])
    again = AlignmentDisplay.from_predictions(X[:1], Z[:1, ..., :3])
    assert (again.axes_[2, 0].images[0].get_array() == 255).all()


def test_deep_and_hidden_images_are_shown():
    deep = np.full((2, 16, 16, 4), 65535, np.uint16)
    deep[..., :3] = 1000
    deep[:, 4, 4] = [3000, 3000, 3000, 0]
    maps = np.zeros((2, 16, 16))
    shown = AnomalyMapDisplay.from_predictions(deep, maps, limits=(0, 1))
    picture = shown.axes_[0, 0].images[0].get_array()
    assert picture[4, 4].tolist() == [255, 255, 255, 0]
    assert picture[0, 0].tolist() == [128, 128, 128, 255]
