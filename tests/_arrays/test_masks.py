import numpy as np
import pytest

from skdinoad._arrays.masks import (
    MASKED,
    UNMASKED,
    _grown,
    foreground,
    mask_statistics,
    masking_helps,
    warn_of_empty_masks,
    without_ground,
)


@pytest.fixture
def scene(rng):
    """Return features of an object on a background, (14, 16, 8), and its mask."""
    where = np.zeros((14, 16), bool)
    where[4:10, 5:11] = True
    grid = rng.normal(0, 0.3, (14, 16, 8))
    grid[..., 0] += 9
    grid[where, 1] += 6
    return grid.astype(np.float32), where


def test_object_is_found_and_grows_by_one_patch(scene):
    grid, where = scene
    mask = foreground(grid)
    expected = np.zeros_like(where)
    expected[3:11, 4:12] = True
    assert np.array_equal(mask, expected)


def test_sign_of_the_component_does_not_matter(scene):
    grid, _ = scene
    for morphology in ("grid", "raster"):
        for threshold in ("relative", 2.0):
            mask = foreground(grid, threshold, morphology)
            assert np.array_equal(foreground(-grid, threshold, morphology), mask)


def test_absolute_threshold_equals_scikit_learns_scores(scene):
    from sklearn.decomposition import PCA

    grid, where = scene
    score = PCA(1, svd_solver="full").fit_transform(grid.reshape(-1, 8)).reshape(14, 16)
    score = score if score[where].mean() > 0 else -score
    expected = _grown(score > 3.0, "grid")
    assert np.array_equal(foreground(grid, 3.0), expected)


def test_invalid_patches_are_neither_seen_nor_masked_in(scene):
    grid, where = scene
    grid[0] = np.nan
    grid[5, 6] = np.nan
    mask = foreground(grid)
    assert not mask[0].any()
    assert not mask[5, 6]
    assert mask[where].sum() == where.sum() - 1
    assert not foreground(np.full_like(grid, np.nan)).any()


def test_raster_morphology_runs_along_rows_and_around_their_ends():
    mask = np.zeros((8, 10), bool)
    mask[5, 9] = True
    raster = np.zeros((8, 10), bool)
    raster[5, 8:] = raster[6, 0] = True
    assert np.array_equal(_grown(mask, "raster"), raster)
    mask, grid = np.zeros((2, 8, 10), bool)
    mask[3, 5] = grid[2:5, 4:7] = True
    assert np.array_equal(_grown(mask, "grid"), grid)


def test_uniform_image_has_no_foreground():
    assert not foreground(np.ones((6, 6, 8), np.float32)).any()


def test_statistics_tell_an_object_from_a_texture(scene, rng):
    grid, _ = scene
    mask = foreground(grid)
    seen = mask_statistics(grid, mask)
    assert seen["total"] == pytest.approx(64 / 224)
    assert seen["centre"] == pytest.approx(64 / 81)
    assert seen["border"] == 0
    assert seen["separation"] > 0.4
    assert masking_helps(seen)
    texture = rng.normal(size=(14, 16, 8)).astype(np.float32)
    noise = mask_statistics(texture, foreground(texture))
    assert noise["separation"] < 0.2
    assert not masking_helps(noise)


@pytest.mark.parametrize(
    "change", [{"centre": 0.3}, {"border": 0.3}, {"total": 0.8}, {"separation": 0.1}]
)
def test_each_bound_alone_can_say_no(scene, change):
    grid, _ = scene
    seen = mask_statistics(grid, foreground(grid))
    assert not masking_helps({**seen, **change})


def test_empty_mask_leaves_all_and_is_named():
    grid = np.ones((2, 3, 4), np.float32)
    none = np.zeros((2, 3), bool)
    assert np.isfinite(without_ground(grid, none)).all()
    some = none.copy()
    some[0] = True
    assert np.isnan(without_ground(grid, some)).all(-1).tolist() == (~some).tolist()
    with pytest.warns(UserWarning, match=r"1 of 3 images is empty.*X\[2\]"):
        warn_of_empty_masks(["X[2]"], 3)


def test_every_category_of_the_two_data_sets_is_in_one_table():
    assert len(MASKED) == 17
    assert len(UNMASKED) == 10
    assert not MASKED & UNMASKED
