import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from torch.overrides import TorchFunctionMode

from skdinoad import CNNFeatures, DinoPatch, LocalBank, PCAAligner, predict_map
from skdinoad.datasets import make_screws
from skdinoad.features import _cnn
from skdinoad.features._backbones import load_backbone
from skdinoad.testing import make_images


def test_equals_timm_on_one_level(make_tiny_cnn):
    """One level on its own grid equals timm's map of the resized image."""
    X = make_images(1, size=(64, 96))
    backbone = load_backbone("test_efficientnet", "random:0")
    mean, std = backbone.mean_std[:, :, None, None]
    x = (torch.tensor(X).permute(0, 3, 1, 2) / 255 - mean) / std
    expected = backbone.network.forward_intermediates(x, intermediates_only=True)[2]
    features = make_tiny_cnn(layers=2, stride=8, standardize=False).fit()
    features.shifts_ = (0.0,)
    F = features.transform(X)
    np.testing.assert_allclose(F[0], expected[0].permute(1, 2, 0), atol=1e-4)


def test_constants_of_normalisation_are_the_models():
    assert load_backbone("test_resnet", "random:0").mean_std.tolist() == [[0.5] * 3] * 2
    mean, std = load_backbone("test_efficientnet", "random:0").mean_std
    np.testing.assert_allclose(mean, [0.485, 0.456, 0.406])
    np.testing.assert_allclose(std, [0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("layers", "strides"),
    [("auto", (4, 8, 16)), (-1, (32,)), ([3, 1], (16, 4)), ((0, 1, 2), (2, 4, 8))],
)
def test_layers(make_tiny_cnn, layers, strides):
    features = make_tiny_cnn(layers=layers, standardize=False).fit()
    assert features.strides_ == strides


@pytest.mark.parametrize("size", [(48, 64), (100, 37), (65, 65), (31, 200)])
@pytest.mark.parametrize("image_size", [64, 50, (40, 90), None])
def test_grid_covers_the_whole_image(make_tiny_cnn, size, image_size):
    features = make_tiny_cnn(image_size=image_size, standardize=False)
    F, affines = features.transform_affines(make_images(1, size))
    h, w = F.shape[1:3]
    np.testing.assert_allclose(affines[0] @ [-0.5, -0.5, 1], [-0.5, -0.5, 1])
    corner = affines[0] @ [w - 0.5, h - 0.5, 1]
    np.testing.assert_allclose(corner, [size[1] - 0.5, size[0] - 0.5, 1])


def test_channels_have_mean_0_and_variance_1(make_tiny_cnn):
    X = make_images(9, size=(60, 90))
    raw = make_tiny_cnn(standardize=False).transform(X).reshape(-1, 104)
    features = make_tiny_cnn().fit(X)
    np.testing.assert_allclose(features.mean_, raw.mean(0), atol=1e-4)
    np.testing.assert_allclose(features.scale_, raw.std(0), rtol=1e-3, atol=1e-5)
    F = features.transform(X).reshape(-1, 104)
    np.testing.assert_allclose(F.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(F.std(0), 1, atol=1e-3)


def test_scale_comes_from_valid_cells_of_normal_images(make_tiny_cnn):
    X = make_images(6, size=(64, 64))
    expected = make_tiny_cnn().fit(X[:4])
    X[4:] = 255 - X[4:]
    y = [1, 1, 1, 1, -1, -1]
    np.testing.assert_allclose(make_tiny_cnn().fit(X, y).scale_, expected.scale_)
    half = np.concatenate([X[:4], np.full_like(X[:4, ..., :1], 255)], axis=-1)
    half[:, :, 32:, 3] = 0
    features = make_tiny_cnn().fit(half)
    F = features.transform(half)
    assert np.isnan(F[:, :, 4:]).all()
    np.testing.assert_allclose(F[:, :, :4].reshape(-1, 104).mean(0), 0, atol=1e-3)


def test_constant_images_stay_finite(make_tiny_cnn):
    X = np.full((2, 64, 64), 127, np.uint8)
    assert np.isfinite(make_tiny_cnn(image_size=32).fit_transform(X)).all()


def test_needs_fit_only_where_it_learns(make_tiny_cnn):
    X = make_images(2)
    with pytest.raises(NotFittedError):
        make_tiny_cnn().transform(X)
    with pytest.raises(ValueError, match="standardize=False"):
        make_tiny_cnn().fit()
    assert make_tiny_cnn(standardize=False).transform(X).shape == (2, 8, 10, 104)
    assert make_tiny_cnn().__sklearn_tags__().requires_fit
    assert not make_tiny_cnn(standardize=False).__sklearn_tags__().requires_fit


def test_parameters_set_after_fit_are_those_that_hold(make_tiny_cnn):
    X = make_images(3)
    features = make_tiny_cnn().fit(X)
    raw = make_tiny_cnn(standardize=False).transform(X)
    np.testing.assert_allclose(features.set_params(standardize=False).transform(X), raw)


def test_a_search_over_detectors_sees_each_image_once(make_tiny_cnn, monkeypatch):
    X, seen = make_images(6), []
    run = CNNFeatures._run
    counted = lambda self, images, *a: seen.extend(images) or run(self, images, *a)  # noqa: E731
    monkeypatch.setattr(CNNFeatures, "_run", counted)
    for standardize in (True, False, True):
        make_tiny_cnn(standardize=standardize).fit(X).transform(X)
    assert len(seen) == 6


def test_nothing_has_the_size_of_the_image(make_tiny_cnn, monkeypatch):
    """Levels are resampled to the grid, whatever the resolution of the finest."""
    sizes, on_grid, largest = [], _cnn.on_grid, []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest.append(out.numel())
            return out

    def spy(maps, size, shifts):
        with Watch():
            out = on_grid(maps, size, shifts)
        sizes.append([*(tuple(level.shape[-2:]) for level in maps), tuple(out.shape)])
        return out

    monkeypatch.setattr(_cnn, "on_grid", spy)
    features = make_tiny_cnn(layers=(0, 4), image_size=128, standardize=False)
    features.transform(make_images(2, size=(128, 128)))
    assert sizes == [[(64, 64), (4, 4), (2, 16, 16, 80)]]  # levels are not resampled
    channels = 16  # of the finest level
    assert max(largest) <= max(2 * channels * 64 * 64, 2 * 80 * 16 * 16)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"layers": 7}, "strides"),
        ({"layers": [1, 1]}, "different levels"),
        ({"layers": []}, "different levels"),
        ({"padding": "reflect"}, "VGG"),
        ({"image_size": (0, 3)}, "image_size"),
        ({"stride": 0}, "stride"),
    ],
)
def test_bad_parameters_are_explained(make_tiny_cnn, parameters, words):
    with pytest.raises(ValueError, match=words):
        make_tiny_cnn(standardize=False, **parameters).fit()


