from functools import partial

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from skdinoad import DinoPatch, PCAAligner, metrics, predict_map
from skdinoad.metrics import image_auroc_scorer, pixel_aupro_scorer
from skdinoad.testing import make_images

#: Those that return one number.
NAMES = [name for name in metrics.__all__ if name.endswith("_scorer")]
NAMES.remove("detection_scorer")

#: What judges the threshold has no score of its own, and needs no defects to rank.
RANKING = [n for n in NAMES if hasattr(metrics, n.replace("scorer", "score"))]


@pytest.fixture
def data():
    X, masks = make_images(12, size=(64, 64)), np.zeros((12, 64, 64), bool)
    masks[::3, 40:50, 10:30] = True
    X[masks] = 230
    return X, masks


@pytest.fixture
def pipe(tiny):
    return make_pipeline(
        PCAAligner(mode="none", output_size=64), DinoPatch(features=tiny)
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_scorer_judges_a_search_by_masks(name, data, pipe):
    X, masks = data
    scorer = getattr(metrics, name)
    found = cross_val_score(pipe, X, masks, scoring=scorer, cv=KFold(2))
    assert (found > 0.3).all()
    assert (found <= 1).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("pixel")])
def test_pixel_scorers_are_the_metrics_of_the_maps(name, data, pipe):
    X, masks = data
    pipe.fit(X, masks)
    exact = {"pixel_aupro_scorer": "aupro_score"}
    score = getattr(metrics, exact.get(name, name.replace("scorer", "score")))
    found = getattr(metrics, name)(pipe, X, masks)
    assert found == pytest.approx(score(masks, predict_map(pipe, X)), abs=1e-3)


@pytest.mark.parametrize("name", [n for n in RANKING if not n.startswith("pixel")])
def test_image_scorers_take_labels_too(name, data, pipe):
    X, masks = data
    y = np.where(masks.any((1, 2)), -1, 1)
    pipe.fit(X, y)
    scorer, score = (
        getattr(metrics, n) for n in (name, name.replace("scorer", "score"))
    )
    expected = score(y, pipe.score_samples(X))
    assert scorer(pipe, X, y) == scorer(pipe, X, masks) == expected


def test_empty_masks_may_be_none_and_limits_others(data, pipe):
    X, masks = data
    sparse = [m if m.any() else None for m in masks]
    pipe.fit(X, sparse)
    strict = partial(pixel_aupro_scorer, fpr_limit=0.05)
    assert pixel_aupro_scorer(pipe, X, sparse) == pixel_aupro_scorer(pipe, X, masks)
    assert strict(pipe, X, sparse) < pixel_aupro_scorer(pipe, X, sparse)


def test_search_chooses_what_finds_the_defects(data, pipe):
    X, masks = data
    search = GridSearchCV(
        pipe,
        {"dinopatch__aggregate": ["mean", "max"]},
        scoring={"pixels": pixel_aupro_scorer, "images": image_auroc_scorer},
        refit="images",
        cv=KFold(2),
    ).fit(X, masks)
    assert len(search.cv_results_["mean_test_pixels"]) == 2


def test_labels_are_no_masks(data, pipe):
    X, masks = data
    pipe.fit(X, masks)
    with pytest.raises(ValueError, match="need masks"):
        pixel_aupro_scorer(pipe, X, np.ones(12))


class Flags:
    """Flags what it is told to."""

    def __init__(self, labels):
        self.labels = labels

    def predict(self, X):
        return np.array(self.labels)


def test_recall_and_specificity_are_those_of_the_own_threshold():
    estimator, X = Flags([-1, 1, 1, 1, -1]), np.zeros((5, 8, 8))
    y = [-1, -1, -1, 1, 1]
    assert metrics.recall_scorer(estimator, X, y) == pytest.approx(1 / 3)
    assert metrics.specificity_scorer(estimator, X, y) == 0.5
    assert np.isnan(metrics.recall_scorer(estimator, X, [1] * 5))
    assert np.isnan(metrics.specificity_scorer(estimator, X, [-1] * 5))


def test_all_figures_of_one_pass_are_those_of_the_single_scorers(data, pipe):
    X, masks = data
    model = pipe.fit(X[~masks.any((1, 2))])
    found = metrics.detection_scorer(model, X, masks)
    single = {
        "image_auroc": metrics.image_auroc_scorer,
        "image_ap": metrics.image_ap_scorer,
        "f1_max": metrics.f1_max_scorer,
        "recall": metrics.recall_scorer,
        "specificity": metrics.specificity_scorer,
        "aupro": metrics.pixel_aupro_scorer,
        "pixel_auroc": metrics.pixel_auroc_scorer,
        "pixel_ap": metrics.pixel_ap_scorer,
        "pixel_f1_max": metrics.pixel_f1_max_scorer,
    }
    assert found == {name: scorer(model, X, masks) for name, scorer in single.items()}
    labels = np.where(masks.any((1, 2)), -1, 1)
    assert set(metrics.detection_scorer(model, X, labels)) == {*list(single)[:5]}


def test_a_search_reports_all_figures(data, pipe):
    X, masks = data
    grid = {"dinopatch__bank__neighborhood": [0, 1]}
    how = {"scoring": metrics.detection_scorer, "refit": "image_auroc"}
    search = GridSearchCV(pipe, grid, cv=KFold(2), **how).fit(X, masks)
    assert search.cv_results_["mean_test_aupro"].shape == (2,)
