"""Heat maps over images, as arrays and files."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from skdinoad import (
    DinoPatch,
    PCAAligner,
    Pipeline,
    iter_maps,
)
from skdinoad.plotting import (
    overlay_map,
    save_maps,
)
from skdinoad.testing import make_images


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def X():
    return make_images(12, size=(64, 64))


@pytest.fixture
def pipe(tiny, X):
    pipe = Pipeline([PCAAligner(mode="none", output_size=64), DinoPatch(features=tiny)])
    return pipe.fit(X[:8])


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


def test_maps_are_saved_as_overlays_named_like_their_files(tmp_path, rng):
    X = rng.integers(0, 255, (3, 20, 30, 3), dtype=np.uint8)
    maps, limits = rng.random((3, 20, 30)), (0.2, 0.9)
    files = []
    for i, name in enumerate(["one/a", "two/a", "two/b"]):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(X[i]).save(file)
        files.append(file)
    paths = save_maps(tmp_path / "new/maps", files, maps, limits=limits)
    assert [path.name for path in paths] == ["a.png", "a_2.png", "b.png"]
    for path, image, heat in zip(paths, X, maps):
        expected = overlay_map(image, heat, limits=limits)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    paths = save_maps(tmp_path, X, maps, limits=limits, names=["x", "y", "x"])
    assert [path.name for path in paths] == ["x.png", "y.png", "x_2.png"]
    with pytest.raises(ValueError, match=r"Row 1: image \(20, 30\), map \(4, 4\)"):
        save_maps(tmp_path, X[:2], [maps[0], maps[1, :4, :4]], limits=limits)
    with pytest.raises(ValueError, match="3 images and 1 maps"):
        save_maps(tmp_path, X, maps[:1], limits=limits)


def test_maps_that_come_one_by_one_are_saved_and_counted(tmp_path, pipe, X):
    limits, names = pipe.map_limits_, ["a", "b", "c", "d"]
    ways = iter_maps(pipe, X[8:]), pipe.predict_map(X[8:])
    for folder, maps in zip("xy", ways):
        save_maps(tmp_path / folder, X[8:], maps, limits=limits, names=names)
    for name in names:
        one, other = ((tmp_path / f"{k}/{name}.png").read_bytes() for k in "xy")
        assert one == other
    for n, m, words in (4, 1, "4 images and 1 maps"), (3, 4, "3 .* and 4 maps or more"):
        shown, maps = X[8 : 8 + n], iter_maps(pipe, X[8 : 8 + m])
        with pytest.raises(ValueError, match=words):
            save_maps(tmp_path, shown, maps, limits=limits)
