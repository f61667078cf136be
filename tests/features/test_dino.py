import numpy as np
import pytest
import torch

from skdinoad import DinoFeatures, Runtime
from skdinoad.features._backbones import load_backbone
from skdinoad.features._dino import _middle
from skdinoad.testing import make_images


def raw(image, size, layers, norm):
    """Return the features of one image, resized before, by timm's own functions."""
    backbone = load_backbone("test_vit", "random:0")
    x = torch.tensor(image).permute(2, 0, 1)[None]
    x = torch.nn.functional.interpolate(x, size, mode="bicubic", antialias=True)
    mean, std = backbone.mean_std
    x = (x.float() / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        out = backbone.network.forward_intermediates(
            x, indices=layers, norm=norm, intermediates_only=True
        )
    return [y[0].permute(1, 2, 0).numpy() for y in out]


def test_equals_timm_for_one_layer(make_tiny):
    X = make_images(1)
    expected = raw(X[0], (64, 80), [3], norm=False)[0]  # 85 pixels wide: 5 patches
    F = make_tiny(layers=3).transform(X)
    assert F.shape == (1, 4, 5, 64)
    np.testing.assert_allclose(F[0], expected, atol=1e-4)


def test_last_layer_has_the_final_norm():
    """norm=True gives the patch tokens of forward_features."""
    backbone = load_backbone("test_vit", "random:0")
    X = make_images(1, size=(64, 64))
    x = torch.tensor(X).permute(0, 3, 1, 2)
    mean, std = backbone.mean_std[:, :, None, None]
    with torch.inference_mode():
        tokens = backbone.network.forward_features((x / 255 - mean) / std)
    expected = tokens[0, backbone.network.num_prefix_tokens :].reshape(4, 4, 64)
    F = DinoFeatures(model="test_vit", weights="random:0", image_size=64).transform(X)
    np.testing.assert_allclose(F[0], expected, atol=1e-4)


def test_several_layers_are_joined_in_the_order_asked(make_tiny):
    X = make_images(2)
    first, last = make_tiny(layers=1).transform(X), make_tiny(layers=-1).transform(X)
    last_raw = make_tiny(layers=-1, norm=False).transform(X)
    joined = make_tiny(layers=[-1, 1]).transform(X)
    np.testing.assert_allclose(joined, np.concatenate([last_raw, first], -1), atol=1e-5)
    assert abs(last - last_raw).max() > 0.1


def test_network_stops_at_the_last_layer_needed(make_tiny):
    backbone = load_backbone("test_vit", "random:0")
    ran = []
    hooks = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(backbone.network.blocks)
    ]
    make_tiny(layers=2).transform(make_images(1))
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("size", [(48, 64), (100, 37), (65, 65), (31, 200)])
@pytest.mark.parametrize("image_size", [64, 50, (40, 90), None])
def test_grid_covers_the_whole_image(make_tiny, size, image_size):
    """The outer edges of the grid are the outer edges of the image, at any size."""
    F, affines = make_tiny(image_size=image_size).transform_affines(
        make_images(1, size)
    )
    h, w = F.shape[1:3]
    np.testing.assert_allclose(affines[0] @ [-0.5, -0.5, 1], [-0.5, -0.5, 1])
    corner = affines[0] @ [w - 0.5, h - 0.5, 1]
    np.testing.assert_allclose(corner, [size[1] - 0.5, size[0] - 0.5, 1])


def test_smaller_edge_and_aspect_ratio(make_tiny):
    assert make_tiny(image_size=64).transform(make_images(1, (50, 100))).shape[1:3] == (
        4,
        8,
    )
    assert make_tiny(image_size=(32, 96)).transform(make_images(1)).shape[1:3] == (2, 6)
    assert make_tiny(image_size=None).transform(make_images(1)).shape[1:3] == (3, 4)


def test_images_of_different_sizes_give_a_list_in_order(make_tiny):
    X = [make_images(1, size)[0] for size in [(48, 64), (64, 48), (48, 64)]]
    F, affines = make_tiny().transform_affines(X)
    assert [f.shape[:2] for f in F] == [(4, 5), (5, 4), (4, 5)]
    assert affines.shape == (3, 3, 3)
    np.testing.assert_allclose(F[0], F[2])
    np.testing.assert_allclose(F[1], make_tiny().transform(X[1:2])[0], atol=1e-4)


def test_transparent_patches_are_nan(make_tiny):
    X = np.concatenate(
        [make_images(1, (64, 64)), np.full((1, 64, 64, 1), 255, np.uint8)], -1
    )
    X[0, :16, :9, 3] = 0  # 9 of 16 columns of the first patch
    X[0, 16:32, :7, 3] = 0  # 7 of 16 columns of the patch below
    invalid = np.isnan(make_tiny().transform(X)[0]).all(-1)
    assert np.argwhere(invalid).tolist() == [[0, 0]]


