import warnings

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from skdinoad import DinoPatch, Pipeline, ThresholdTunerCV, iter_maps
from skdinoad.testing import make_images


def copies(tiny):
    X = make_images(6, size=(48, 64))
    return DinoPatch(features=tiny), np.concatenate([X, X[:1]])


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda detector: detector,
        lambda detector: Pipeline([("d", detector)]),
        lambda detector: ThresholdTunerCV(detector, target_fpr=0.3, cv=2),
        lambda detector: GridSearchCV(
            detector, {"bank__neighborhood": [0]}, cv=2, scoring=lambda *_: 0.0
        ),
    ],
    ids=["detector", "pipeline", "tuner", "search"],
)
def test_a_warning_of_fit_names_the_file_that_called_it(tiny, wrapped):
    detector, X = copies(tiny)
    with pytest.warns(UserWarning, match="exact copies") as caught:
        wrapped(detector).fit(X)
    assert {w.filename for w in caught if "copies" in str(w.message)} == {__file__}


def test_a_warning_of_a_generator_names_the_file_that_uses_it_up(tiny):
    X = make_images(6, size=(48, 64))
    alpha = np.full((6, 48, 64, 1), 255, np.uint8)
    alpha[:, :9, :9] = 0
    X = np.concatenate([X, alpha], axis=-1)
    model = DinoPatch(features=tiny).fit(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(iter_maps(model, X[..., :3]))
    assert [w.filename for w in caught] == [__file__]
