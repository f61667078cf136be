"""Images above their heat maps."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skdinoad import (
    DinoPatch,
    LinearDFR,
    PCAAligner,
    Pipeline,
)
from skdinoad.plotting import (
    AnomalyMapDisplay,
    overlay_map,
)
from skdinoad.testing import make_images


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def X():
    return make_images(12, size=(64, 64))


@pytest.fixture
def pipe(tiny, X):
    pipe = Pipeline([PCAAligner(mode="none", output_size=64), DinoPatch(features=tiny)])
    return pipe.fit(X[:8])


def defective(X):
    bad, masks = X.copy(), np.zeros(X.shape[:3], bool)
    masks[:, 40:50, 10:30] = True
    bad[masks] = [255, 0, 255]
    return bad, masks


def test_maps_stand_below_their_images(pipe, X):
    bad, masks = defective(X[8:10])
    shown = np.concatenate([X[8:9], bad])
    display = AnomalyMapDisplay.from_estimator(pipe, shown, masks=[None, *masks])
    assert display.axes_.shape == (2, 3)
    assert display.limits == pipe[-1].map_limits_
    top, bottom = display.axes_[:, 1]
    assert np.array_equal(top.images[0].get_array(), shown[1])
    expected = overlay_map(shown[1], display.maps[1], limits=display.limits)
    assert np.array_equal(bottom.images[0].get_array(), expected)
    assert len(top.collections) == 1  # the outline
    assert not display.axes_[0, 0].collections
    titles = [ax.get_title() for ax in display.axes_[0]]
    verdicts = ["normal" if v == 1 else "ANOMALOUS" for v in pipe.predict(shown)]
    assert [title.split(" ")[0] for title in titles] == verdicts


def test_maps_of_a_perfect_part_stay_dark(pipe, X):
    """With limits of its own each would have its hottest pixel in full colour."""
    display = AnomalyMapDisplay.from_estimator(pipe, X[8:])
    for ax, image in zip(display.axes_[1], X[8:]):
        shown = np.asarray(ax.images[0].get_array(), int)
        assert np.abs(shown - image).mean() < 30


def test_limits_are_never_guessed(X, make_tiny_cnn):
    cnn = make_tiny_cnn(standardize=False)
    detector = LinearDFR(features=cnn, latent_dim=2, holdout=None)
    detector.fit(X)
    with pytest.raises(ValueError, match="pass limits="):
        AnomalyMapDisplay.from_estimator(detector, X[:2])
    display = AnomalyMapDisplay.from_estimator(detector, X[:2], limits=(0, 1))
    assert display.limits == (0, 1)
    score = detector.score_samples(X[:1])[0]
    assert display.axes_[0, 0].get_title() == f"{score:.3f}"  # no threshold


def test_axes_may_be_given(X):
    figure, axes = plt.subplots(2, 2)
    maps = np.zeros((2, 64, 64))
    display = AnomalyMapDisplay.from_predictions(X[:2], maps, limits=(0, 1), axes=axes)
    assert display.figure_ is figure
    with pytest.raises(ValueError, match="3 images and 2 maps"):
        AnomalyMapDisplay.from_predictions(X[:3], maps, limits=(0, 1))
    with pytest.raises(ValueError, match=r"mask \(9, 9\); expected one shape"):
        AnomalyMapDisplay.from_predictions(
            X[:2], maps, limits=(0, 1), masks=np.zeros((2, 9, 9))
        )
    with pytest.raises(ValueError, match="low < high"):
        AnomalyMapDisplay.from_predictions(X[:2], maps, limits=(1, 1))
    maps = np.zeros((3, 64, 64))
    with pytest.raises(ValueError, match="4 axes, expected 2 x 3"):
        AnomalyMapDisplay.from_predictions(X[:3], maps, limits=(0, 1), axes=axes)
