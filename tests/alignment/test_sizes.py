from types import SimpleNamespace

import numpy as np
import pytest

from skdinoad import DinoFeatures, DinoPatch, PCAAligner, Pipeline
from skdinoad.alignment._sizes import frame_of_parts, frame_of_photographs, square
from skdinoad.datasets import make_screws, plant_defect


@pytest.mark.parametrize("aspect", [0.05, 0.1, 0.3, 0.5, 0.6, 0.9, 1])
def test_frames_are_whole_patches_of_the_parts_shape(aspect):
    height, width = frame_of_parts([SimpleNamespace(reach=(2, 2 * aspect))])
    assert height % 14 == width % 14 == 0
    patches = height * width / 14**2
    assert 250 <= patches <= 384
    if 0.1 <= aspect < 0.55:
        assert aspect < height / width < 1.7 * aspect
    if aspect > 0.6:
        assert height == width == 224


def test_the_widest_part_decides():
    wide = [SimpleNamespace(reach=(2.0, 0.2)), SimpleNamespace(reach=(2.0, 1.9))]
    assert frame_of_parts(wide) == (224, 224)


def test_photographs_keep_their_shape():
    assert frame_of_photographs("auto", [(100, 200), (50, 100)]) == (224, 448)
    assert frame_of_photographs(60, [(100, 100)]) == (60, 60)
    assert square(50) == (50, 50)
    with pytest.raises(ValueError, match="output_size='auto'"):
        frame_of_photographs("auto", [(10, 10_000)])


def bars(n, length, width, rng):
    """Return bars of some length in any pose, on a dark background."""
    import cv2

    X = np.full((n, 200, 200, 3), 20, np.uint8)
    for image in X:
        centre = tuple(float(v) for v in rng.uniform(85, 115, 2))
        box = cv2.boxPoints((centre, (length, width), float(rng.uniform(0, 180))))
        cv2.fillPoly(image, [box.round().astype(np.int32)], (180, 180, 180))
    return X


@pytest.mark.parametrize(("width", "long"), [(12, True), (60, True), (110, False)])
def test_long_parts_get_a_strip_and_stay_inside(width, long, rng):
    X = bars(8, 120, width, rng)
    aligner = PCAAligner(polarity=None, border="replicate").fit(X)
    height, length = aligner.output_size_
    assert (height < length) == long
    Z = aligner.transform(X)
    edges = [Z[:, 0], Z[:, -1], Z[:, :, 0], Z[:, :, -1]]
    assert all(edge[..., :3].max() < 100 for edge in edges)  # background, no part


def test_features_keep_the_frame_without_a_parameter():
    features = DinoFeatures(weights="random:0", image_size="fast").fit()
    for patches in ((10, 38), (16, 16), (12, 32)):
        whole = tuple(features.patch_size_ * edge for edge in patches)
        assert features._plan(whole) == (whole, patches)
    assert min(features._plan((448, 448))[0]) == 224
    assert min(features._plan((1000, 1500))[0]) == 224
    assert min(features._plan((64, 64))[0]) == 224


@pytest.mark.real
def test_a_defect_is_found_through_the_strip(real_features):
    X, _ = make_screws(8, random_state=0)
    pipe = Pipeline([PCAAligner(), DinoPatch()]).fit(X)
    height, width = pipe[0].output_size_
    assert height < width
    grid = pipe[-1].grid_shape_
    assert grid[:2] == (height // 14, width // 14)
    good, _ = make_screws(1, random_state=9)
    part = (good[0].min(-1) > 150).astype(bool)
    bad, mask = plant_defect(good[0], kind="blob", size=0.1, where=part)
    heat = pipe.predict_map([bad])[0]
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    rows, columns = np.nonzero(mask)
    assert abs(y - rows.mean()) < 20
    assert abs(x - columns.mean()) < 20
