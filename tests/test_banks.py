"""Settings of memory banks reach detectors, searches and copies."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skdinoad import AnomalyDINO, DinoPatch, LocalBank, MemoryBank


@pytest.fixture
def F(rng):
    return rng.random((6, 3, 3, 8)).astype(np.float32)


def test_size_and_dtype_are_those_of_the_fitted_bank(F):
    bank = MemoryBank(size=10, dtype="float16")
    detector = AnomalyDINO(masking=None, bank=bank).fit(F)
    assert detector.bank_.vectors.shape[0] == 10
    assert detector.bank_.vectors.dtype == np.float16
    local = DinoPatch(bank=LocalBank(max_images=2, dtype="float16")).fit(F)
    assert local.bank_.vectors.shape[3] == 2
    assert local.bank_.vectors.dtype == np.float16


def test_a_search_reaches_settings(F):
    grid = {"bank__neighborhood": [0, 2], "bank__metric": ["euclidean", "cosine"]}
    search = GridSearchCV(DinoPatch(), grid, cv=2, scoring=lambda model, X, y=None: 0.0)
    assert len(search.fit(F).cv_results_["params"]) == 4
    assert isinstance(search.best_estimator_.bank, LocalBank)


def test_copies_have_banks_of_their_own():
    detector = AnomalyDINO(bank=MemoryBank(size=9))
    copy = clone(detector).set_params(bank__size=3)
    assert (detector.bank.size, copy.bank.size) == (9, 3)


@pytest.mark.parametrize(
    ("bank", "name"),
    [
        (MemoryBank(size=1.5), "size"),
        (MemoryBank(search="fast"), "search"),
        (MemoryBank(n_neighbors=0), "n_neighbors"),
    ],
)
def test_wrong_settings_are_named_in_fit(F, bank, name):
    with pytest.raises(ValueError, match=f"'{name}' parameter of MemoryBank"):
        AnomalyDINO(bank=bank).fit(F)
