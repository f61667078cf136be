import numpy as np
import pytest

from skdinoad._neighbors import _local, nearest_local, squared_norms

#: The image that each vector of the bank in ``data`` comes from.
OWNER = np.broadcast_to(np.arange(4), (5, 11, 4))


def naive(queries, bank, squares, radius, own):
    """Reference: the definition, one patch and one bank vector at a time."""
    n, h, w, _ = queries.shape
    out = np.full((n, h, w), np.inf)
    for i, y, x in np.ndindex(n, h, w):
        for v, u, k in np.ndindex(bank.shape[:3]):
            near = abs(v - y) <= radius and abs(u - x) <= radius
            if (
                near
                and np.isfinite(squares[v, u, k])
                and not (own is not None and k == own[i])
            ):
                distance = np.linalg.norm(queries[i, y, x] - bank[v, u, k])
                out[i, y, x] = np.fmin(out[i, y, x], distance)
    out[np.isinf(out) | np.isnan(queries).any(-1)] = np.nan
    return out


@pytest.fixture
def data(rng):
    """Return (queries, bank, squares) with invalid vectors; queries are in the bank."""
    queries = rng.random((4, 5, 11, 3), np.float32)
    queries[1, 2, 3] = np.nan
    queries[:, 4, 10] = np.nan
    bank = np.ascontiguousarray(queries.transpose(1, 2, 0, 3))
    valid = np.isfinite(bank).all(-1)
    bank = np.nan_to_num(bank)
    return queries, bank, squared_norms(bank, valid)


@pytest.mark.parametrize("own", [None, np.arange(4), np.array([2, 2, 0, 1])])
@pytest.mark.parametrize("radius", [0, 1, 2, 11])
def test_equals_the_definition(data, radius, own):
    expected = naive(*data, radius, own)
    out = nearest_local(*data, radius=radius, own=own, owner=OWNER)
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("radius", [0, 1])
def test_tiles_do_not_change_the_result(data, radius, monkeypatch):
    whole = nearest_local(*data, radius=radius, own=np.arange(4), owner=OWNER)
    monkeypatch.setattr(_local, "_TILE", 1)
    tiled = nearest_local(*data, radius=radius, own=np.arange(4), owner=OWNER)
    assert np.array_equal(whole, tiled, equal_nan=True)


def test_known_distance():
    queries = np.array([3.0, 4.0], np.float32).reshape(1, 1, 1, 2)
    bank = np.zeros((1, 1, 1, 2), np.float32)
    assert nearest_local(queries, bank, np.zeros((1, 1, 1), np.float32)) == 5


@pytest.mark.parametrize("radius", [0, 1])
def test_own_image_is_exactly_zero(radius, rng):
    # Large vectors: |q|^2 + |b|^2 - 2 q.b alone would leave rounding noise.
    queries = (100 + rng.random((3, 4, 4, 64))).astype(np.float32)
    bank = np.ascontiguousarray(queries.transpose(1, 2, 0, 3))
    squares = squared_norms(bank, np.ones((4, 4, 3), bool))
    out = nearest_local(queries, bank, squares, radius=radius)
    assert (out == 0).all()


def test_location_without_nominal_vectors_is_not_scored():
    queries, bank = np.ones((1, 1, 2, 3), np.float32), np.ones((1, 2, 2, 3), np.float32)
    valid = np.array([[[True, True], [False, False]]])
    out = nearest_local(queries, bank, squared_norms(bank, valid))
    assert np.isnan(out[0, 0]).tolist() == [False, True]
