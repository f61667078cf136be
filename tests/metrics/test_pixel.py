import numpy as np
import pytest
from scipy import ndimage
from scipy.integrate import trapezoid
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    roc_auc_score,
    roc_curve,
)

from skdinoad.metrics import (
    aupro_score,
    pixel_ap_score,
    pixel_auroc_score,
    pixel_f1_max_score,
)


@pytest.fixture(params=[None, 1, 0], ids=["distinct", "ties", "many ties"])
def data(request, rng):
    """Return three masks with regions that touch at corners, and noisy maps."""
    masks = np.zeros((3, 12, 15), bool)
    masks[0, 2:4, 3:9] = masks[0, 4, 9] = masks[1, 8:, 10:] = masks[1, 0, 0] = True
    maps = masks + rng.normal(0, 0.8, masks.shape)
    if request.param is not None:
        maps = maps.round(request.param)
    return masks, maps.astype(np.float32)


def naive_aupro(masks, maps, limit):
    """The definition: one threshold after the other, trapezoids up to the limit."""
    regions = []
    for i, mask in enumerate(masks):
        labels, n = ndimage.label(mask, np.ones((3, 3)))
        regions += [(i, labels == k) for k in range(1, n + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        overlap = np.mean([found[i][region].mean() for i, region in regions])
        points.append((found[~masks].mean(), overlap))
    x, y = np.array(points).T
    inside = x < limit
    y = np.append(y[inside], np.interp(limit, x, y))
    return trapezoid(y, np.append(x[inside], limit)) / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_equals_the_definition(data, limit):
    expected = naive_aupro(*data, limit)
    assert aupro_score(*data, fpr_limit=limit) == pytest.approx(expected, abs=1e-9)


def test_pixel_auroc_equals_scikit_learn(data):
    masks, maps = data
    expected = roc_auc_score(masks.ravel(), maps.ravel())
    assert pixel_auroc_score(masks, maps) == pytest.approx(expected, abs=1e-9)


def test_pixel_average_precision_equals_scikit_learn(data):
    masks, maps = data
    expected = average_precision_score(masks.ravel(), maps.ravel())
    assert pixel_ap_score(masks, maps) == pytest.approx(expected, abs=1e-9)


def test_pixel_f1_is_the_best_of_all_thresholds(data):
    masks, maps = data
    every = [f1_score(masks.ravel(), maps.ravel() >= t) for t in np.unique(maps)]
    assert pixel_f1_max_score(masks, maps) == pytest.approx(max(every), abs=1e-9)


def test_one_region_up_to_one_is_the_plain_auroc(rng):
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 3:5, 3:7] = True
    maps = rng.random(mask.shape)
    fpr, tpr, _ = roc_curve(mask.ravel(), maps.astype(np.float32).ravel())
    expected = trapezoid(tpr, fpr)
    assert aupro_score(mask, maps, fpr_limit=1) == pytest.approx(expected)


def test_a_constant_map_tells_nothing():
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 3:5] = True
    assert pixel_auroc_score(mask, np.ones(mask.shape)) == 0.5
    assert aupro_score(mask, np.ones(mask.shape)) == pytest.approx(0.15)


def test_small_defects_count_as_much_as_large_ones():
    mask = np.zeros((1, 20, 20), bool)
    mask[0, :10] = mask[0, 15, 15] = True
    only_large = np.zeros(mask.shape)
    only_large[0, :10] = 1
    assert pixel_auroc_score(mask, only_large) > 0.99
    assert aupro_score(mask, only_large) == pytest.approx(0.5 + 0.5 * 0.15)


def test_maps_of_several_sizes():
    masks = [np.eye(3, dtype=bool), np.zeros((2, 5), bool)]
    assert aupro_score(masks, [mask * 1.0 for mask in masks]) == 1


def test_bad_input_is_explained():
    mask = np.eye(3, dtype=bool)[np.newaxis]
    with pytest.raises(ValueError, match="Row 0: the map holds 9 NaN"):
        aupro_score(mask, np.full((1, 3, 3), np.nan))
    with pytest.raises(ValueError, match=r"a map of shape \(3, 2\)"):
        aupro_score(mask, np.ones((1, 3, 2)))
    with pytest.raises(ValueError, match="1 masks and 2 maps"):
        pixel_auroc_score(mask, np.ones((2, 3, 3)))
    with pytest.raises(ValueError, match="one kind"):
        pixel_auroc_score(np.zeros((1, 3, 3)), np.ones((1, 3, 3)))
    with pytest.raises(ValueError, match="fpr_limit"):
        aupro_score(mask, mask * 1.0, fpr_limit=0)


def test_a_mask_holds_no_nan():
    """As a boolean it would be true."""
    with pytest.raises(ValueError, match="Row 0: the mask holds NaN"):
        aupro_score([[[np.nan, 1.0]]], [[[0.1, 0.2]]])
