import json

import numpy as np
import pytest
from scipy import ndimage

from skdinoad import find_regions, regions_table


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scipy(seed):
    """All regions, measured one by one by another library."""
    rng = np.random.default_rng(seed)
    heat = ndimage.gaussian_filter(rng.normal(size=(60, 80)), 2)
    labels, n = ndimage.label(heat > 0.1, np.ones((3, 3)))
    regions = find_regions(heat, 0.1)
    assert len(regions) == n > 5
    assert [r.peak for r in regions] == sorted((r.peak for r in regions), reverse=True)
    for region in regions:
        k = labels[region.place]
        rows, columns = ndimage.find_objects(labels)[k - 1]
        assert region.box == (rows.start, columns.start, rows.stop, columns.stop)
        assert np.array_equal(region.mask, labels[rows, columns] == k)
        assert region.area == (labels == k).sum() == region.mask.sum()
        assert region.peak == heat[labels == k].max() == heat[region.place]
        assert region.mean == pytest.approx(heat[labels == k].mean())


def test_corners_connect_and_the_threshold_itself_does_not_count():
    heat = np.diag([2.0, 2.0, 1.0])
    (region,) = find_regions(heat, 1.0)
    assert region.area == 2
    assert region.mask.tolist() == [[True, False], [False, True]]


def test_small_ones_are_left_out():
    heat = np.zeros((9, 9))
    heat[0, 0], heat[4:6, 4:6] = 9, 1
    assert [r.area for r in find_regions(heat, 0.5)] == [1, 4]
    assert [r.area for r in find_regions(heat, 0.5, min_area=2)] == [4]


def test_lists_sizes_and_thresholds_may_differ():
    maps = [np.eye(3), np.zeros((2, 5)), 3 * np.eye(2)]
    assert [len(found) for found in find_regions(maps, 0.5)] == [1, 0, 1]
    assert [len(found) for found in find_regions(maps, [2, 0, 2])] == [0, 0, 1]
    assert find_regions(np.zeros((0, 4, 4)), 1.0) == []


def test_bad_input_is_explained():
    with pytest.raises(ValueError, match=r"Row 1: .* shape \(2, 2\) with 4 NaN"):
        find_regions([np.zeros((2, 2)), np.full((2, 2), np.nan)], 1)
    with pytest.raises(ValueError, match="for each of \\['bolt'\\]"):
        find_regions(np.zeros((1, 2, 2)), {"bolt": 1.0})
    with pytest.raises(ValueError, match="threshold is NaN"):
        find_regions(np.zeros((1, 2, 2)), np.nan)


def test_a_table_has_a_row_of_plain_numbers_for_each_region():
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, 2:4, 5:7], maps[0, 7, 0], maps[2, 0, 0] = 3, 9, 2
    rows = regions_table(find_regions(maps, 1.0), names=["a", "b", "c"])
    assert [row["image"] for row in rows] == ["a", "a", "c"]
    first = {"image": "a", "top": 7, "left": 0, "bottom": 8, "right": 1, "area": 1}
    assert rows[0] == {**first, "peak": 9.0, "mean": 9.0, "row": 7, "column": 0}
    json.dumps(rows)  # no numbers of numpy
    numbered = regions_table(find_regions(maps, 1.0))
    assert [row["image"] for row in numbered] == [0, 0, 2]
    with pytest.raises(ValueError, match="3 images and 1 names"):
        regions_table(find_regions(maps, 1.0), names=["a"])
