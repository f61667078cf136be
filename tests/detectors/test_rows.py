"""Rows of features: the same number per image, reconstructed one by one."""

import numpy as np
import pytest
from conftest import build

from skdinoad import DFR, LinearDFR


@pytest.mark.parametrize("cls", [DFR, LinearDFR])
@pytest.mark.filterwarnings("ignore:Under-trained")
def test_a_patch_is_scored_by_itself(cls, rng):
    """Other patches of the image, and their order, do not matter."""
    F = rng.normal(size=(6, 4, 5, 12)).astype(np.float32)
    how = {"features": None, "score_smoothing": 0, "holdout": None}
    detector = build(cls).set_params(**how).fit(F)
    heat = detector.predict_map(F[:1])[0]
    mixed = F[:1, ::-1, ::-1].copy()
    turned = detector.predict_map(mixed)[0]
    np.testing.assert_allclose(turned, heat[::-1, ::-1], rtol=1e-4, atol=1e-6)
