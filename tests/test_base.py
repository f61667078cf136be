"""The common checks, over every public estimator of the package."""

import inspect

import numpy as np
import pytest
from conftest import build, tiny_features
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_checks

import skdinoad
from skdinoad import DFR, DMAD, AnomalyDINO, DinoPatch, LinearDFR, SubspaceAD
from skdinoad._arrays.normal_scores import NormalScores
from skdinoad.base import BaseDetector
from skdinoad.features._store import clear_memory
from skdinoad.testing import checks_for, make_images

ESTIMATORS = [
    item
    for item in (getattr(skdinoad, name) for name in skdinoad.__all__)
    if inspect.isclass(item)
    and issubclass(item, BaseEstimator)
    and not issubclass(item, Pipeline)
    and hasattr(item, "fit")  # parts that only hold settings have none
]

#: scikit-learn's own checks that need no data; the others have twins in testing.py.
DATA_FREE = [
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_mixin_order,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
]


@pytest.mark.parametrize("check", DATA_FREE, ids=lambda check: check.__name__)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_scikit_learn_check(cls, check):
    check(cls.__name__, build(cls))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_fit_says_the_order_of_colours(cls):
    text = " ".join(cls.fit.__doc__.split())
    assert "RGB" in text
    assert "BGR" in text
    assert "image[..., ::-1]" in text


@pytest.mark.parametrize(
    ("cls", "check"),
    [(cls, check) for cls in ESTIMATORS for check in checks_for(build(cls))],
    ids=lambda item: item.__name__,
)
def test_common_check(cls, check):
    check(build(cls))


def test_all_public_estimators_are_found():
    assert {cls.__name__ for cls in ESTIMATORS} >= {
        "AffineAligner",
        "AnomalyDINO",
        "DinoFeatures",
        "DinoPatch",
        "Dinomaly",
        "ForegroundMask",
        "PCAAligner",
    }


class Plain(BaseDetector):
    """Scores are the first channel."""

    def __init__(self, features="passthrough", target_fpr=0.05):
        self.features, self.target_fpr = features, target_fpr
        self.aggregate, self.verbose = "max", False

    def default_features(self):
        raise NotImplementedError

    def fit_grids(self, F):
        self.seen_ = F

    def score_grids(self, F):
        return F[..., 0]

    def holdout_grids(self):
        return self.seen_[..., 0]


def test_thresholds_are_estimated_from_held_out_scores_and_hottest_places(rng):
    F = rng.random((19, 3, 4, 8)).astype(np.float32)
    F[0, 0] = np.nan  # invalid
    hottest = np.nanmax(F[..., 0], axis=(1, 2))
    for rate in (0.05, 0.1):
        detector = Plain(target_fpr=rate).fit(F)
        expected = NormalScores(hottest).threshold(rate)
        assert detector.pixel_threshold_ == expected == -detector.offset_


@pytest.fixture
def with_odd_ones(rng):
    """Features of 12 good images, of which 3 and 7 are odd, 7 more so."""
    F = np.zeros((12, 2, 2, 8), np.float32)
    F[:, 0, 0, 0] = rng.uniform(1, 1.2, 12)
    F[3, 0, 0, 0], F[7, 0, 0, 0] = 5, 9
    return F


def test_odd_training_images_are_named_and_do_not_move_the_threshold(with_odd_ones):
    with pytest.warns(UserWarning, match=r"2 of 12 .*X\[7\], 8.\d times") as caught:
        detector = Plain().fit(with_odd_ones)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [s.row for s in detector.suspects_] == [7, 3]
    assert detector.suspects_[0].ratio > detector.suspects_[1].ratio > 4
    assert detector.suspects_[0].path is None
    assert len(detector.holdout_scores_) == 12
    good = np.delete(with_odd_ones, [3, 7], axis=0)
    clean = Plain().fit(good)
    assert clean.suspects_ == []
    assert detector.offset_ == pytest.approx(clean.offset_)


def test_suspects_are_rows_of_what_fit_was_given(with_odd_ones):
    X = np.concatenate([with_odd_ones[:1] + 50, with_odd_ones])
    y = np.ones(13, int)
    y[0] = -1
    with pytest.warns(UserWarning, match="look odd"):
        assert [s.row for s in Plain().fit(X, y).suspects_] == [8, 4]


@pytest.mark.parametrize("cls", [AnomalyDINO, DinoPatch])
def test_rows_of_later_calls_are_counted_on(tiny, cls):
    X = make_images(8)
    y = np.array([1, 1, 1, -1])
    detector = cls(features=tiny).fit(X[:4], y).partial_fit(X[4:], y)
    assert detector.holdout_rows_.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(detector.holdout_scores_) == 6


