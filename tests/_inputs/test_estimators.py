"""What a file of an earlier version lacks; how many images are read together."""

import numpy as np
import pytest
from conftest import build

import skdinoad
from skdinoad import DinoPatch
from skdinoad._inputs.estimators import whole_numbers
from skdinoad.testing import make_images

#: Parameters that came after the first files.
LATER = {"tile_size", "tile_overlap", "map_layers", "placement", "neck", "verbose"}


@pytest.mark.parametrize(
    "name",
    [
        "AffineAligner",
        "AnomalyDINO",
        "CNNFeatures",
        "DFR",
        "DMAD",
        "DinoFeatures",
        "DinoPatch",
        "Dinomaly",
        "ForegroundMask",
        "PCAAligner",
        "RegionMask",
        "SubspaceAD",
    ],
)
def test_parameters_that_an_earlier_version_lacked_have_their_defaults(name):
    cls = getattr(skdinoad, name)
    estimator, X = build(cls).fit(make_images()), make_images(2)
    state = estimator.__getstate__()
    later = LATER.intersection(estimator.get_params(deep=False))
    old = cls.__new__(cls)
    old.__setstate__({k: v for k, v in state.items() if k not in later})
    method = "score_samples" if hasattr(estimator, "score_samples") else "transform"
    expected = getattr(estimator, method)(X)
    np.testing.assert_array_equal(getattr(old, method)(X), expected)


class Foreign:
    """An extractor that is not ours."""

    def __init__(self):
        self.batch_size, self.seen = 3, []

    def get_params(self, deep=True):
        return {}

    def fit(self, X, y=None):
        return self

    def transform_frames(self, X):
        self.seen.append(len(X))
        F = np.stack([image[::8, ::8].repeat(2, axis=-1) for image in X]) / np.float32(
            9
        )
        return F.astype(np.float32), np.stack([np.eye(3)] * len(X))


def test_an_extractor_says_how_many_images_are_read_together():
    detector = DinoPatch(features=Foreign()).fit(make_images(7))
    assert detector.features_.seen == [3, 3, 1]
    tiled = build(DinoPatch).set_params(features__tile_size=32).fit(make_images(3))
    assert tiled._images_at_once() == 1


@pytest.mark.parametrize(
    ("value", "numbers"),
    [(3, [3]), ((1, -2), [1, -2]), (np.arange(2), [0, 1]), (1.5, []), (True, [])],
)
def test_whole_numbers(value, numbers):
    assert whole_numbers(value) == numbers
    assert whole_numbers({}) == whole_numbers([(1, 2), (3,)]) == whole_numbers([]) == []
