import numpy as np
import pytest

from skdinoad._neighbors import _flat, nearest, squared_norms


def naive(queries, bank, k, usable=None):
    """Reference: the definition in double precision, one query at a time."""
    queries, bank = queries.astype(float), bank.astype(float)
    squared, index = [], []
    for query in queries:
        distance = ((query - bank) ** 2).sum(1)
        if usable is not None:
            distance[~usable] = np.inf
        order = np.argsort(distance, kind="stable")[:k]
        squared.append(distance[order])
        index.append(order)
    return np.array(squared), np.array(index)


@pytest.fixture
def data(rng):
    bank = rng.normal(size=(700, 12)).astype(np.float32)
    return rng.normal(size=(90, 12)).astype(np.float32), bank


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("size", [700, 640, 5, 1])
def test_equals_the_definition(data, k, size):
    queries, bank = data[0], data[1][:size]
    squared, index = nearest(queries, bank, squared_norms(bank), k=k)
    expected, rows = naive(queries, bank, min(k, size))
    np.testing.assert_allclose(squared, expected, rtol=1e-5)
    assert np.array_equal(index, rows)


@pytest.mark.parametrize("k", [1, 3])
def test_tiles_do_not_change_the_result(data, k, monkeypatch):
    queries, bank = data
    squares = squared_norms(bank)
    whole = nearest(queries, bank, squares, k=k)
    monkeypatch.setattr(_flat, "_QUERIES", 16)
    monkeypatch.setattr(_flat, "_BANK", 128)
    for name, part in zip(whole, nearest(queries, bank, squares, k=k)):
        np.testing.assert_allclose(name, part, rtol=1e-6)


def test_vectors_that_do_not_count_are_never_neighbours(data, rng):
    queries, bank = data
    usable = rng.random(len(bank)) < 0.3
    squared, index = nearest(queries, bank, squared_norms(bank, usable), k=2)
    expected, rows = naive(queries, bank, 2, usable)
    assert np.array_equal(index, rows)
    np.testing.assert_allclose(squared, expected, rtol=1e-5)
    none = squared_norms(bank, np.zeros(len(bank), bool))
    assert np.isinf(nearest(queries, bank, none, k=2)[0]).all()


def test_a_query_from_the_bank_is_at_exactly_zero(rng):
    # Large vectors: |q|^2 + |b|^2 - 2 q.b alone would leave rounding noise.
    bank = (100 + rng.random((300, 64))).astype(np.float32)
    squared, index = nearest(bank[::-1], bank, squared_norms(bank))
    assert (squared == 0).all()
    assert np.array_equal(index[:, 0], np.arange(300)[::-1])


def test_of_equal_neighbours_the_first_is_taken(data):
    bank = np.tile(data[1][:256], (3, 1))
    _, index = nearest(data[0], bank, squared_norms(bank))
    assert index.max() < 256


def test_half_precision_storage_bounds_the_error(data):
    queries, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in data)
    half = bank.astype(np.float16)
    exact, _ = nearest(queries, bank, squared_norms(bank))
    squared, _ = nearest(queries, half, squared_norms(half))
    # A component of a unit vector changes by at most 2^-11 of itself, so does |b - b'|.
    assert abs(np.sqrt(squared) - np.sqrt(exact)).max() <= 2**-11


def test_nothing_to_look_for(data):
    squared, index = nearest(data[0][:0], data[1], squared_norms(data[1]))
    assert squared.shape == index.shape == (0, 1)