def test_works_without_fit_and_records_weights_with_it(make_tiny):
    features = make_tiny()
    F = features.transform(make_images())
    assert not hasattr(features, "weights_digest_")
    fitted = make_tiny().fit()
    np.testing.assert_array_equal(fitted.transform(make_images()), F)
    assert fitted.weights_digest_ == load_backbone("test_vit", "random:0").digest
    assert "random:0" in fitted.weights_name_
    assert (fitted.layers_, fitted.norm_, fitted.patch_size_) == ((5,), True, 16)


def test_other_weights_than_at_fit_name_both_digests(make_tiny):
    features = make_tiny().fit()
    features.weights = "random:1"
    other = load_backbone("test_vit", "random:1").digest
    with pytest.raises(ValueError, match=f"{features.weights_digest_}.*{other}"):
        features.transform(make_images())


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"layers": 6}, "test_vit has 6 blocks"),
        ({"layers": []}, "expected different block numbers"),
        ({"layers": [1, 1]}, "expected different block numbers"),
        ({"layers": [1.5]}, "expected different block numbers"),
        ({"layers": [[1]]}, "expected different block numbers"),
        ({"image_size": (0, 64)}, "whole pixels"),
        ({"runtime": Runtime(device="gpu")}, "expected 'auto'"),
        ({"weights": "random:x"}, "integer seed"),
        ({"weights": "weights.bin"}, "safetensors"),
        ({"image_size": (3, 4, 5)}, "image_size"),
        ({"cache": True}, "cache"),
    ],
)
def test_bad_parameters_are_explained(make_tiny, parameters, words):
    with pytest.raises(ValueError, match=words):
        make_tiny().set_params(**parameters).fit()


def test_unknown_model_and_no_vit():
    with pytest.raises(ValueError, match="not a timm model"):
        DinoFeatures(model="no_such_model", weights="random:0").fit()
    for model in ("resnet18", "swin_tiny_patch4_window7_224"):
        with pytest.raises(ValueError, match="expected a Vision Transformer"):
            DinoFeatures(model=model, weights="random:0").fit()


def test_panorama_is_refused_instead_of_filling_the_memory(make_tiny):
    with pytest.raises(ValueError, match="would need a grid"):
        make_tiny(image_size=448).transform(make_images(1, (1, 5000)))


def test_out_of_memory_names_the_remedy(make_tiny, monkeypatch):
    def fail(*_):
        raise RuntimeError("not enough memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(DinoFeatures, "_run", fail)
    with pytest.raises(MemoryError, match=r"batch of 2 images .* batch_size=4"):
        make_tiny().transform(make_images(2))


def test_low_precision_stays_close(make_tiny):
    X = make_images(2)
    full, half = (make_tiny(dtype=d).transform(X) for d in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert abs(full - half).max() < 0.2 * abs(full).max()


@pytest.mark.real
def test_real_backbone_tells_a_cat_from_gravel(real_features):
    """Patches of one photograph are more similar to each other than to another's."""
    data = pytest.importorskip("skimage.data")
    X = [data.chelsea(), np.stack([data.gravel()] * 3, -1)]
    F = [
        f.reshape(-1, 384)
        for f in real_features(image_size=224, layers=10).transform(X)
    ]
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in F]
    same = np.mean([np.median(u @ u.T) for u in unit])
    assert same > np.median(unit[0] @ unit[1].T) + 0.2


@pytest.mark.parametrize("size", [(100, 156), (156, 100), (64, 64), (65, 300)])
def test_crop_leaves_out_the_right_and_the_bottom_only(make_tiny, size):
    F, affines = make_tiny(cropping="patches").transform_affines(make_images(1, size))
    scale = 64 / min(size)
    resized = [int(edge * scale + 1e-6) for edge in size]
    assert F.shape[1:3] == tuple(edge // 16 for edge in resized)
    np.testing.assert_allclose(affines[0] @ [-0.5, -0.5, 1], [-0.5, -0.5, 1])
    centre = affines[0] @ [1, 2, 1]
    expected = [
        (k * 16 + 7.5 + 0.5) * edge / other - 0.5
        for k, edge, other in zip((1, 2), size[::-1], resized[::-1])
    ]
    np.testing.assert_allclose(centre[:2], expected)


def test_crop_and_stretch_agree_where_nothing_is_left_over(make_tiny):
    X = make_images(1, size=(32, 48))
    stretched = make_tiny().transform(X)
    assert np.array_equal(make_tiny(cropping="patches").transform(X), stretched)


def test_alpha_follows_the_crop(make_tiny):
    """The right 31 of 95 columns are cropped, including transparent ones."""
    X = make_images(1, size=(64, 95))
    clear = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    clear[..., 80:, 3] = 0
    F = make_tiny(cropping="patches").transform(clear)
    assert F.shape[1:3] == (4, 5)
    assert np.isfinite(F).all()
    clear[..., 56:, 3] = 0
    F = make_tiny(cropping="patches").transform(clear)
    assert np.isfinite(F[0, :, :3]).all()
    assert np.isnan(F[0, :, 4]).all()


def test_crop_smaller_than_a_patch_is_refused(make_tiny):
    with pytest.raises(ValueError, match="holds no whole patch"):
        make_tiny(cropping="patches", image_size=10).transform(make_images(1))


# -- groups, crops ------------------------------------------------------------------


def test_groups_average_consecutive_layers(make_tiny):
    X = make_images(2)
    each = make_tiny(layers=[1, 3, 4, 5]).fit_transform(X)
    each = each.reshape(*each.shape[:3], 4, 64)
    grouped = make_tiny(layers=[1, 3, 4, 5], groups=2).fit()
    assert grouped.n_groups_ == 2
    expected = each.reshape(*each.shape[:3], 2, 2, 64).mean(4)
    F = grouped.transform(X)
    np.testing.assert_allclose(F, expected.reshape(F.shape), atol=1e-5)


def test_groups_of_unequal_size_are_refused(make_tiny):
    with pytest.raises(ValueError, match="groups=2 does not divide the 3 layers"):
        make_tiny(layers=[0, 1, 2], groups=2).fit()


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, range(2, 10)), (24, range(4, 20, 2)), (6, range(1, 5))],
)
def test_middle_layers_are_those_of_dinomaly(depth, blocks):
    assert _middle(depth) == tuple(blocks)


