import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from skdinoad._arrays.maps import (
    aggregate,
    clean,
    enlarged,
    smooth,
    smooth_pixels,
    unit,
    window_mean,
)


def test_smooth_equals_scipy_where_all_is_valid(rng):
    grids = rng.random((3, 8, 9))
    expected = [ndimage.gaussian_filter(g, 1.3, mode="nearest") for g in grids]
    np.testing.assert_allclose(smooth(grids, 1.3), expected)


def test_smooth_ignores_invalid_cells(rng):
    grids = np.full((1, 6, 6), 5.0)
    grids[0, 2:4, 2:4] = np.nan
    out = smooth(grids, 1.0)
    assert np.isnan(out[0, 2:4, 2:4]).all()
    np.testing.assert_allclose(out[np.isfinite(out)], 5.0)


def test_smooth_zero_is_identity(rng):
    grids = rng.random((1, 3, 3))
    assert smooth(grids, 0) is grids


def test_clean_removes_specks_and_keeps_areas():
    grid = np.zeros((1, 9, 9))
    grid[0, 1, 1] = 9.0
    grid[0, 4:8, 4:8] = 5.0
    out = clean(grid, threshold=1.0, opening=3)
    assert out[0, 1, 1] == 0
    assert out[0, 5, 5] == 5
    assert clean(grid, threshold=1.0)[0, 1, 1] == 9
    assert not clean(grid, threshold=10.0).any()


def test_clean_closing_restores_scores_in_holes():
    grid = np.full((1, 9, 9), 5.0)
    grid[0, 4, 4] = 0.5
    assert clean(grid, threshold=1.0, closing=3)[0, 4, 4] == 0.5
    assert clean(grid, threshold=1.0)[0, 4, 4] == 0


def test_clean_keeps_invalid_cells_invalid():
    out = clean(np.array([[[np.nan, 3.0]]]), threshold=1.0)
    assert np.isnan(out[0, 0, 0])


@pytest.mark.parametrize(("n", "count"), [(99, 1), (100, 1), (200, 2), (1024, 10)])
def test_top_counts_by_the_floor_rule(n, count):
    grid = np.arange(float(n)).reshape(1, 1, n)
    assert aggregate(grid)[0] == np.arange(n - count, n).mean()


def test_aggregate_equals_numpy(rng):
    grids = rng.random((4, 10, 12))
    flat = grids.reshape(4, -1)
    np.testing.assert_allclose(aggregate(grids, "max"), flat.max(1))
    np.testing.assert_allclose(aggregate(grids, "mean"), flat.mean(1))
    np.testing.assert_allclose(aggregate(grids, "p99"), np.percentile(flat, 99, axis=1))
    top = np.sort(flat)[:, -12:].mean(1)
    np.testing.assert_allclose(aggregate(grids, 0.1), top)
    assert aggregate(np.ones((1, 10, 10)), 0.29) == 1


def test_masked_cells_never_raise_a_score(rng):
    grids = rng.random((2, 6, 6))
    masked = grids.copy()
    masked[:, :2] = np.nan
    for how in ("max", 0.01):
        assert (aggregate(masked, how) <= aggregate(grids, how)).all()


def test_nothing_valid_gives_nan():
    assert np.isnan(aggregate(np.full((1, 2, 2), np.nan))[0])


def test_unit_keeps_nan_and_zero():
    F = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]], np.float32)
    out = unit(F)
    np.testing.assert_allclose(out[:2], [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isnan(out[2]).all()


@pytest.mark.parametrize("sigma", [0.7, 4.0])
def test_smooth_pixels_equals_scipy(sigma, rng):
    image = rng.random((40, 61)).astype(np.float32)
    expected = ndimage.gaussian_filter(image, sigma)
    np.testing.assert_allclose(smooth_pixels(image, sigma), expected, atol=1e-5)


def test_top_fraction_of_the_whole_grid():
    grid = np.full((1, 10, 30), np.nan)
    grid[0, 0, :5] = [1, 2, 3, 4, 5]
    assert aggregate(grid)[0] == 5  # 1 % of five
    assert aggregate(grid, whole=True)[0] == 4  # the largest 3 of 300
    assert aggregate(grid, 0.1, whole=True)[0] == 3  # there are no more


# -- the map of Dinomaly's image score ----------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (28, 28), (40, 16)])
def test_enlarged_equals_two_resizes_and_a_blur(shape, rng):
    grid = torch.tensor(rng.random(shape), dtype=torch.float32)[None, None]
    pixels = [14 * edge for edge in shape]
    big = interpolate(grid, pixels, mode="bilinear", align_corners=True)
    big = interpolate(big, (256, 256), mode="bilinear", align_corners=False)
    line = torch.exp(-(torch.arange(-2.0, 3) ** 2) / (2 * 4**2))
    kernel = torch.outer(line, line)
    big = torch.nn.functional.pad(big, (2, 2, 2, 2), mode="reflect")
    expected = torch.nn.functional.conv2d(big, (kernel / kernel.sum())[None, None])
    np.testing.assert_allclose(
        enlarged(grid[0, 0].numpy()), expected[0, 0].numpy(), atol=1e-5
    )


def test_enlarged_leaves_out_invalid_cells():
    grid = np.full((4, 4), 2.0, np.float32)
    grid[:, 3] = np.nan
    heat = enlarged(grid)
    assert np.isnan(heat[:, -20:]).all()
    assert np.isfinite(heat[:, :180]).all()
    np.testing.assert_allclose(heat[np.isfinite(heat)], 2, rtol=1e-5)


def test_window_means_leave_out_invalid_patches(rng):
    grid = rng.normal(size=(4, 5, 3)).astype(np.float32)
    assert window_mean(grid, 1) is grid
    grid[1, 2] = np.nan
    out = window_mean(grid, 3)
    assert np.isnan(out[1, 2]).all()
    np.testing.assert_allclose(
        out[0, 3], np.nanmean(grid[:2, 2:5], axis=(0, 1)), rtol=1e-5
    )
