"""Images scored against each other, through AnomalyDINO."""

import numpy as np
import pytest

from skdinoad import AnomalyDINO
from skdinoad.testing import make_images


@pytest.fixture
def grids(rng):
    return rng.normal(size=(5, 4, 6, 8)).astype(np.float32)


@pytest.fixture
def pictures():
    return make_images(4, size=(64, 96))


def plain(**parameters):
    return AnomalyDINO(masking=False, **parameters)


def test_batch_without_references_finds_the_odd_ones(rng):
    F = rng.normal(size=(4, 4, 8)) + rng.normal(0, 0.1, (20, 4, 4, 8))
    F[3, 1, 2] = F[7, 1, 2] = rng.normal(size=8) * 2  # twins
    F = F.astype(np.float32)
    for fraction in (None, 0.02):
        scores = plain().score_batch(F, neighbor_fraction=fraction)
        assert set(np.argsort(scores)[:2]) == {3, 7}
        rest = np.delete(F, [3, 7], axis=0)
        clean = plain().score_batch(rest, neighbor_fraction=fraction)
        others = np.delete(scores, [3, 7])
        np.testing.assert_allclose(others, clean, rtol=0.2)  # not poisoned


@pytest.mark.parametrize("fraction", [0, -1, 1.5, np.nan, "a"])
def test_bad_fraction_is_refused(grids, fraction):
    with pytest.raises(ValueError, match="neighbor_fraction="):
        plain().score_batch(grids, neighbor_fraction=fraction)


def test_empty_masks_in_a_batch_are_named(grids):
    detector = AnomalyDINO(masking=True, mask_threshold=1e6)
    with pytest.warns(UserWarning, match=r"5 of 5 .* X\[0\]"):
        detector.score_batch(grids)


def test_batch_leaves_the_estimator_alone(pictures, tiny):
    detector = AnomalyDINO(features=tiny)
    before = vars(detector).copy()
    scores, maps = detector.score_batch(pictures, return_maps=True)
    assert vars(detector) == before
    assert scores.shape == (4,)
    assert maps.shape == pictures.shape[:3]
    assert np.array_equal(detector.score_batch(pictures), scores)


def test_a_batch_of_one_is_refused(pictures, tiny):
    with pytest.raises(ValueError, match="compares images with each other"):
        AnomalyDINO(features=tiny).score_batch(pictures[:1])


def test_copies_of_one_image_are_refused(grids):
    with (
        pytest.warns(UserWarning, match="2 of 3"),
        pytest.raises(ValueError, match="All 3 images are exact copies of one"),
    ):
        plain().score_batch(grids[:1].repeat(3, 0))
