import numpy as np
import pytest

from skdinoad._neighbors import _coreset, k_centre, k_centre_images, k_centre_local
from skdinoad._neighbors._coreset import random_subset


def naive(X, n):
    """Reference: always choose the farthest row, in double precision."""
    X = X.astype(float)
    chosen = [((X - X.mean(0)) ** 2).sum(1).argmin()]
    gap = ((X - X[chosen[0]]) ** 2).sum(1)
    while len(chosen) < n:
        gap[chosen] = -1
        chosen.append(gap.argmax())
        gap = np.minimum(gap, ((X - X[chosen[-1]]) ** 2).sum(1))
    return np.array(chosen)


@pytest.mark.parametrize("candidates", [1, 2, 30, 2048])
@pytest.mark.parametrize("n", [1, 2, 120, 400])
def test_equals_the_plain_algorithm(n, candidates, rng, monkeypatch):
    monkeypatch.setattr(_coreset, "_CANDIDATES", candidates)
    monkeypatch.setattr(_coreset, "_ROWS", 64)
    X = rng.normal(size=(400, 6)).astype(np.float32)
    assert np.array_equal(k_centre(X, n), naive(X, n))


def test_clusters_of_very_different_size_are_all_covered(rng):
    X = np.concatenate([rng.normal(0, 0.1, (5000, 4)), rng.normal(9, 0.1, (3, 4))])
    rows = k_centre(X.astype(np.float32), 2)
    assert (rows >= 5000).sum() == 1


def test_rows_are_distinct_even_among_duplicates():
    X = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert len(set(k_centre(X, 15))) == 15
    assert len({r // 5 for r in k_centre(X, 3)}) == 3


def test_half_precision_is_accepted(rng):
    X = rng.normal(size=(300, 8)).astype(np.float16)
    assert np.array_equal(k_centre(X, 50), naive(X.astype(np.float32), 50))


@pytest.mark.parametrize("n", [1, 4, 20])
def test_each_location_alone_equals_the_plain_algorithm(n, rng):
    bank = rng.normal(size=(2, 3, 20, 5)).astype(np.float32)
    out = k_centre_local(bank, np.ones(bank.shape[:3], bool), n)
    for y, x in np.ndindex(2, 3):
        assert np.array_equal(out[y, x], naive(bank[y, x], n))


def test_invalid_vectors_are_chosen_last(rng):
    bank = rng.normal(size=(1, 1, 6, 5)).astype(np.float32)
    valid = np.array([[[True, False, True, True, False, True]]])
    out = k_centre_local(bank, valid, 5)[0, 0]
    assert set(out[:4]) == {0, 2, 3, 5}
    assert out[4] in {1, 4}
    assert np.array_equal(k_centre_local(bank, ~valid, 1)[0, 0] % 3, [1])


def test_images_are_chosen_by_their_distances(rng):
    bank = rng.normal(size=(3, 4, 9, 5)).astype(np.float32)
    flat = bank.transpose(2, 0, 1, 3).reshape(9, -1)
    assert np.array_equal(k_centre_images(bank, 4), np.sort(naive(flat, 4)))


def test_random_subset_is_seeded_and_distinct():
    a, b = (random_subset(50, 20, np.random.RandomState(0)) for _ in range(2))
    assert np.array_equal(a, b)
    assert len(set(a)) == 20
    assert (np.diff(a) > 0).all()
