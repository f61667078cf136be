"""LinearDFR: the projection on principal components, and its residual."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold

from skdinoad import LinearDFR
from skdinoad._arrays.maps import smooth
from skdinoad._arrays.normal_scores import NormalScores


def linear(**parameters):
    """Return the linear detector for grids."""
    how = {"latent_dim": 3, "holdout": None, "score_smoothing": 0}
    return LinearDFR(**{**how, **parameters})


@pytest.fixture
def grids(rng):
    """Return features of eight good images, (8, 5, 6, 12), with three directions."""
    F = rng.normal(size=(8, 5, 6, 3)) @ rng.normal(size=(3, 12))
    return (F + rng.normal(size=F.shape, scale=0.05)).astype(np.float32)


def test_linear_is_pca(grids):
    """Known answer: squared error of scikit-learn's PCA on standardised channels."""
    detector = linear().fit(grids[:6])
    rows = grids[:6].reshape(-1, 12).astype(float)
    mean, scale = rows.mean(0), rows.std(0)
    pca = PCA(3).fit((rows - mean) / scale)
    z = (grids[6:].reshape(-1, 12) - mean) / scale
    expected = np.square(z - pca.inverse_transform(pca.transform(z))).mean(1)
    found = detector.predict_map(grids[6:])
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        detector.score_samples(grids[6:]), -expected.reshape(2, -1).max(1), rtol=1e-4
    )
    spread = detector.explained_variance_[:3]
    np.testing.assert_allclose(spread, pca.explained_variance_ * 179 / 180, rtol=1e-4)


def test_linear_without_scaling_is_pca_too(grids):
    detector = linear(standardize=False).fit(grids[:6] + 7)
    rows = grids[:6].reshape(-1, 12) + 7.0
    pca = PCA(3).fit(rows)
    expected = np.square(rows - pca.inverse_transform(pca.transform(rows))).mean(1)
    found = detector.predict_map(grids[:6] + 7)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-3, atol=1e-6)


def test_code_width_counts_every_image(rng):
    """Only the last image has additional directions; the official code uses ten images.

    Public re-implementations use the last batch, and one channel.
    """
    F = np.zeros((15, 4, 4, 20), np.float32)
    F[:, ..., :2] = rng.normal(size=(15, 4, 4, 2))
    F[14, ..., 2:8] = rng.normal(size=(4, 4, 6), scale=4)
    few = linear(latent_dim=None, standardize=False).fit(F[:14])
    every = clone(few).fit(F)
    assert few.latent_dim_ == 2
    assert every.latent_dim_ > 5
    assert clone(every).fit(F[::-1]).latent_dim_ == every.latent_dim_


def test_variance_sets_the_width(grids):
    widths = [
        linear(latent_dim=None, variance=v).fit(grids).latent_dim_
        for v in (0.3, 0.9, 1.0)
    ]
    assert widths == [1, 3, 11]
    assert linear(latent_dim=99).fit(grids).latent_dim_ == 11


def test_loud_channels_rule_only_without_scaling(rng):
    F = rng.normal(size=(6, 4, 4, 8))
    F[..., 0] *= 1000
    raw, scaled = (linear(latent_dim=None, standardize=s).fit(F) for s in (False, True))
    assert raw.latent_dim_ == 1
    assert scaled.latent_dim_ >= 6


def test_smoothing_is_that_of_the_grid_and_reaches_score_and_map(grids):
    plain = linear().fit(grids)
    soft = linear(score_smoothing=32 / 256).fit(grids)
    raw, sigma = plain.score_grids(grids), 32 * 5 / 256
    D = smooth(raw, sigma)
    np.testing.assert_allclose(soft.predict_map(grids), D, rtol=1e-4, atol=1e-6)
    scores = -smooth(raw, np.sqrt(sigma**2 + 1 / 6)).reshape(8, -1).max(1)
    np.testing.assert_allclose(soft.score_samples(grids), scores, rtol=1e-4)


def test_pixel_threshold_comes_from_held_out_maps(grids):
    detector = linear(holdout=4).fit(grids)
    hottest = []
    splits = KFold(4, shuffle=True, random_state=detector._seed).split(grids)
    for learned, out in splits:
        other = linear().fit(grids[learned])
        hottest += [heat.max() for heat in other.predict_map(grids[out])]
    expected = NormalScores(np.array(hottest)).threshold(0.05)
    assert detector.pixel_threshold_ == pytest.approx(expected, rel=1e-4)


def test_no_holdout_no_threshold(grids):
    detector = linear().fit(grids)
    assert np.isnan(detector.offset_)
    assert np.isnan(detector.pixel_threshold_)
    with pytest.raises(ValueError, match="holdout=None"):
        detector.predict(grids)