def test_copies_count_once_for_the_threshold(with_odd_ones):
    good = np.delete(with_odd_ones, [3, 7], axis=0)
    with pytest.warns(UserWarning, match="exact copies"):
        detector = Plain().fit(np.concatenate([good, good[:4]]))
    assert len(detector.holdout_scores_) == 10
    assert detector.offset_ == Plain().fit(good).offset_


def test_one_image_fits_but_has_no_threshold(tiny):
    X = make_images(2)
    with pytest.warns(UserWarning, match="single image"):
        detector = DinoPatch(features=tiny).fit(X[:1])
    assert detector.score_samples(X[:1])[0] == 0
    assert np.isnan(detector.pixel_threshold_)
    assert detector.predict_map(X).shape == X.shape[:3]
    with pytest.raises(ValueError, match="no threshold"):
        detector.predict(X)


def test_default_extractor_can_be_searched():
    detector = DinoPatch().set_params(features__image_size=224, bank__neighborhood=0)
    assert detector.features.image_size == 224
    assert detector.get_params()["features__image_size"] == 224


def test_object_without_transform_frames_is_no_extractor():
    with pytest.raises(TypeError, match="lacks transform_affines"):
        DinoPatch(features=DinoPatch()).fit(make_images())


def test_images_of_two_sizes_are_refused_with_the_remedy(tiny):
    X = [*make_images(2), *make_images(1, size=(64, 48))]
    with pytest.raises(ValueError, match=r"X\[2\] gives a patch grid .* PCAAligner"):
        DinoPatch(features=tiny).fit(X)
    detector = DinoPatch(features=tiny).fit(X[:2])
    for method in (detector.score_samples, detector.predict_map):
        with pytest.raises(ValueError, match=r"X\[2\] gives a patch grid"):
            method(X)


def test_an_explicit_extractor_never_takes_pixels_for_features(tiny):
    X = make_images().astype(float) / 255
    detector = DinoPatch(features=tiny)
    for wrong in (
        list(np.moveaxis(X, -1, 1)),
        np.moveaxis(X, -1, 1) - 0.5,
        np.concatenate([X, X], axis=-1),
    ):
        with pytest.raises(ValueError, match=r"channels last|shape"):
            detector.fit(wrong)
    with pytest.raises(ValueError, match="channels"):
        DinoPatch().fit(np.moveaxis(X, -1, 1))


def test_strip_of_features_is_no_image(rng):
    F = rng.normal(size=(4, 3, 32, 64)).astype(np.float32)
    F[0, 0, 0] = np.nan
    assert DinoPatch().fit(F).bank_.vectors.shape == (1, 3, 32, 4, 64)


@pytest.mark.parametrize("X", [None, np.zeros((0, 2, 2, 8)), []])
def test_nothing_to_score_is_an_error(X):
    with pytest.raises((ValueError, TypeError), match=r"empty|NoneType"):
        DinoPatch(features="passthrough").fit(X)


def test_foreign_extractors_are_explained():
    with pytest.raises(ValueError, match="Is features= an extractor"):
        DinoPatch(features=skdinoad.PCAAligner(mode="none")).fit(make_images())


def test_frozen_extractor(tiny):
    X = make_images()
    frozen = DinoPatch(features=FrozenEstimator(tiny.fit(X))).fit(X)
    assert np.array_equal(
        frozen.holdout_scores_, DinoPatch(features=tiny).fit(X).holdout_scores_
    )


def test_images_without_a_valid_patch_are_left_out(make_tiny, rng):
    X = rng.integers(0, 255, (4, 48, 64, 4), dtype="uint8")
    X[..., 3] = 255
    X[1, ..., 3] = 0
    with pytest.warns(UserWarning, match="1 of 4 images have no valid patch"):
        detector = DinoPatch(features=make_tiny()).fit(X)
    assert detector.bank_.vectors.shape[3] == 3
    for method in (detector.score_samples, detector.predict_map):
        with pytest.raises(ValueError, match=r"X\[1\] has no valid patch"):
            method(X)
    with pytest.warns(UserWarning, match="no valid patch"):
        labels = DinoPatch(features=make_tiny()).fit_predict(X)
    assert labels.tolist() == [1, -1, 1, 1]


def test_maps_of_different_sizes_come_as_a_list(make_tiny):
    detector = DinoPatch(features=make_tiny(image_size=(64, 64))).fit(make_images())
    X = [make_images(1)[0], make_images(1, size=(30, 90))[0]]
    assert [m.shape for m in detector.predict_map(X)] == [(48, 64), (30, 90)]


def test_display_limits_hold_for_normal_images(tiny):
    detector = DinoPatch(features=tiny).fit(make_images(8))
    low, high = detector.map_limits_
    maps = detector.predict_map(make_images(8, random_state=3))
    assert low < high
    share = (maps.max(axis=(1, 2)) - low) / (high - low)
    assert 0.25 < np.median(share) < 0.75  # good parts stay clear of full colour


