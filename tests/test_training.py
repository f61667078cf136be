"""Settings of training reach every trained detector."""

import pytest
from conftest import build

from skdinoad import DFR, DMAD, Dinomaly, ReverseDistillation, Training
from skdinoad.testing import make_images


@pytest.mark.parametrize("cls", [DFR, DMAD, Dinomaly, ReverseDistillation])
@pytest.mark.filterwarnings("ignore:Under-trained")
def test_iterations_are_those_asked_for(cls):
    detector = build(cls).set_params(holdout=None, training__n_iter=2)
    assert detector.fit(make_images(4, size=(64, 64))).n_iter_ == 2


@pytest.mark.parametrize("cls", [DFR, DMAD, Dinomaly, ReverseDistillation])
def test_what_is_not_given_is_the_presets(cls):
    detector = cls()
    assert detector.training is None
    expected = detector._presets[detector.preset]["n_iter"]
    assert detector._setting("n_iter") == expected
    detector.set_params(training=Training(learning_rate=0.5))
    assert detector._setting("n_iter") == expected
    assert detector._setting("learning_rate") == 0.5


@pytest.mark.parametrize(
    "training", [Training(n_iter=0), Training(precision="half"), Training(max_time=-1)]
)
def test_wrong_settings_are_named_in_fit(training):
    with pytest.raises(ValueError, match="parameter of Training"):
        build(Dinomaly).set_params(training=training).fit(make_images(4))
