"""The common base of DMAD and reverse distillation."""

import numpy as np
import pytest
from conftest import build

from skdinoad import DMAD, DinoFeatures, ReverseDistillation
from skdinoad.detectors._teacher_student import as_tensors
from skdinoad.testing import make_images


def test_invalid_pixels_become_zero_and_are_told():
    F = np.ones((1, 2, 3, 3), np.float32)
    F[0, 1, 2] = np.nan
    x, valid = as_tensors(F)
    assert x.shape == (1, 3, 2, 3)
    assert x[0, :, 1, 2].tolist() == [0, 0, 0]
    assert valid.sum() == 5


@pytest.mark.parametrize("cls", [DMAD, ReverseDistillation])
def test_feature_grids_are_refused(cls, rng):
    name = f"{cls.__name__} needs images"
    with pytest.raises(ValueError, match=name):
        cls().fit(rng.random((3, 4, 4, 8)))


@pytest.mark.parametrize("cls", [DMAD, ReverseDistillation])
def test_maps_have_the_size_of_the_image(cls):
    X = make_images(4, size=(48, 64))
    detector = build(cls).set_params(holdout=None, training__n_iter=1).fit(X)
    assert detector.predict_map(X).shape == (4, 48, 64)


def test_tiled_teachers_are_refused(make_tiny):
    features = make_tiny(layers=[1, 2], cropping="patches", image_size=(64, 64))
    assert isinstance(features, DinoFeatures)
    with pytest.raises(ValueError, match="moved whole"):
        ReverseDistillation(features=features).fit(make_images(3))
