import cv2
import numpy as np
from PIL import Image

from skdinoad.features._preprocess import invalidate, resize, valid_share


def test_resize_equals_pillow(rng):
    """DINOv2 was trained with Pillow's bicubic; rounding may differ by one level."""
    image = cv2.GaussianBlur(rng.integers(0, 255, (60, 90, 3), np.uint8), (5, 5), 0)
    for size in [(28, 42), (112, 126)]:
        expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.BICUBIC))
        out = resize(image, size)[0].permute(1, 2, 0).numpy()
        assert abs(out - expected).max() <= 1


def test_resize_to_the_same_size_is_exact(rng):
    image = rng.integers(0, 255, (14, 28, 3), np.uint8)
    assert np.array_equal(resize(image, (14, 28))[0].permute(1, 2, 0), image)


def test_valid_share_counts_partial_pixels():
    valid = np.array([[True, True, False]])
    np.testing.assert_allclose(valid_share(valid, (1, 2)), [[1, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(valid_share(valid, (2, 6))[0], [1, 1, 1, 1, 0, 0])


def test_valid_share_equals_area_resize(rng):
    valid = rng.random((84, 126)) > 0.5
    expected = cv2.resize(
        valid.astype(np.float32), (9, 6), interpolation=cv2.INTER_AREA
    )
    np.testing.assert_allclose(valid_share(valid, (6, 9)), expected, atol=1e-5)


def test_invalidate_leaves_opaque_images_alone():
    grid = np.ones((2, 2, 3), np.float32)
    assert np.isfinite(invalidate(grid, np.zeros((28, 28, 3), np.uint8), 0.5)).all()
