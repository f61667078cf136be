import pickle

import numpy as np
import pytest
from PIL import Image

from skdinoad import AnomalyDINO, DinoPatch, Pipeline, RegionMask
from skdinoad.testing import make_images


@pytest.fixture
def region():
    region = np.zeros((64, 64), bool)
    region[:, :32] = True
    return region


@pytest.mark.parametrize("cls", [DinoPatch, AnomalyDINO])
def test_what_lies_outside_never_matters(cls, region, tiny):
    X = make_images(5, size=(64, 64))
    other = X.copy()
    other[:, :, 32:] = np.random.default_rng(0).integers(0, 255, other[:, :, 32:].shape)
    pipes = [
        Pipeline([RegionMask(region), cls(features=tiny)]).fit(x) for x in (X, other)
    ]
    scores = [pipe.score_samples(x) for pipe in pipes for x in (X, other)]
    for found in scores[1:]:
        np.testing.assert_allclose(found, scores[0], rtol=1e-6)
    maps = pipes[0].predict_map(other)
    assert (maps[:, :, 40:] == 0).all()
    assert pipes[0].offset_ == pipes[1].offset_


def test_a_mask_file_says_the_same_and_travels_with_the_model(region, tmp_path):
    path = tmp_path / "roi.png"
    Image.fromarray(region.astype(np.uint8) * 255).save(path)
    X = make_images(3, size=(64, 64))
    by_file = RegionMask(str(path)).fit(X)
    assert np.array_equal(by_file.transform(X), RegionMask(region).fit_transform(X))
    saved = pickle.dumps(by_file)
    path.unlink()
    assert np.array_equal(pickle.loads(saved).transform(X), by_file.transform(X))


def test_image_files_are_masked_too(region, tmp_path):
    X = make_images(2, size=(64, 64))
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for image, path in zip(X, paths):
        Image.fromarray(image).save(path)
    mask = RegionMask(region).fit(paths)
    assert np.array_equal(mask.transform(paths), mask.transform(X))


def test_images_of_another_scale_are_taken_those_of_another_shape_are_not(region):
    mask = RegionMask(region).fit(make_images(2, size=(64, 64)))
    large = mask.transform(make_images(1, size=(128, 128)))
    assert (large[0, :, :64, 3] == 255).all()
    assert (large[0, :, 64:, 3] == 0).all()
    X = [*make_images(1, size=(64, 64)), *make_images(1, size=(48, 64))]
    with pytest.raises(ValueError, match=r"X\[1\] has size \(48, 64\), the region"):
        mask.transform(X)


def test_hidden_pixels_stay_hidden(region):
    X = np.full((1, 64, 64, 4), 255, np.uint8)
    X[0, :8, :, 3] = 0
    alpha = RegionMask(region).fit_transform(X)[0, ..., 3]
    assert (alpha[:8] == 0).all()
    assert (alpha[8:, :32] == 255).all()


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (np.zeros((4, 4), bool), "region is empty"),
        (np.zeros((4, 4, 3), np.uint8), r"shape \(4, 4, 3\)"),
        (np.ones((4, 4)), "dtype float64"),
    ],
)
def test_wrong_regions_are_refused(region, text):
    with pytest.raises(ValueError, match=text):
        RegionMask(region).fit(make_images(1, size=(4, 4)))
    with pytest.raises(FileNotFoundError):
        RegionMask("no.png").fit(make_images(1))
