"""The memory bank of AnomalyDINO: records, coresets, nearest images."""

import numpy as np
import pytest
from sklearn.base import clone

from skdinoad import AnomalyDINO


@pytest.fixture
def grids(rng):
    """Return features of five normal images, (5, 4, 6, 8)."""
    return rng.normal(size=(5, 4, 6, 8)).astype(np.float32)


def plain(**parameters):
    """Return a detector for feature grids, without masks."""
    return AnomalyDINO(masking=None).set_params(**parameters)


@pytest.mark.parametrize("sampling", ["coreset", "random"])
def test_smaller_banks(grids, sampling):
    parameters = {"bank__sampling": sampling, "random_state": 0}
    assert len(plain(bank__size=30, **parameters).fit(grids).bank_) == 30
    share = plain(bank__size=0.25, **parameters).fit(grids[:4])
    assert len(share.bank_) == 24
    assert len(share.partial_fit(grids[4:]).bank_) == 30
    assert share.holdout_scores_.shape == (5,)
    whole = plain().fit(grids)
    assert (share.score_samples(grids + 1) <= whole.score_samples(grids + 1)).all()
    assert len(plain(bank__size=10**6).fit(grids).bank_) == 120


def test_approximate_search_is_near_the_exact_one(rng):
    pytest.importorskip("faiss")
    F = rng.normal(size=(6, 16, 16, 8)).astype(np.float32)
    exact = plain().fit(F[:5])
    fast = plain(bank__search="approximate", random_state=0).fit(F[:5])
    assert fast.offset_ == exact.offset_
    a, b = exact.score_samples(F[5:]), fast.score_samples(F[5:])
    assert b <= a + 1e-6
    assert b == pytest.approx(a, rel=0.2)


@pytest.fixture
def products(rng):
    """Return features of 4 good images of each of 3 products, product by product."""
    looks = 3 * rng.normal(size=(3, 1, 1, 8))
    grids = looks[:, None] + rng.normal(size=(3, 4, 4, 6, 8))
    return grids.reshape(12, 4, 6, 8).astype(np.float32)


@pytest.mark.filterwarnings("ignore:Fitted on a single image")
@pytest.mark.parametrize("k", [1, 3, 5])
def test_nearest_images_are_those_of_the_most_similar_mean_patch(products, k, rng):
    new = products[:6] + rng.normal(size=(6, 4, 6, 8)).astype(np.float32)
    some = plain(bank__nearest_images=k, bank__size=None).fit(products)
    scores = some.score_samples(new)
    unit = products / np.linalg.norm(products, axis=-1, keepdims=True)
    means = unit.mean((1, 2)) / np.linalg.norm(unit.mean((1, 2)), axis=-1)[:, None]
    for grid, score in zip(new, scores):
        tokens = grid / np.linalg.norm(grid, axis=-1, keepdims=True)
        order = np.argsort(-(means @ tokens.mean((0, 1))), kind="stable")[:k]
        one = plain(bank__size=None).fit(products[np.sort(order)])
        assert score == pytest.approx(one.score_samples(grid[None])[0], rel=1e-6)


def test_nearest_images_of_all_are_all(products):
    whole = plain().fit(products)
    all_of_them = plain(bank__nearest_images=12).fit(products)
    new = products[:, ::-1] + 1
    np.testing.assert_array_equal(
        whole.score_samples(new), all_of_them.score_samples(new)
    )
    np.testing.assert_array_equal(whole.holdout_scores_, all_of_them.holdout_scores_)


def test_nearest_images_holds_out_as_a_fit_without_the_image(products):
    whole = plain(bank__nearest_images=2, bank__size=None).fit(products)
    for i, score in enumerate(whole.holdout_scores_):
        rest = clone(whole).fit(np.delete(products, i, axis=0))
        assert rest.score_samples(products[i : i + 1])[0] == pytest.approx(score, 1e-5)


def test_a_defect_of_another_product_is_no_excuse(products):
    """A patch that is normal on one product is anomalous on another."""
    odd = products[:1].copy()
    odd[0, 1, 1] = products[8, 1, 1]
    assert plain(bank__size=None).fit(products).score_samples(odd) > -1e-5
    near = plain(bank__nearest_images=3, bank__size=None).fit(products)
    assert near.score_samples(odd) < -0.1


def test_nearest_images_and_an_index_exclude_each_other(grids):
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="nearest_images=2 with search='approximate'"):
        plain(bank__nearest_images=2, bank__search="approximate").fit(grids)
