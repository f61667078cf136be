import numpy as np
import pytest

from skdinoad import (
    AnomalyDINO,
    CNNFeatures,
    DinoFeatures,
    DinoPatch,
    Runtime,
    iter_maps,
)
from skdinoad.features._textured import TexturedFeatures, texture_for
from skdinoad.persistence import load, save
from skdinoad.scale import fit_sharded
from skdinoad.testing import make_images


def dino(**how):
    how = {"layers": (1, 2), "image_size": 64, **how}
    return DinoFeatures(model="test_vit", weights="random:0", **how)


def cnn(**how):
    how = {"standardize": "levels", "image_size": 64, **how}
    return CNNFeatures(model="test_efficientnet", weights="random:0", **how)


def groups_of(both, X):
    F = both.transform(X)
    return F.reshape(*F.shape[:3], both.n_groups_, -1)


def test_groups_are_what_each_extractor_gives():
    X = make_images(2)
    # Both have the same patch grid, so nothing is interpolated.
    both = TexturedFeatures(dino(), cnn(stride=16)).fit(X)
    F = groups_of(both, X)
    texture = cnn(stride=16).fit(X).transform(X)
    known = dino().fit(X).transform(X).reshape(*F.shape[:3], 2, -1)
    assert both.layers_ == ("texture", 1, 2)
    np.testing.assert_allclose(F[..., 0, : texture.shape[-1]], texture, atol=1e-6)
    np.testing.assert_array_equal(F[..., 1:, : known.shape[-1]], known)
    # Padding is 0.
    assert not F[..., 0, texture.shape[-1] :].any()
    assert not F[..., 1:, known.shape[-1] :].any()


def test_texture_is_interpolated_at_the_patches():
    """Features of a linear ramp keep their values at the centres of patches."""
    X = make_images(1)
    fine, affines = cnn(stride=4).fit(X).transform_affines(X)
    ramp = TexturedFeatures(dino(), cnn(stride=4)).fit(X)
    h, w = fine.shape[1:3]
    columns, rows = np.meshgrid(np.arange(w), np.arange(h))
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1) @ affines[0].T
    ramp.texture_.transform_affines = lambda _: (
        pixels[None, ..., :2].astype(np.float32),
        affines,
    )
    F, outer = ramp.transform_affines(X)
    got = F[0].reshape(*F.shape[1:3], 3, -1)[:, :, 0, :2]
    h, w = got.shape[:2]
    columns, rows = np.meshgrid(np.arange(w), np.arange(h))
    wanted = np.stack([columns, rows, np.ones_like(rows)], -1) @ outer[0].T
    np.testing.assert_allclose(got, wanted[..., :2], atol=1e-3)


def test_a_hidden_patch_is_invalid_and_its_neighbours_are_not():
    X = np.concatenate([make_images(2), np.full((2, 48, 64, 1), 255, np.uint8)], -1)
    X[:, :24, :32, 3] = 0
    F = groups_of(TexturedFeatures(dino(), cnn(stride=4)).fit(X), X)
    valid = np.isfinite(F).all((-1, -2))
    known = np.isfinite(dino().fit(X).transform(X)).all(-1)
    np.testing.assert_array_equal(valid, known)
    assert np.isnan(F[~valid]).all()


def test_images_of_any_size_and_colour_depth():
    X = [make_images(1)[0], make_images(1)[0, :, :40], make_images(1)[0, :, :, :1]]
    F = TexturedFeatures(dino(), cnn()).fit(X).transform(X)
    assert [grid.shape[:2] for grid in F] == [(4, 5), (5, 4), (4, 5)]
    deep = (make_images(3).astype(np.uint16) * 200)[..., 0]
    both = TexturedFeatures(dino(), cnn()).fit(deep)
    assert both.value_range_ is not None
    alone = both.transform(deep[:1])
    np.testing.assert_allclose(alone, both.transform(deep)[:1], atol=1e-6)


@pytest.mark.parametrize("cls", [AnomalyDINO, DinoPatch])
def test_a_detector_compares_texture_as_much_as_all_other_layers(cls):
    X = make_images(5)
    both = cls(features=dino(), texture=cnn()).fit(X)
    D = np.random.default_rng(0).random((4, 3, 2, 2)).astype(np.float32)
    D *= both.layer_scales_[:, None, None]
    score, shown = both._fusion(D).swapaxes(0, 1)
    E = D / both.layer_scales_[:, None, None]
    np.testing.assert_allclose(score, E[:, 0] / 2 + E[:, 1:].mean(1) / 2, rtol=1e-5)
    np.testing.assert_allclose(shown, E.mean(1), rtol=1e-5)


@pytest.mark.parametrize("cls", [AnomalyDINO, DinoPatch])
def test_layers_of_heat_maps_are_called_by_name(cls):
    X = make_images(4)
    both = cls(features=dino(), texture=cnn(), map_layers=["texture"]).fit(X)
    alone = both.set_params(map_layers=["texture", 2])
    assert len(list(iter_maps(alone, X))) == 4
    with pytest.raises(ValueError, match=r"'texture', 1, 2"):
        both.set_params(map_layers=[5]).fit(X)


@pytest.mark.parametrize("cls", [AnomalyDINO, DinoPatch])
def test_a_saved_model_scores_the_same(cls, tmp_path):
    X = make_images(4)
    model = cls(features=dino(), texture=cnn()).fit(X)
    save(model, tmp_path / "m.skd")
    again = load(tmp_path / "m.skd")
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


def test_the_texture_follows_the_settings_of_its_features():
    features = dino(runtime=Runtime(batch_size=3), cache=False, image_size=80).fit()
    assert texture_for(features) is None
    features.texture_ = True  # as the registry has it for other weights
    texture = texture_for(features)
    assert (texture.cache, texture.image_size) == (False, 80)
    assert texture.runtime.batch_size == 3
    assert texture.stride == features.patch_size_
    assert texture.standardize == "levels"


def test_levels_of_unit_length_do_not_depend_on_training_images():
    X = make_images(6)
    F = cnn().fit(X[:1]).transform(X)
    np.testing.assert_allclose(F, cnn().fit(X[3:]).transform(X), atol=1e-6)
    extractor = cnn().fit(X)
    parts = np.split(F, np.cumsum(extractor.channels_)[:-1], -1)
    assert len(parts) == len(extractor.layers_)
    for part in parts:
        np.testing.assert_allclose(np.linalg.norm(part, axis=-1), 1, rtol=1e-5)


def test_what_is_no_extractor_is_refused():
    with pytest.raises(TypeError, match="texture='cnn' lacks fit"):
        AnomalyDINO(features=dino(), texture="cnn").fit(make_images(3))


def test_texture_beside_what_is_no_vision_transformer_is_refused():
    with pytest.raises(TypeError, match="needs features=DinoFeatures"):
        AnomalyDINO(features=cnn(), texture=cnn()).fit(make_images(3))


def test_kept_features_are_those_computed_to_the_last_bit(tmp_path):
    X = make_images(3)
    kept = cnn(cache=tmp_path).fit(X)
    computed = kept.transform(X)
    np.testing.assert_array_equal(kept.transform(X), computed)


def test_shards_with_texture_equal_one_fit():
    X = make_images(8)
    detector = AnomalyDINO(features=dino(), texture=cnn(), masking=None)
    shards = fit_sharded(detector, [X[:4], X[4:]])
    whole = detector.fit(X)
    np.testing.assert_allclose(
        shards.score_samples(X[:2]), whole.score_samples(X[:2]), rtol=1e-5, atol=1e-6
    )
    assert shards.offset_ == pytest.approx(whole.offset_, rel=1e-5)
