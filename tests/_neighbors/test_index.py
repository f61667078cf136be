import builtins
import pickle

import numpy as np
import pytest

from skdinoad._neighbors import nearest, squared_norms
from skdinoad._neighbors._index import build_index, search_index


@pytest.fixture
def data(rng):
    centres = rng.normal(size=(30, 16))
    points = centres[rng.integers(30, size=4100)] + rng.normal(0, 0.2, (4100, 16))
    return points[:4000].astype(np.float32), points[4000:].astype(np.float32)


def test_nearly_always_the_true_neighbour(data):
    pytest.importorskip("faiss")
    bank, queries = data
    exact, rows = nearest(queries, bank, squared_norms(bank), k=3)
    squared, found = search_index(build_index(bank, 0), queries, k=3)
    assert (found[:, 0] == rows[:, 0]).mean() > 0.9
    assert (squared >= exact - 1e-5).all()
    assert (np.diff(squared, axis=1) >= 0).all()


def test_seeded_and_pickled_alike(data):
    pytest.importorskip("faiss")
    bank, queries = data
    index = build_index(bank, 0)
    expected = search_index(index, queries)
    for other in (build_index(bank, 0), pickle.loads(pickle.dumps(index))):
        for a, b in zip(search_index(other, queries), expected):
            assert np.array_equal(a, b)


def test_a_query_from_the_bank_is_at_exactly_zero(data):
    pytest.importorskip("faiss")
    bank = data[0].astype(np.float16)
    squared, _ = search_index(build_index(bank, 0), bank[:50].astype(np.float32))
    assert (squared == 0).all()


def test_fewer_vectors_than_asked_for(data):
    pytest.importorskip("faiss")
    squared, _ = search_index(build_index(data[0][:5], 0), data[1][:2], k=9)
    assert squared.shape == (2, 5)


def test_missing_faiss_names_the_remedy(data, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install 'skdinoad\[faiss\]'"):
        build_index(data[0], 0)