def test_tokens_hold_the_class_token_apart(make_tiny):
    X, features = make_images(3), make_tiny().fit()
    grids, prefix, affines = features.transform_tokens(X)
    F, same = features.transform_affines(X)
    assert np.array_equal(np.stack(grids), F)
    assert np.array_equal(affines, same)
    assert prefix.shape == (3, 1, 64)
    again = features.transform_tokens(X[1:2])[1]
    np.testing.assert_allclose(again, prefix[1:2], atol=1e-5)


def test_crop_looks_at_the_centre_and_its_frame_says_so(make_tiny):
    X = make_images(1, size=(96, 128))
    whole = make_tiny(image_size=(96, 128)).fit()
    part = make_tiny(image_size=(96, 128), cropping=(64, 64)).fit()
    F, affines = part.transform_affines(X)
    assert F.shape[1:3] == (4, 4)
    np.testing.assert_allclose(affines[0] @ [0, 0, 1], [32 + 7.5, 16 + 7.5, 1])
    np.testing.assert_allclose(affines[0] @ [3, 3, 1], [32 + 55.5, 16 + 55.5, 1])
    centre = make_tiny(image_size=None).fit_transform(X[:, 16:80, 32:96])
    np.testing.assert_allclose(F, centre, atol=1e-5)
    assert whole.transform(X).shape[1:3] == (6, 8)


def test_alpha_under_a_crop_is_that_of_the_crop(make_tiny):
    X = make_images(1, size=(96, 128))
    alpha = np.full((1, 96, 128, 1), 255, np.uint8)
    alpha[:, 16:32, 32:48] = 0  # the first patch of the crop
    features = make_tiny(image_size=(96, 128), cropping=64)
    F = features.fit_transform(np.concatenate([X, alpha], axis=-1))
    invalid = np.isnan(F).all(-1)[0]
    assert invalid[0, 0]
    assert invalid.sum() == 1


def test_interpolation_changes_what_is_seen_and_what_is_stored(make_tiny):
    X = make_images(1, size=(100, 140))
    cubic = make_tiny().fit_transform(X)
    linear = make_tiny(interpolation="bilinear").fit_transform(X)
    assert np.abs(cubic - linear).max() > 1e-3


