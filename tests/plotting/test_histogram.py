"""Scores and the threshold that decides."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, KFold

from skdinoad import (
    AnomalyDINO,
    DinoPatch,
    PCAAligner,
    Pipeline,
    ThresholdTunerCV,
)
from skdinoad.plotting import (
    AnomalyMapDisplay,
    ScoreHistogramDisplay,
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


def test_histogram_shows_held_out_scores_and_the_threshold(pipe, X):
    bad, _ = defective(X[8:])
    display = ScoreHistogramDisplay.from_estimator(pipe, bad)
    assert np.array_equal(display.normal, pipe[-1].holdout_scores_)
    assert display.normal.max() < 0  # training scores of a bank would be 0
    assert np.array_equal(display.anomalous, pipe.score_samples(bad))
    assert display.ax_.lines[0].get_xdata()[0] == pipe[-1].offset_
    heights = [sum(p.get_height() for p in c) for c in display.ax_.containers]
    assert heights == [8, 4]


def test_histogram_of_a_tuner_in_a_search(tiny, X):
    bad, _ = defective(X[:4])
    y = np.array([1] * 12 + [-1] * 4)
    tuner = ThresholdTunerCV(AnomalyDINO(features=tiny), scoring="f1", cv=3)
    search = GridSearchCV(
        tuner,
        {"estimator__aggregate": ["max"]},
        scoring=lambda model, X, y: (model.predict(X) == y).mean(),
        cv=KFold(2, shuffle=True, random_state=0),
    ).fit(np.concatenate([X, bad]), y)
    display = ScoreHistogramDisplay.from_estimator(search, X[:2], [1, 1])
    assert (len(display.normal), len(display.anomalous)) == (14, 4)
    assert display.threshold == search.best_estimator_.offset_
    groups = ThresholdTunerCV(AnomalyDINO(features=tiny), target_fpr=0.2)
    groups.fit(X, groups=np.repeat([0, 1], 6))
    with pytest.raises(ValueError, match="each of"):
        ScoreHistogramDisplay.from_estimator(groups)


def test_the_threshold_shown_is_the_one_that_decides(tiny, X):
    """A tuner as the last step: its detector has a threshold of its own."""
    tuner = ThresholdTunerCV(DinoPatch(features=tiny), target_fpr=0.3)
    pipe = Pipeline([PCAAligner(mode="none", output_size=64), tuner]).fit(X)
    assert pipe[-1].offset_ != pipe[-1].estimator_.offset_
    display = ScoreHistogramDisplay.from_estimator(pipe)
    assert display.threshold == pipe[-1].offset_


def test_histogram_without_threshold_or_defects():
    display = ScoreHistogramDisplay.from_predictions([1, 1], [-0.1, -0.2])
    assert not display.ax_.lines
    figure, ax = plt.subplots()
    assert display.plot(ax).figure_ is figure
    with pytest.raises(ValueError, match="to_labels"):
        ScoreHistogramDisplay.from_predictions([0, 1], [-0.1, -0.2])


def test_titles_and_histograms_refuse_a_threshold_that_is_no_number(tiny, X):
    detector = DinoPatch(features=tiny).fit(X)
    detector.offset_ = "a"
    for display in (ScoreHistogramDisplay, AnomalyMapDisplay):
        with pytest.raises(TypeError, match="offset_='a': expected a number"):
            display.from_estimator(detector, X[:1])
