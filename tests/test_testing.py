"""The checks must be able to fail."""

import numpy as np
import pytest
from conftest import tiny_features
from sklearn.base import BaseEstimator

from skdinoad import DinoPatch
from skdinoad.testing import DETECTOR_CHECKS, checks_for, make_images


class Wrong(DinoPatch):
    """Breaks several promises at once."""

    def score_samples(self, X):
        return -super().score_samples(X)  # papers' sign

    def predict_map(self, X):
        return [m.astype(np.float64) for m in super().predict_map(X)]

    def _set_offset(self):
        super()._set_offset()
        self.offset_ = 1e-6  # a threshold from training scores


@pytest.mark.parametrize(
    "name",
    [
        "check_a_gross_defect_scores_lower",
        "check_maps_have_the_size_of_the_images",
        "check_a_higher_contamination_flags_more",
    ],
)
def test_checks_catch_a_wrong_detector(name):
    check = next(c for c in checks_for(DinoPatch()) if c.__name__ == name)
    with pytest.raises((AssertionError, AttributeError)):
        check(Wrong(features=tiny_features()))
    check(DinoPatch(features=tiny_features()))


def test_kinds_get_their_checks():
    class Transformer(BaseEstimator):
        def transform(self, X):
            return X

    assert set(DETECTOR_CHECKS) <= set(checks_for(DinoPatch()))
    assert not set(DETECTOR_CHECKS) & set(checks_for(Transformer()))


def test_make_images_is_seeded():
    assert np.array_equal(make_images(), make_images())
    assert make_images(2, size=(20, 30)).shape == (2, 20, 30, 3)
