"""Banks per layer, tested through the two detectors that use them."""

import pickle

import numpy as np
import pytest

from skdinoad import AnomalyDINO, DinoFeatures, DinoPatch, LocalBank
from skdinoad._arrays.maps import aggregate
from skdinoad.testing import make_images

DETECTORS = {
    "DinoPatch": lambda **p: DinoPatch().set_params(**p),
    "cosine, anywhere": lambda **p: DinoPatch(
        **p, bank=LocalBank(metric="cosine", global_weight=0.5)
    ),
    "AnomalyDINO": lambda **p: AnomalyDINO(
        masking=None, map_smoothing=0, rotations="none", **p
    ),
}

every_detector = pytest.mark.parametrize("make", DETECTORS.values(), ids=DETECTORS)


@pytest.fixture
def F(rng):
    """Return grids of six images in two layers of different scale, (6, 4, 5, 2, 8)."""
    return (rng.normal(size=(6, 4, 5, 2, 8)) * [[1], [30]]).astype(np.float32)


def of_layer(make, F, j):
    """Return distances (n, h, w) of new and held-out images in one layer, unscaled."""
    one = make().fit(F[:5, :, :, j])
    held = [g[0] for g in one.holdout_grids()]
    return one.predict_map(F[5:, :, :, j]), np.stack(held)


@every_detector
@pytest.mark.parametrize("map_layers", [[0], [1], [0, 1]])
def test_equals_layers_scored_apart(make, map_layers, F):
    detector = make(map_layers=map_layers).fit(F[:5])
    D, held = zip(*(of_layer(make, F, j) for j in (0, 1)))
    scales = [part.mean() for part in held]
    np.testing.assert_allclose(detector.layer_scales_, scales, rtol=1e-5)
    scaled = [part / scale for part, scale in zip(D, scales)]
    expected = np.mean([scaled[j] for j in map_layers], axis=0)
    np.testing.assert_allclose(detector.predict_map(F[5:]), expected, rtol=1e-4)
    score = -aggregate(np.mean(scaled, axis=0))
    np.testing.assert_allclose(detector.score_samples(F[5:]), score, rtol=1e-4)
    usual = np.mean([h / s for h, s in zip(held, scales)], axis=0)
    np.testing.assert_allclose(detector.holdout_scores_, -aggregate(usual), rtol=1e-4)


@every_detector
def test_one_layer_keeps_its_distances(make, F):
    detector = make().fit(F[:5, :, :, 0])
    apart = make().fit(F[:5, :, :, :1])
    assert detector.layer_scales_.tolist() == [1]
    for method in ("score_samples", "predict_map"):
        a = getattr(detector, method)(F[5:, :, :, 0])
        assert np.array_equal(a, getattr(apart, method)(F[5:, :, :, :1]))


@every_detector
def test_map_layers_choose_what_maps_show(make, make_tiny):
    X = make_images(5)
    features = make_tiny(layers=[1, 3, 4])
    detector = make(features=features, map_layers=[3]).fit(X)
    scores, maps = detector.score_samples(X[:2] // 2), detector.predict_map(X[:2] // 2)
    assert detector.layer_scales_.shape == (3,)
    other = make(features=features, map_layers=3 * np.ones(1, int)).fit(X)
    np.testing.assert_allclose(other.score_samples(X[:2] // 2), scores, rtol=1e-5)
    np.testing.assert_allclose(other.predict_map(X[:2] // 2), maps, rtol=1e-4)


@every_detector
def test_maps_of_unknown_layers_are_refused(make, make_tiny, F):
    with pytest.raises(ValueError, match=r"map_layers=\[2\].* \[0, 1\]"):
        make(map_layers=[2]).fit(F)
    detector = make(features=make_tiny(layers=[1, 3]), map_layers=[0])
    with pytest.raises(ValueError, match=r"map_layers=\[0\].* \[1, 3\]"):
        detector.fit(make_images(4))
    with pytest.raises(ValueError, match="map_layers"):
        make(map_layers=[]).fit(F)


@every_detector
def test_layers_of_a_single_image_are_comparable(make, F):
    """No image is held out, so the scale is the spread of the patches of the image."""
    with pytest.warns(UserWarning, match="no threshold"):
        detector = make().fit(F[:1])
    assert (
        detector.layer_scales_[1] / detector.layer_scales_[0] > 10
        or (detector.layer_scales_ < 2).all()
    )
    assert np.isfinite(detector.score_samples(F[1:])).all()


@every_detector
def test_constant_layers_stay_finite(make, F):
    F[:, :, :, 1] = 1
    scores = make().fit(F[:5]).score_samples(F[5:])
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    "parameters", [{"bank__max_images": 3}, {"bank__n_prototypes": 3}]
)
def test_one_choice_of_prototypes_serves_all_layers(parameters, F):
    bank = DinoPatch().set_params(**parameters).fit(F).bank_.vectors
    assert bank.shape == (2, 4, 5, 3, 8)
    known = F.transpose(1, 2, 3, 0, 4)
    for y, x, k in np.ndindex(4, 5, 3):
        rows = [
            np.flatnonzero((known[y, x, j] == bank[j, y, x, k]).all(1)) for j in (0, 1)
        ]
        assert rows[0] == rows[1]


def test_components_of_each_layer(rng):
    basis = rng.normal(size=(2, 3, 8))
    F = np.einsum("nhwlk,lkc->nhwlc", rng.normal(size=(7, 4, 5, 2, 3)), basis)
    F = F.astype(np.float32)
    whole = DinoPatch(bank=LocalBank(neighborhood=0)).fit(F[:6])
    for pca in ("shared", "local"):
        reduced = DinoPatch(
            bank=LocalBank(n_components=3, pca=pca, neighborhood=0)
        ).fit(F[:6])
        assert reduced.bank_.vectors.shape == (2, 4, 5, 6, 4)
        a, b = whole.score_samples(F[6:]), reduced.score_samples(F[6:])
        np.testing.assert_allclose(a, b, rtol=0.05)  # held out with other bases


@every_detector
def test_more_images_and_pickles(make, F):
    whole = make(map_layers=[1]).fit(F[:5])
    parts = make(map_layers=[1]).fit(F[:3]).partial_fit(F[3:5])
    np.testing.assert_allclose(
        parts.score_samples(F[5:]), whole.score_samples(F[5:]), rtol=1e-5
    )
    assert parts.offset_ == pytest.approx(whole.offset_, rel=1e-5)
    again = pickle.loads(pickle.dumps(whole))
    assert np.array_equal(again.predict_map(F[5:]), whole.predict_map(F[5:]))


def test_a_pickled_bank_holds_its_vectors_once(F):
    bank = AnomalyDINO(masking=None).fit(F.repeat(20, 1)).bank_
    assert len(pickle.dumps(bank)) < 1.5 * bank.vectors.nbytes


@pytest.mark.real
def test_score_and_map_follow_the_weights(real_features):
    features = DinoFeatures(image_size=56)
    detector = DinoPatch(features=features).fit(make_images(4))
    assert detector.features_.layers_[-1] > detector.features_.map_layers_[-1]
    # The texture layer, and the middle one of the three blocks.
    assert detector._fusion.rows == [0, 2]
    plain = DinoPatch(features=features, texture=None).fit(make_images(4))
    assert plain._fusion.rows == [1]
