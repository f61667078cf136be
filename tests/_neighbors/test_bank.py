import numpy as np
import pytest

from skdinoad._neighbors import PatchVectors


@pytest.fixture
def bank(rng):
    parts = [(rng.normal(size=(n, 4)), i, t) for n, i, t in PICTURES]
    return PatchVectors.join([(v.astype(np.float32), i, t) for v, i, t in parts])


#: (vectors, image, turned)
PICTURES = [(3, 0, False), (2, 1, False), (4, 0, True), (1, 1, True)]


def test_every_vector_knows_where_it_comes_from(bank):
    assert len(bank) == 10
    assert bank.image.tolist() == [0] * 3 + [1] * 2 + [0] * 4 + [1]
    assert bank.turned.sum() == 5
    assert np.array_equal(bank.of(1), bank.vectors[3:5])


def test_without_an_image_none_of_its_copies_count(bank):
    (squared,) = bank.squared_distances(bank.vectors, without=0)
    others = bank.vectors[bank.image == 1]
    expected = ((bank.vectors[:, None] - others) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(squared, expected, rtol=1e-5)
    assert (squared[bank.image == 1] == 0).all()


def test_mean_over_the_neighbours_there_are(bank):
    (squared,) = bank.squared_distances(bank.vectors[:1], k=99, without=0)
    others = bank.vectors[bank.image == 1]
    expected = ((bank.vectors[0] - others) ** 2).sum(-1).mean()
    np.testing.assert_allclose(squared, expected, rtol=1e-5)
    only = bank.select(bank.image == 0)
    assert np.isnan(only.squared_distances(bank.vectors, without=0)).all()


def test_parts_put_together_again_are_the_whole(bank):
    again = bank.select(slice(0, 4)).extend(bank.select(slice(4, None)))
    for name in ("vectors", "image", "turned", "_squares"):
        assert np.array_equal(getattr(again, name), getattr(bank, name))


@pytest.mark.parametrize("sampling", ["coreset", "random"])
def test_thinned_keeps_some_of_its_own_vectors(bank, sampling):
    state = np.random.RandomState(0)
    thin = bank.thinned(4, sampling, state)
    rows = [(bank.vectors == v).all(1).argmax() for v in thin.vectors]
    assert len(thin) == 4
    assert np.array_equal(thin.image, bank.image[rows])
    assert np.array_equal(thin.turned, bank.turned[rows])
    assert bank.thinned(10, sampling, state) is bank


def test_index_answers_but_never_when_an_image_is_left_out(bank):
    pytest.importorskip("faiss")
    expected = bank.squared_distances(bank.vectors + 0.1)
    held = bank.squared_distances(bank.vectors, without=1)
    bank.indexed(0)
    out = bank.squared_distances(bank.vectors + 0.1)
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    assert np.array_equal(bank.squared_distances(bank.vectors, without=1), held)


def test_merged_banks_have_the_order_of_one(bank):
    """All original images come first, then all rotated copies."""
    half = bank.select(np.isin(bank.image, 1))
    half.image[:] = 0
    merged = PatchVectors.merge([bank, half], [0, 2], "float16")
    assert merged.image.tolist() == [0] * 3 + [1] * 2 + [2] * 2 + [0] * 4 + [1, 2]
    assert merged.turned.tolist() == [False] * 7 + [True] * 6
    assert merged.vectors.dtype == np.float16
    assert np.array_equal(merged.of(2), half.of(0).astype("float16"))
    assert half.vectors.dtype == np.float32


def test_sorted_by_the_rank_of_images_with_turned_copies_behind(bank):
    found = bank.in_order(np.array([1, 0]))
    assert found.image.tolist() == [1] * 2 + [0] * 3 + [1] + [0] * 4
    assert found.turned.tolist() == [False] * 5 + [True] * 5
    for i in (0, 1):
        assert np.array_equal(found.of(i), bank.of(i))
