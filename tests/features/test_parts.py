"""Parts of extractors: Runtime, Tiles, DiskCache."""

import numpy as np
import pytest

from skdinoad import DinoFeatures, DiskCache, Runtime, Tiles
from skdinoad.testing import make_images


def test_runtime_does_not_change_features(make_tiny):
    X = make_images(5)
    one = make_tiny(batch_size=1, cache=False).transform(X)
    np.testing.assert_allclose(one, make_tiny(cache=False).transform(X), atol=1e-5)


def test_settings_can_be_set_through_the_extractor():
    features = DinoFeatures().set_params(runtime__batch_size=3)
    assert features.runtime.batch_size == 3
    features.set_params(tiles=Tiles(size=28)).set_params(tiles__overlap=0.5)
    assert (features.tiles.size, features.tiles.overlap) == (28, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"runtime": Runtime(batch_size=0)},
        {"runtime": "fast"},
        {"tiles": 448},
        {"cache": 3},
    ],
)
def test_wrong_settings_are_refused_in_fit(make_tiny, wrong):
    with pytest.raises(ValueError, match="parameter of"):
        make_tiny(**{"image_size": 64, **wrong}).fit()


def test_a_folder_is_made_and_filled(make_tiny, tmp_path):
    folder = tmp_path / "new"
    make_tiny(cache=DiskCache(folder)).transform(make_images(2))
    assert any(path.is_file() for path in folder.rglob("*"))
