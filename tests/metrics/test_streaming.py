import numpy as np
import pytest

from skdinoad.metrics import (
    StreamingPixelMetrics,
    aupro_score,
    pixel_ap_score,
    pixel_auroc_score,
    pixel_f1_max_score,
)
from skdinoad.metrics._streaming import bins_of, upper_edges


def test_bins_keep_the_order_of_all_numbers(rng):
    exponents = rng.uniform(-30, 30, 4000)
    scores = np.sort(rng.choice([-1, 1], 4000) * 10.0**exponents).astype(np.float32)
    scores = np.concatenate([[-np.inf], scores, [np.inf]]).astype(np.float32)
    assert (np.diff(bins_of(scores)) >= 0).all()
    assert bins_of([-0.0]) == bins_of([0.0])


def test_bins_are_narrow_and_edges_on_top(rng):
    scores = rng.normal(0, 100, 4000).astype(np.float32)
    edges = upper_edges(bins_of(scores))
    assert (edges >= scores).all()
    np.testing.assert_allclose(edges, scores, rtol=1 / 2048)
    assert np.array_equal(bins_of(edges), bins_of(scores))
    assert (bins_of(np.nextafter(edges, np.float32(np.inf))) > bins_of(scores)).all()


@pytest.fixture
def data(rng):
    masks = np.zeros((6, 40, 50), bool)
    masks[0, 3:9, 4:20] = masks[2, 30:, 40:] = masks[2, 0, 0] = masks[5, 20, 5:9] = True
    return masks, (5 + masks + rng.normal(0, 0.7, masks.shape)).astype(np.float32)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_agrees_with_the_exact_figures(data, limit):
    masks, maps = data
    metrics = StreamingPixelMetrics()
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        assert metrics.update(masks[part], maps[part]) is metrics
    near = {"abs": 1e-3}
    assert metrics.aupro(limit) == pytest.approx(
        aupro_score(masks, maps, fpr_limit=limit), **near
    )
    assert metrics.auroc() == pytest.approx(pixel_auroc_score(masks, maps), **near)
    exact = pixel_ap_score(masks, maps)
    assert metrics.average_precision() == pytest.approx(exact, **near)
    assert metrics.f1_max() == pytest.approx(pixel_f1_max_score(masks, maps), **near)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_the_curve_has_the_area_and_ends(data, limit):
    masks, maps = data
    metrics = StreamingPixelMetrics().update(masks, maps.round(1))  # many are equal
    fpr, pro = metrics.pro_curve()
    assert (fpr[0], pro[0], fpr[-1]) == (0, 0, 1)
    assert pro[-1] == pytest.approx(1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(pro) >= 0).all()
    inside = fpr <= limit
    x = np.append(fpr[inside], limit)
    y = np.append(pro[inside], np.interp(limit, fpr, pro))
    area = ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / limit
    assert area == pytest.approx(metrics.aupro(limit))
    exact = aupro_score(masks, maps.round(1), fpr_limit=limit)
    assert area == pytest.approx(exact, abs=1e-3)


def test_no_mask_is_an_empty_one(data):
    masks, maps = data
    known = [mask if mask.any() else None for mask in masks]
    one, other = (StreamingPixelMetrics().update(m, maps) for m in (known, masks))
    assert one.aupro() == other.aupro()
    assert sum(mask is None for mask in known) == 3


@pytest.mark.parametrize(("level", "noise"), [(100, 0.1), (1000, 0.1), (1, 1e-3)])
def test_small_differences_on_a_high_level_are_seen(data, level, noise):
    masks, maps = data
    maps = np.float32(level) + np.float32(noise) * maps
    metrics = StreamingPixelMetrics().update(masks, maps)
    assert metrics.aupro() == pytest.approx(aupro_score(masks, maps), abs=2e-3)
    exact = pixel_ap_score(masks, maps)
    assert metrics.average_precision() == pytest.approx(exact, abs=2e-3)


def test_scores_that_bins_hold_give_exact_figures(data):
    masks, maps = data
    maps = upper_edges(bins_of(maps))
    metrics = StreamingPixelMetrics()
    metrics._middle = 0
    metrics.update(masks, maps)
    assert metrics.aupro() == pytest.approx(aupro_score(masks, maps), abs=1e-9)
    assert metrics.auroc() == pytest.approx(pixel_auroc_score(masks, maps), abs=1e-9)
    exact = pixel_ap_score(masks, maps)
    assert metrics.average_precision() == pytest.approx(exact, abs=1e-9)
    exact = pixel_f1_max_score(masks, maps)
    assert metrics.f1_max() == pytest.approx(exact, abs=1e-9)


def test_bad_input_counts_nothing(data):
    masks, maps = data
    metrics = StreamingPixelMetrics().update(masks[:1], maps[:1])
    before = metrics.aupro()
    broken = maps[1:3].copy()
    broken[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="Row 2: the map holds 1 NaN"):
        metrics.update(masks[1:3], broken)
    with pytest.raises(ValueError, match="1 masks and 2 maps"):
        metrics.update(masks[:1], maps[:2])
    assert metrics.aupro() == before
    assert metrics.n_maps_ == 1
    with pytest.raises(ValueError, match="one kind"):
        StreamingPixelMetrics().update(masks[1:2], maps[1:2]).auroc()