def test_a_vit_is_refused():
    with pytest.raises(ValueError, match=r"test_vit.*DinoFeatures"):
        CNNFeatures(model="test_vit", weights="random:0").fit()


def heat_centre(heat):
    """Return the mean (row, column) of the highest 2 % of pixels."""
    hot = heat * (heat > np.quantile(heat, 0.98))
    rows, columns = np.indices(hot.shape)
    return np.array([(hot * rows).sum(), (hot * columns).sum()]) / hot.sum()


@pytest.mark.parametrize("model", ["test_convnext", "test_efficientnet", "test_resnet"])
def test_heat_lies_on_planted_defects(rng, model):
    """For every padding; without measured shifts, two of the three would fail."""
    X = rng.integers(90, 110, (20, 128, 128, 3), dtype=np.uint8)
    corners = rng.integers(30, 90, (12, 2))
    for image, (row, column) in zip(X, corners):
        image[row : row + 8, column : column + 8] = [255, 255, 0]
    cnn = CNNFeatures(model=model, weights="random:0", image_size=128)
    detector = DinoPatch(
        features=cnn, baseline=None, bank=LocalBank(neighborhood=1)
    ).fit(X[12:])
    centres = [heat_centre(heat) for heat in detector.predict_map(X[:12])]
    off = np.mean(centres - (corners + 3.5), axis=0)
    np.testing.assert_allclose(off, 0, atol=1.4)


@pytest.mark.real
def test_real_cnn_finds_a_second_washer_through_the_aligner(real_cnn):
    X, _ = make_screws(12)
    bad, masks = make_screws(4, defect="second_washer", random_state=1)
    pipe = make_pipeline(PCAAligner(), DinoPatch(features=real_cnn())).fit(X)
    good, _ = make_screws(4, random_state=2)
    assert pipe.score_samples(bad).max() < pipe.score_samples(good).min()
    maps = predict_map(pipe, bad)
    for heat, mask in zip(maps, masks):
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        near = np.argwhere(mask) - hottest
        assert np.hypot(*near.T).min() < 16  # pixels


def test_look_alike_networks_never_share_features():
    """They have the same random weights but another padding and normalisation."""
    X = make_images(2, size=(64, 64))
    models = ("tf_efficientnet_lite0.in1k", "efficientnet_lite0.ra_in1k")
    one, other = (
        CNNFeatures(model=m, weights="random:0", image_size=64, standardize=False)
        for m in models
    )
    F = one.fit().transform(X)
    assert one.weights_digest_ == other.fit().weights_digest_
    alone = clone(other).set_params(cache=False).fit()
    np.testing.assert_allclose(other.transform(X), alone.transform(X), rtol=1e-5)
    assert np.abs(other.transform(X) - F).mean() > 0.1 * np.abs(F).mean()
    assert np.abs(np.subtract(one.shifts_, other.shifts_)).max() > 0.3
    other.shifts_ = one.shifts_
    assert one._settings() != other._settings()