def test_groups_are_means_of_raw_block_outputs(make_tiny):
    X, network = make_images(1, size=(64, 64)), load_backbone("test_vit", "random:0")
    features = make_tiny(layers=[1, 2, 3, 4], groups=2).fit()
    grids, prefix, _ = features.transform_tokens(X)
    mean, std = network.mean_std[:, None, :, None, None]
    x = (torch.tensor(X).permute(0, 3, 1, 2) / 255 - mean) / std
    outputs = []
    with torch.inference_mode():
        x = network.network._pos_embed(network.network.patch_embed(x))
        for block in network.network.blocks:
            x = block(x)
            outputs.append(x[0].numpy())  # before any norm
    for g, pair in enumerate([(1, 2), (3, 4)]):
        expected = (outputs[pair[0]] + outputs[pair[1]]) / 2
        part = slice(64 * g, 64 * g + 64)
        np.testing.assert_allclose(prefix[0, :, part], expected[:1], atol=1e-4)
        found = grids[0].reshape(16, -1)[:, part]
        np.testing.assert_allclose(found, expected[1:], atol=1e-4)


# -- kinds of Vision Transformers -----------------------------------------------------

#: By model: number of prefix tokens, patch size, whether there is a class token.
ANY_SIZE = {
    "test_vit": (1, 16, True),
    "test_vit2": (1, 16, False),
    "test_vit3": (1, 16, False),
    "test_vit4": (1, 16, False),
    "deit_tiny_distilled_patch16_224": (2, 16, True),
    "eva02_tiny_patch14_224": (1, 14, True),
    "vit_pe_core_tiny_patch16_384": (1, 16, True),
    "vit_tiny_patch16_dinov3_qkvb": (5, 16, True),
    "vit_small_plus_patch16_dinov3": (5, 16, True),
    "vit_small_patch14_reg4_dinov2": (5, 14, True),
    "vit_xsmall_patch16_clip_224": (1, 16, True),
    "vit_base_patch16_siglip_224": (0, 16, False),
    "samvit_base_patch16_224": (0, 16, False),
    "vit_tiny_r_s16_p8_224": (1, 32, True),
    "xcit_nano_12_p8_224": (0, 8, False),
}


@pytest.mark.parametrize("model", ANY_SIZE)
@pytest.mark.usefixtures("_in_this_timm")
def test_every_kind_gives_its_patches_and_the_tokens_before_them(model):
    """Changing a patch changes the features of this patch most."""
    p, pixels, has_class = ANY_SIZE[model]
    parameters = {"image_size": None, "layers": [1, 0], "groups": 1, "cache": False}
    features = DinoFeatures(model=model, weights="random:0", **parameters).fit()
    assert (features.patch_size_, features.has_class_token_) == (pixels, has_class)
    X = np.repeat(make_images(1, size=(4 * pixels, 5 * pixels)), 2, axis=0)
    X[1, pixels : 2 * pixels, 3 * pixels : 4 * pixels] ^= 255
    grids, prefix, affines = features.transform_tokens(X)
    assert grids[0].shape[:2] == (4, 5)
    assert prefix.shape == (2, p, grids[0].shape[2])
    changed = np.linalg.norm(grids[1] - grids[0], axis=-1)
    assert np.unravel_index(changed.argmax(), (4, 5)) == (1, 3)
    np.testing.assert_allclose(affines[0] @ [0, 0, 1], [*[pixels / 2 - 0.5] * 2, 1])


@pytest.mark.parametrize(
    "model", ["test_vit2", "xcit_nano_12_p8_224", "vitamin_small_224"]
)
@pytest.mark.parametrize("layers", ["auto", "last", "middle"])
def test_named_layers_of_every_kind(model, layers):
    features = DinoFeatures(
        model=model, weights="random:0", layers=layers, image_size=48, cache=False
    ).fit()
    F = features.transform(make_images(1))
    assert F.shape[1] == 48 // features.patch_size_
    assert F.shape[3] % len(features.layers_) == 0
    assert np.isfinite(F).all()


@pytest.mark.parametrize(
    ("model", "size", "p"),
    [
        ("test_vit_relpos", 160, 0),
        ("convit_tiny", 224, 0),
        ("beit_base_patch16_224", 224, 1),
    ],
)
@pytest.mark.usefixtures("_in_this_timm")
def test_network_of_one_size_takes_that_size_alone(model, size, p):
    features = DinoFeatures(model=model, weights="random:0", image_size=(size, size))
    grids, prefix, _ = features.fit().transform_tokens(make_images(1))
    assert grids[0].shape[:2] == (size // 16, size // 16)
    assert prefix.shape[1] == p
    for other in (size, None, (size, size + 16)):
        features.set_params(image_size=other)
        with pytest.raises(ValueError, match=rf"{model}.*pass image_size=\({size}, "):
            features.fit()


@pytest.mark.parametrize("model", ["crossvit_9_240", "pit_ti_224", "convnext_atto"])
def test_network_of_several_grids_is_refused(model):
    with pytest.raises(ValueError, match=f"{model}.*expected a Vision Transformer"):
        DinoFeatures(model=model, weights="random:0", image_size=96).fit()
