import numpy as np
import pytest

from skdinoad import AnomalyDINO, DinoFeatures, DinoPatch, PCAAligner, make_pipeline
from skdinoad.datasets import make_screws
from skdinoad.model_selection import _suggest, suggest
from skdinoad.testing import make_images


@pytest.fixture(scope="module")
def textures():
    rng = np.random.default_rng(0)
    return rng.integers(90, 110, (6, 96, 128, 3), dtype=np.uint8)


def detector(**how):
    features = DinoFeatures(weights="random:0", image_size=56)
    return AnomalyDINO(features=features, **how)


def test_an_input_too_small_for_the_defects_is_not_chosen(textures):
    grid = {"features__image_size": [14, 112]}
    search = suggest(textures, detector(), grid, cv=2, kinds="blob", size=0.3)
    assert search.best_params_ == {"features__image_size": 112}
    aupro = search.cv_results_["mean_test_aupro"]
    assert aupro[1] > aupro[0] + 0.1
    assert search.best_estimator_.holdout_scores_.shape == (6,)  # good images alone


def test_of_settings_that_are_as_good_the_first_is_chosen(textures):
    grid = {"device": ["cpu", "auto"]}
    search = suggest(textures, detector(), grid, cv=2, size=0.3)
    assert search.best_params_ == {"device": "cpu"}


@pytest.mark.parametrize(("margin", "chosen"), [(0, 2), (0.01, 1), (0.2, 0)])
def test_the_margin_is_what_a_dearer_setting_must_gain(margin, chosen):
    results = {
        "mean_test_image_auroc": np.array([0.8, 0.9, 0.91]),
        "mean_test_aupro": np.array([0.7, 0.8, 0.8]),
    }
    assert _suggest._Cheapest(margin)(results) == chosen


@pytest.mark.filterwarnings("ignore:1 of .* exact copies")
def test_an_image_its_defective_twin_and_its_copies_share_a_fold(textures):
    X = [*textures, textures[0].copy()]
    search = suggest(X, detector(), {"aggregate": [0.01]}, cv=3, size=0.3)
    for train, test in search.cv:
        assert not set(train % 7) & set(test % 7)
        assert (0 in test) == (6 in test) == (7 in test) == (13 in test)


def test_defects_are_planted_alike_for_one_seed(textures):
    grid = {"aggregate": [0.01, 0.1]}
    a, b = (suggest(textures, detector(), grid, cv=2, size=0.3) for _ in range(2))
    for name in ("mean_test_aupro", "mean_test_image_auroc"):
        assert np.array_equal(a.cv_results_[name], b.cv_results_[name])


def test_a_pipeline_is_searched_too_and_its_aligner_decides_the_size():
    X, _ = make_screws(4, size=96)
    features = DinoFeatures(model="test_vit", weights="random:0")
    pipe = make_pipeline(PCAAligner(output_size=56), DinoPatch(features=features))
    search = suggest(X, pipe, cv=2, size=0.2)
    assert {*search.best_params_} == {"dinopatch__features__layers"}
    assert len(search.cv_results_["params"]) == len(_suggest._LAYERS)


def test_without_a_grid_sizes_and_layers_are_compared():
    grid = _suggest._default_grid(AnomalyDINO())
    assert grid["features__image_size"][0] == 224
    assert grid["features__layers"][0] == "auto"


def test_too_few_different_images_are_refused():
    X = [make_images(1)[0]] * 8
    with pytest.raises(ValueError, match=r"two different good images .* got 1"):
        suggest(X)


def test_hidden_pixels_are_refused_by_name(textures):
    alpha = np.full((*textures.shape[:3], 1), 255, np.uint8)
    alpha[2, :5] = 0
    with pytest.raises(ValueError, match=r"X\[2\].* has hidden pixels"):
        suggest(np.concatenate([textures, alpha], axis=-1), cv=2)


@pytest.mark.parametrize(
    ("how", "text"),
    [({"cv": 1}, "cv=1"), ({"cv": 2.5}, "cv=2.5"), ({"margin": -1}, "margin=-1")],
)
def test_wrong_parameters_are_refused(textures, how, text):
    with pytest.raises(ValueError, match=text):
        suggest(textures, **how)


@pytest.mark.parametrize(
    ("grid", "error"),
    [({"a": 1}, TypeError), ([], ValueError), (["a"], TypeError), (1, TypeError)],
)
def test_grids_that_hold_no_setting_are_refused_by_name(grid, error):
    with pytest.raises(error, match="param_grid="):
        suggest(make_images(4), detector(), grid, cv=2)
