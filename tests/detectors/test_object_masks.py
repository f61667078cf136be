import numpy as np
import pytest
from sklearn.utils import Bunch

from skdinoad import ForegroundMask
from skdinoad.detectors._object_masks import ObjectMasks


@pytest.fixture
def grid(rng):
    """Return features (h, w, l, c) of an object of 5 x 5 patches."""
    grid = rng.normal(size=(10, 12, 1, 8)).astype(np.float32)
    grid[3:8, 4:9, 0, 0] += 40
    return grid


def record(masks, grid):
    mask, statistics = masks.of_training(grid)
    valid = np.isfinite(grid).all((-1, -2))
    return Bunch(mask=mask, statistics=statistics, valid=valid)


def test_the_object_gets_a_score_and_the_ground_does_not(grid):
    masks = ObjectMasks(ForegroundMask(masking=True))
    image = record(masks, grid)
    masks.decide([image])
    scored = masks.scored(image)
    assert masks.used
    assert scored[3:8, 4:9].all()
    assert scored.sum() < 60
    (masked,), (mask,) = masks.applied([grid])
    assert np.array_equal(np.isfinite(masked).all((-1, -2)), mask)


def test_auto_decides_by_statistics(grid):
    masks = ObjectMasks("auto")
    image = record(masks, grid)
    assert not masks.used
    masks.decide([image])
    assert set(masks.statistics) == set(image.statistics)


def test_without_masking_no_mask_is_computed(grid):
    masks = ObjectMasks(None)
    image = record(masks, grid)
    masks.decide([image])
    assert image.mask is image.statistics is masks.statistics is None
    assert masks.scored(image).all()


def test_only_the_official_masks_score_the_ground(grid):
    D = np.full((1, 2, 2), np.nan, np.float32)
    D[0, 0, 0] = 3
    official, ours = ObjectMasks("official"), ObjectMasks(ForegroundMask(masking=True))
    assert np.array_equal(official.filled(D), D, equal_nan=True)  # no decision yet
    official.used = ours.used = True
    assert official.filled(D).sum() == 3
    assert np.array_equal(ours.filled(D), D, equal_nan=True)
    empty = np.full_like(D, np.nan)
    assert np.isnan(official.filled(empty)).all()
