"""Copies of training images."""

import numpy as np
import pytest

from skdinoad._inputs.images import Images, as_images
from skdinoad._training.augment import Copies, crops, dihedral


@pytest.fixture
def image(rng):
    return rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)


def test_dihedral_poses_are_eight_different_ones_with_the_same_pixels(image):
    poses = dihedral(image)
    assert np.array_equal(poses[0], image)
    assert len({pose.tobytes() + bytes(pose.shape) for pose in poses}) == 8
    for pose in poses:
        assert np.array_equal(np.sort(pose.ravel()), np.sort(image.ravel()))


def test_crops_are_parts_of_nearly_the_asked_size(image):
    for part in crops(image, 20, np.random.RandomState(0)):
        height, width = part.shape[:2]
        assert height * width == pytest.approx(0.875**2 * 2400, rel=0.05)
        assert height / width * 60 / 40 == pytest.approx(1, abs=0.08)
        windows = np.lib.stride_tricks.sliding_window_view(image, part.shape)
        assert (windows == part).all(axis=(3, 4, 5)).any()


def test_crops_of_a_tiny_image_have_pixels():
    tiny = np.zeros((1, 2, 3), np.uint8)
    assert all(part.size for part in crops(tiny, 5, np.random.RandomState(0)))


@pytest.mark.parametrize("kind", ["dihedral", "crops"])
def test_copies_follow_their_image_and_are_the_same_each_time(image, kind):
    X = as_images([image, image[::-1], image // 2])
    copies = Copies.of(X, kind, seed=3)
    assert isinstance(copies, Images)
    assert len(copies) == 24
    assert np.array_equal(copies[8], X[1])
    again = Copies.of(X[1:], kind, seed=3)  # in another X, as in a fold
    for k in range(16):
        assert np.array_equal(copies[k + 8], again[k])
        assert set(copies[k].ravel()) <= set(X[k // 8].ravel())


def test_grids_have_no_copies():
    with pytest.raises(ValueError, match="only images can be turned"):
        Copies.of(np.zeros((2, 4, 4, 8)), "crops", seed=0)
