import numpy as np

from skdinoad.plotting import overlay_map


def test_limits_decide_and_not_the_map_itself(rng):
    image = rng.integers(0, 255, (8, 9, 3), np.uint8)
    quiet = rng.random((8, 9))
    assert np.array_equal(overlay_map(image, quiet, limits=(1, 2)), image)
    assert (overlay_map(image, quiet + 5, limits=(1, 2)) != image).any()


def test_hotter_covers_more():
    image = np.zeros((1, 3, 3), np.uint8)
    out = overlay_map(image, np.array([[0.0, 0.5, 1.0]]), limits=(0, 1))
    brightness = out.sum(-1)[0]
    assert brightness[0] == 0 < brightness[1] < brightness[2]
    assert out.dtype == np.uint8
