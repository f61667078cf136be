"""Tiles: their positions, and joined features compared with plain loops."""

import numpy as np
import pytest
import torch
from conftest import tiny_features
from sklearn.base import clone

from skdinoad import (
    DMAD,
    AnomalyDINO,
    DinoFeatures,
    DinoPatch,
    SubspaceAD,
    Tiles,
    Training,
)
from skdinoad.features._tiles import tile_starts, tiled_tokens
from skdinoad.testing import make_images


def native(**parameters):
    """Return an extractor with patches of 16 pixels and original image size."""
    parameters = {"image_size": None, "cache": False, "layers": [1, 3], **parameters}
    return tiny_features(**parameters)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 23, 100])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.99])
def test_tiles_cover_everything_and_overlap_as_asked(n, overlap):
    starts, size = tile_starts(n, 8, overlap), min(n, 8)
    assert starts[0] == 0
    assert starts[-1] + size == n
    steps = np.diff(starts)
    assert (steps >= 1).all()
    assert (steps <= max(1, np.floor(8 * (1 - overlap)))).all()


def test_joined_features_equal_a_loop_over_tiles():
    image = make_images(1, size=(96, 144))  # 6 x 9 patches
    F, affines = native(tiles=Tiles(size=64, overlap=0.5)).transform_affines(image)
    assert F.shape == (1, 6, 9, 128)
    assert affines[0].tolist() == native().transform_affines(image)[1][0].tolist()
    plain = native()
    total, weights = np.zeros((6, 9, 128)), np.zeros((6, 9, 1))
    for top in (0, 2):
        for left in (0, 2, 3, 5):  # 0, 1 2/3, 3 1/3, 5
            pixels = image[:, 16 * top : 16 * top + 64, 16 * left : 16 * left + 64]
            grid = plain.transform(pixels)[0]
            for i in range(4):
                for j in range(4):
                    weight = min(i + 1, 4 - i) * min(j + 1, 4 - j)
                    total[top + i, left + j] += weight * grid[i, j]
                    weights[top + i, left + j] += weight
    np.testing.assert_allclose(F[0], total / weights, atol=1e-4)


def test_where_one_tile_does_nothing_changes():
    image = make_images(2, size=(64, 80))
    F = native(tiles=Tiles(size=80)).transform(image)
    assert np.array_equal(F, native().transform(image))


def test_class_tokens_are_means_over_tiles():
    image = make_images(1, size=(64, 128))
    _, prefix, _ = native(tiles=Tiles(size=64, overlap=0.0)).transform_tokens(image)
    halves = [native().transform_tokens(x)[1] for x in np.split(image, 2, axis=2)]
    np.testing.assert_allclose(prefix, np.mean(halves, axis=0), atol=1e-5)


def test_features_of_tiles_do_not_depend_on_how_many_are_seen_together():
    image = make_images(1, size=(96, 144))
    one, many = (
        native(tiles=Tiles(size=64), batch_size=b).transform(image) for b in (1, 7)
    )
    np.testing.assert_allclose(one, many, atol=1e-4)


def test_no_more_than_a_tile_passes_the_network(monkeypatch):
    seen = []
    blocks = DinoFeatures._blocks
    monkeypatch.setattr(
        DinoFeatures,
        "_blocks",
        lambda self, x: seen.append(x.shape) or blocks(self, x),
    )
    native(tiles=Tiles(size=64), batch_size=3).transform(make_images(2, size=(96, 144)))
    assert {tuple(shape[2:]) for shape in seen} == {(64, 64)}
    assert max(shape[0] for shape in seen) == 3


def test_tiles_have_features_of_their_own_in_the_cache(tmp_path):
    image = make_images(1, size=(96, 144))
    kinds = [{}, {"tiles": Tiles(size=64)}, {"tiles": Tiles(size=64, overlap=0.5)}]
    for kind in kinds:
        kept = native(cache=tmp_path, **kind).transform(image)
        assert np.array_equal(kept, native(**kind).transform(image))


def test_hidden_patches_are_invalid_and_shape_no_other():
    alpha = np.full((1, 96, 144, 1), 255, np.uint8)
    alpha[:, :32, :32] = 0
    image = np.concatenate([make_images(1, size=(96, 144)), alpha], axis=-1)
    F = native(tiles=Tiles(size=64)).transform(image)[0]
    invalid = np.isnan(F).all(-1)
    assert invalid[:2, :2].all()
    assert invalid.sum() == 4


@pytest.mark.parametrize("size", [60, 8])
def test_a_tile_of_broken_patches_is_refused(size):
    with pytest.raises(ValueError, match=f"size={size}.*whole patches of 16"):
        native(tiles=Tiles(size=size)).fit()


def test_a_detector_that_moves_images_whole_refuses_tiles():
    features = tiny_features(image_size=(64, 64), tiles=Tiles(size=32), layers=[0, 1])
    with pytest.raises(ValueError, match="tiles=None"):
        DMAD(preset="vit", features=features, training=Training(n_iter=1)).fit(
            make_images(4)
        )


def test_known_sum_of_two_tiles():
    x = torch.arange(4.0).repeat(1, 3, 1, 1)  # one row of four patches of one pixel

    def tokens_of(tiles):
        return tiles[:, :1].flatten(2).mT.numpy() + np.float32(len(tiles))

    # Tiles 0..2 and 1..3 with weights 1 2 1: patch 1 has 2 in one, 1 in the other.
    found = tiled_tokens(tokens_of, x, 1, 3, 0.5, batch_size=1)
    np.testing.assert_allclose(found[0, :, 0], np.arange(4) + 1)


@pytest.mark.real
@pytest.mark.parametrize(
    "detector",
    [AnomalyDINO(rotations="none"), DinoPatch(), SubspaceAD(rotations="none")],
)
def test_a_small_defect_in_a_large_image_is_found_where_it_is(detector):
    """A dot of 12 pixels in a strip three tiles long."""
    rng = np.random.default_rng(0)
    X = rng.normal(120, 12, (4, 224, 672, 1)).clip(0, 255).astype(np.uint8)
    X = np.repeat(X, 3, axis=-1)
    bad = X[3:].copy()
    bad[0, 100:112, 500:512] = 20
    features = DinoFeatures(image_size=None, layers=[6], tiles=Tiles(size=224))
    model = clone(detector).set_params(features=features).fit(X[:3])
    assert model.score_samples(bad) < model.score_samples(X[3:])
    heat = model.predict_map(bad)[0]
    assert heat.shape == (224, 672)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert 86 <= y < 126
    assert 486 <= x < 526