@pytest.mark.parametrize("cls", [DinoPatch, AnomalyDINO])
def test_partial_fit_keeps_the_range_and_learns_of_hidden_pixels(cls):
    X = make_images().astype(np.uint16) * 16
    detector = build(cls).fit(X[:4])
    known = detector.value_range_
    assert not detector.hidden_pixels_
    holed = np.concatenate([X[4:], np.full_like(X[4:, ..., :1], 65535)], axis=-1)
    holed[:, :20, :, 3] = 0
    assert detector.partial_fit(holed).hidden_pixels_
    assert detector.value_range_ == known
    with pytest.warns(UserWarning, match=r"X\[0\] without alpha"):
        detector.partial_fit(make_images(1, random_state=9).astype(np.uint16) * 16)
    with pytest.raises(ValueError, match=r"X\[0\] .*uint8.*uint16"):
        detector.partial_fit(make_images())


def test_images_against_each_other_have_a_range_of_their_own():
    X = make_images().astype(np.uint16) * 16
    detector = build(AnomalyDINO)
    assert np.isfinite(detector.score_batch(X)).all()
    assert not hasattr(detector, "value_range_")


def test_parts_of_dmad_tell_of_missing_alpha():
    X = make_images()
    alpha = np.full_like(X[..., :1], 255)
    alpha[:, :20] = 0
    detector = build(DMAD).fit(np.concatenate([X, alpha], axis=-1))
    for call in (detector.score_parts, detector.predict_deformation):
        with pytest.warns(UserWarning, match=r"X\[0\] and 5 more") as caught:
            call(X)
        assert len(caught) == 1


@pytest.mark.parametrize("method", ["predict", "decision_function"])
def test_a_threshold_that_is_no_number_is_refused_by_name(method, tiny):
    detector = DinoPatch(features=tiny).fit(make_images(3))
    detector.offset_ = "a"
    with pytest.raises(TypeError, match="offset_='a': expected a number"):
        getattr(detector, method)(make_images(1))


# -- the order of training images ---------------------------------------------------

FEW = {"max_rows": 100}
LAYERS = {"features": tiny_features(layers=(1, 3)), "rotations": "none"}
BANK = {"rotations": "none", "bank__size": 20, "random_state": 0}
ANY_ORDER = {
    "DFR": (DFR, {}),
    "DFR, few rows": (DFR, FEW),
    "DFR, vit": (DFR, {"preset": "vit", "features": tiny_features(norm=False), **FEW}),
    "DFR, paper": (DFR, {"preset": "paper", **FEW}),
    "DFR, linear": (LinearDFR, FEW),
    "SubspaceAD": (SubspaceAD, {}),
    "SubspaceAD, layers": (SubspaceAD, LAYERS),
    "DinoPatch": (DinoPatch, {"bank__max_images": 4}),
    "DinoPatch, prototypes": (DinoPatch, {"bank__n_prototypes": 3}),
    "AnomalyDINO": (AnomalyDINO, {"bank__size": 40}),
    "AnomalyDINO, informed": (AnomalyDINO, {"rotations": "informed"}),
    "AnomalyDINO, random": (AnomalyDINO, {"bank__sampling": "random", **BANK}),
    "AnomalyDINO, nearest images": (AnomalyDINO, {"bank__nearest_images": 2}),
}


@pytest.mark.filterwarnings("ignore:Under-trained")
@pytest.mark.parametrize("name", ANY_ORDER)
def test_what_is_learned_goes_by_what_images_show_and_not_by_their_order(name):
    """Scores of held-out images stand in the order of the images given."""
    cls, parameters = ANY_ORDER[name]
    X, order = make_images(7, size=(64, 64)), np.array([4, 2, 6, 0, 3, 1, 5])
    one, other = (build(cls).set_params(**parameters) for _ in range(2))
    one.fit(X)
    clear_memory()
    other.fit(X[order])
    new = make_images(3, size=(64, 64), random_state=5)
    for method in ("score_samples", "predict_map"):
        found, expected = (getattr(one, method)(new) for one in (other, one))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        other.holdout_scores_, one.holdout_scores_[order], rtol=1e-5, atol=1e-6
    )
    assert other.offset_ == pytest.approx(one.offset_, rel=1e-5)


@pytest.mark.parametrize("cls", [DFR, SubspaceAD])
def test_messages_count_images_in_the_order_given(cls):
    X = np.concatenate([make_images(7), np.full((7, 48, 64, 1), 255)], axis=-1)
    X[5] = X[2]
    X[6, ..., 3] = 0
    words = r"image 5 of image 2,|rows \[6\] of the normal ones"
    with pytest.warns(UserWarning, match=words) as seen:
        build(cls).fit(X.astype(np.uint8))
    assert sum("image 5 of image 2," in str(w.message) for w in seen) == 1
    assert sum("rows [6]" in str(w.message) for w in seen) == 1
