"""Location-wise banks compared with plain loops."""

import pickle

import numpy as np
import pytest

from skdinoad._neighbors import LocatedVectors


@pytest.fixture
def P(rng):
    """Return features of five images in two layers; one patch is invalid."""
    P = rng.normal(size=(5, 3, 4, 2, 6)).astype(np.float32)
    P[1, 2, 0] = np.nan
    return P


def bank_of(P, images=None):
    images = np.arange(len(P)) if images is None else images
    return LocatedVectors.of_grids(P.copy(), images, "float32")


@pytest.mark.parametrize("radius", [0, 1, 9])
def test_distances_are_those_of_a_loop(P, rng, radius):
    query = rng.normal(size=(2, 3, 4, 2, 6)).astype(np.float32)
    found = bank_of(P).distances(query, radius=radius)
    assert found.shape == (2, 2, 3, 4)
    for i, j, y, x in np.ndindex(2, 2, 3, 4):
        near = [
            np.linalg.norm(query[i, y, x, j] - P[k, v, u, j])
            for k, v, u in np.ndindex(5, 3, 4)
            if max(abs(v - y), abs(u - x)) <= radius and np.isfinite(P[k, v, u]).all()
        ]
        assert found[i, j, y, x] == pytest.approx(min(near), rel=1e-4)


def test_anywhere_is_the_largest_radius(P, rng):
    query, bank = rng.normal(size=(2, 3, 4, 2, 6)).astype(np.float32), bank_of(P)
    expected = bank.distances(query, radius=9)
    np.testing.assert_allclose(bank.distances_anywhere(query), expected, rtol=1e-4)


def test_an_image_does_not_see_itself(P):
    own = np.arange(5)
    bank = bank_of(P)
    assert np.nanmax(bank.distances(P)) == 0
    for distances in (bank.distances, bank.distances_anywhere):
        assert np.nanmin(distances(P, own=own)) > 0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_similar_images_are_those_of_the_most_similar_mean_patch(P, rng, n):
    queries = rng.normal(size=(3, 3, 4, 2, 6)).astype(np.float32)
    queries[0, 0, 0] = np.nan
    means = [np.nanmean(x, axis=(0, 1)).ravel() for x in (*P, *queries)]
    means = np.array([mean / np.linalg.norm(mean) for mean in means])
    for i, few in enumerate(bank_of(P).of_similar(queries, n)):
        expected = np.sort(np.argsort(-(means[:5] @ means[5 + i]))[:n])
        assert few.image[0, 0].tolist() == expected.tolist()
        assert np.array_equal(few.vectors, bank_of(P).vectors[:, :, :, expected])
    for i, few in enumerate(bank_of(P).of_similar(P, n, own=np.arange(5))):
        assert i not in few.image


def test_extended_banks_equal_one_bank(P):
    parts = bank_of(P[:2]).extend(bank_of(P[2:], np.arange(2, 5)))
    whole = bank_of(P)
    for name in ("vectors", "valid", "image"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
    assert whole.n_images == 5


def test_features_come_back_from_a_whole_bank(P):
    np.testing.assert_array_equal(bank_of(P).of(1)[0], P[1])


def test_reduced_banks_keep_vectors_of_the_bank(P):
    bank = bank_of(P)
    few = bank.reduced(max_images=3)
    assert few.vectors.shape == (2, 3, 4, 3, 6)
    each = bank.reduced(n_prototypes=2)
    assert each.vectors.shape == (2, 3, 4, 2, 6)
    again = pickle.loads(pickle.dumps(each))
    assert np.array_equal(again.distances(P), each.distances(P), equal_nan=True)


def test_numbers_beyond_half_precision_are_refused(P):
    with pytest.raises(ValueError, match="dtype='float16' of the bank holds no"):
        LocatedVectors.of_grids(P * 1e6, np.arange(5), "float16")
