"""The checks must be able to fail."""

import warnings

import numpy as np
import pytest
import torch
from conftest import tiny_features
from sklearn.base import BaseEstimator

from skdinoad import DinoPatch, testing
from skdinoad._inputs.register import Register
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
        "check_a_higher_target_fpr_flags_more",
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


def test_no_check_is_forgotten():
    written = {name for name in vars(testing) if name.startswith("check_")}
    transformer = checks_for(BaseEstimator())
    assert {check.__name__ for check in [*checks_for(DinoPatch()), *transformer]} == (
        written
    )


class Disturbed(DinoPatch):
    """Minds what its caller has set, and does not clear up."""

    def fit(self, X, y=None):
        if torch.is_grad_enabled():
            return super().fit(X, y)
        raise RuntimeError("no gradients")

    def score_samples(self, X):
        with warnings.catch_warnings():
            return super().score_samples(X)


class Hybrid(DinoPatch):
    """Keeps what it had when it is interrupted."""

    def _reset(self):
        self._register = Register()


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Disturbed, "check_settings_of_the_caller_do_not_matter"),
        (Disturbed, "check_warnings_of_the_caller_are_shown_once"),
        (Hybrid, "check_an_interrupted_fit_leaves_nothing_half_new"),
    ],
)
def test_checks_catch_what_depends_on_the_past_or_the_caller(cls, name):
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(testing, name)(cls(features=tiny_features()))


def test_make_images_is_seeded():
    assert np.array_equal(make_images(), make_images())
    assert make_images(2, size=(20, 30)).shape == (2, 20, 30, 3)
