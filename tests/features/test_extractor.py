import numpy as np
import pytest

from skdinoad.features._extractor import _covered
from skdinoad.testing import make_images


@pytest.fixture(params=["vit", "cnn"])
def extractor(request, make_tiny, make_tiny_cnn):
    return make_tiny() if request.param == "vit" else make_tiny_cnn(standardize=False)


def test_stored_features_are_found_whatever_is_hidden(extractor, monkeypatch):
    X = make_images(3, size=(64, 64))
    masked = np.concatenate([X, np.zeros_like(X[..., :1])], axis=-1)
    masked[:, :, :32, 3] = 255
    expected = extractor.fit().transform(masked)
    monkeypatch.setattr(type(extractor), "_run", None)  # a call would fail
    masked[:, :, 32:, :3] = 255 - masked[:, :, 32:, :3]
    F = extractor.transform(masked)
    np.testing.assert_array_equal(F, expected)
    half = F.shape[2] // 2
    assert np.isfinite(F[:, :, :half]).all()
    assert np.isnan(F[:, :, half:]).all()


def test_deep_images_need_a_range(extractor):
    """Alone an extractor learns it from X, as a step of a pipeline it is given X."""
    X, flat = make_images(2).astype(np.uint16) * 16, make_images(2)
    with pytest.raises(ValueError, match=r"X\[0\] .*3200.*12 bits.*training images"):
        extractor.fit().transform(X)
    F = extractor.fit_transform(X)
    low, high = extractor.value_range_
    assert (low, high) == (0, 3920)  # 320..3200, a quarter of 2880 on each side
    scaled = np.round((X - np.float64(low)) * 255 / (high - low)).astype(np.uint8)
    np.testing.assert_array_equal(F, extractor.transform_affines(X)[0])
    assert extractor.prepared(X)[0].shape == extractor.fit(X).prepared(X)[0].shape
    with pytest.raises(ValueError, match=r"X\[0\] .*uint8.*16 bits"):
        extractor.transform(flat)
    np.testing.assert_array_equal(extractor.fit(flat).transform(scaled), F)
    assert extractor.value_range_ is None


def test_range_is_that_of_normal_images(extractor):
    X = make_images(3).astype(np.uint16) * 16
    X[1] = 65535
    assert extractor.fit(X, [1, -1, 1]).value_range_ == (0, 3920)


def test_out_of_memory_names_the_remedy(extractor, monkeypatch):
    def fail(*_):
        raise RuntimeError("not enough memory: you tried to allocate 9 GB")

    monkeypatch.setattr(type(extractor), "_run", fail)
    with pytest.raises(MemoryError, match=r"Lower batch_size=4 or image_size=64"):
        extractor.transform(make_images(2))


def test_a_panorama_is_refused(extractor):
    with pytest.raises(ValueError, match="image_size=64 is the smaller edge"):
        extractor.transform(np.zeros((1, 1, 30_000, 3), np.uint8))


def test_other_weights_than_at_fit_name_both_digests(extractor):
    extractor.fit()
    digest, extractor.weights = extractor.weights_digest_, "random:1"
    with pytest.raises(ValueError, match=digest):
        extractor.transform(make_images(1))


def test_prepared_images_are_what_the_network_takes(extractor):
    """Resized, normalised, NaN if transparent; the teacher's maps are the same."""
    X = make_images(2, size=(64, 64))
    x, affines = extractor.fit().prepared(X)
    assert x.shape == (2, 64, 64, 3)
    assert np.allclose(affines, np.eye(3))
    mean, std = extractor._backbone().mean_std.numpy()
    np.testing.assert_allclose(x, (X / 255 - mean) / std, atol=1e-5)
    clear = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    clear[:, 10:20, :, 3] = 0
    hidden = np.isnan(extractor.prepared(clear)[0]).all(-1)
    assert np.array_equal(hidden, clear[..., 3] == 0)


def test_prepared_images_of_different_sizes_are_a_list(extractor):
    X = [make_images(1, size=(64, 64))[0], make_images(1, size=(64, 128))[0]]
    x, affines = extractor.fit().prepared(X)
    assert [a.shape for a in x] == [(64, 64, 3), (64, 128, 3)]
    assert affines.shape == (2, 3, 3)


@pytest.mark.parametrize("crop", [{"cropping": "patches"}, {"cropping": 32}])
def test_cropped_images_cannot_be_moved(make_tiny, crop):
    with pytest.raises(ValueError, match="moved whole"):
        make_tiny(**crop).fit().prepared(make_images(1))


def test_covered_edges():
    affine = np.array([[2.0, 0, 3.5], [0, 4, 1.5], [0, 0, 1]])
    assert _covered(affine, (2, 5)) == ((0, 8), (3, 13))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_an_error(make_tiny, monkeypatch, value):
    """NaN means an invalid patch, so the network must not return it."""
    extractor = make_tiny()
    run = extractor._run

    def overflow(*args):
        tokens = run(*args)
        tokens[-1, 3, 5] = value
        return tokens

    monkeypatch.setattr(extractor.fit(), "_run", overflow)
    with pytest.raises(ValueError, match=r"test_vit.*NaN or infinite.*float32"):
        extractor.transform(make_images(2))
