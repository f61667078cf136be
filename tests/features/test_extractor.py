import numpy as np
import pytest

from skdinoad.features._extractor import _covered
from skdinoad.testing import make_images


@pytest.fixture(params=["vit", "cnn"])
def extractor(request, make_tiny, make_tiny_cnn):
    return make_tiny() if request.param == "vit" else make_tiny_cnn(standardize=False)


def test_stored_features_are_found_whatever_the_alpha(extractor, monkeypatch):
    X = make_images(3, size=(64, 64))
    expected = extractor.fit().transform(X)
    monkeypatch.setattr(type(extractor), "_run", None)  # a call would fail
    masked = np.concatenate([X, np.zeros_like(X[..., :1])], axis=-1)
    masked[:, :, :32, 3] = 255
    F = extractor.transform(masked)
    half = F.shape[2] // 2
    np.testing.assert_array_equal(F[:, :, :half], expected[:, :, :half])
    assert np.isnan(F[:, :, half:]).all()


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


def test_covered_edges():
    frame = np.array([[2.0, 0, 3.5], [0, 4, 1.5], [0, 0, 1]])
    assert _covered(frame, (2, 5)) == ((0, 8), (3, 13))
