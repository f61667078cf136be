"""Batch sizes of reading, and nested parameters of parts."""

import numpy as np
import pytest
from conftest import build

from skdinoad import AnomalyDINO, DinoPatch, MemoryBank, Tiles, Training
from skdinoad._inputs.estimators import images_at_once, whole_numbers
from skdinoad.testing import make_images


class Foreign:
    """An extractor from outside the library."""

    def __init__(self):
        self.batch_size, self.seen = 3, []

    def get_params(self, deep=True):
        return {}

    def fit(self, X, y=None):
        return self

    def transform_affines(self, X):
        self.seen.append(len(X))
        F = np.stack([image[::8, ::8].repeat(2, axis=-1) for image in X]) / np.float32(
            9
        )
        return F.astype(np.float32), np.stack([np.eye(3)] * len(X))


def test_an_extractor_says_how_many_images_are_read_together():
    detector = DinoPatch(features=Foreign()).fit(make_images(7))
    assert detector.features_.seen == [3, 3, 1]
    tiled = (
        build(DinoPatch).set_params(features__tiles=Tiles(size=32)).fit(make_images(3))
    )
    assert images_at_once(tiled.features_) == 1


@pytest.mark.parametrize(
    ("value", "numbers"),
    [(3, [3]), ((1, -2), [1, -2]), (np.arange(2), [0, 1]), (1.5, []), (True, [])],
)
def test_whole_numbers(value, numbers):
    assert whole_numbers(value) == numbers
    assert whole_numbers({}) == whole_numbers([(1, 2), (3,)]) == whole_numbers([]) == []


def test_parts_that_are_not_given_can_be_searched():
    detector = DinoPatch().set_params(bank__neighborhood=3, features__image_size=64)
    assert detector.bank.neighborhood == 3
    assert detector.features.image_size == 64
    bank = MemoryBank(size=9)
    detector = AnomalyDINO(bank=bank).set_params(bank__dtype="float16")
    assert detector.bank is bank
    assert (bank.size, bank.dtype) == (9, "float16")


def test_parts_are_checked_with_the_estimator(rng):
    F = rng.random((3, 2, 2, 8))
    for bank in ("large", Training()):
        with pytest.raises(ValueError, match="'bank' parameter of DinoPatch"):
            DinoPatch(bank=bank).fit(F)
    with pytest.raises(ValueError, match="'size' parameter of MemoryBank"):
        AnomalyDINO(bank=MemoryBank(size=-1)).fit(F)
