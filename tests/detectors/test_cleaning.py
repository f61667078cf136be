"""ScoreCleaning sets low patch scores and small specks to 0."""

import numpy as np
import pytest

from skdinoad import DinoPatch, LocalBank, ScoreCleaning


@pytest.fixture
def F(rng):
    return rng.random((8, 6, 6, 8)).astype(np.float32)


def test_scores_below_the_quantile_are_zero(F):
    bank = LocalBank(neighborhood=0)
    plain = DinoPatch(bank=bank).fit(F[:6])
    clean = DinoPatch(bank=bank, cleaning=ScoreCleaning(quantile=0.5)).fit(F[:6])
    heat, cleaned = plain.predict_map(F[6:]), clean.predict_map(F[6:])
    low = heat < clean.threshold_[1]
    assert low.any()
    assert (cleaned[low] == 0).all()
    np.testing.assert_allclose(cleaned[~low], heat[~low])


def test_opening_removes_specks(F):
    query = F[:1].copy()
    query[0, 2, 2] += 9
    how = {"bank": LocalBank(neighborhood=0)}
    cleaning = ScoreCleaning(quantile=1.0)
    speck = DinoPatch(cleaning=cleaning, **how).fit(F).predict_map(query)
    cleaning = ScoreCleaning(quantile=1.0, opening=3)
    opened = DinoPatch(cleaning=cleaning, **how).fit(F).predict_map(query)
    assert speck.argmax() == 2 * 6 + 2
    assert not opened.any()
