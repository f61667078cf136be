import pytest

from skdinoad.features import CNNFeatures, WeightsNotFoundError
from skdinoad.features._backbones import load_backbone
from skdinoad.features._packages import PACKAGES, from_package
from skdinoad.features._weights import REGISTRY

DINO = "vit_small_patch14_dinov2.lvd142m"
LITE0 = "tf_efficientnet_lite0.in1k"


@pytest.fixture(autouse=True)
def _own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SKDINOAD_CACHE", str(tmp_path))
    load_backbone.cache_clear()
    yield
    load_backbone.cache_clear()


@pytest.mark.real
@pytest.mark.parametrize("model", [DINO, LITE0])
def test_package_is_converted_once_and_repaired(tmp_path, model):
    pytest.importorskip(PACKAGES[model].module)
    path = from_package(model)
    assert list(tmp_path.iterdir()) == [path]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # a full disk, a killed copy
    assert from_package(model).read_bytes() == whole


@pytest.mark.real
@pytest.mark.parametrize("model", [DINO, LITE0])
def test_package_is_known_and_loads_strictly(model):
    pytest.importorskip(PACKAGES[model].module)
    backbone = load_backbone(model, "package")
    assert backbone.digest in REGISTRY
    assert PACKAGES[model].project in backbone.known.source
    if model == DINO:
        assert "not Meta's" in backbone.known.name


def test_look_alike_gets_no_weights():
    """It would take the tensors and compute something else."""
    assert from_package("efficientnet_lite0") is None
    with pytest.raises(WeightsNotFoundError, match="weights='package'"):
        CNNFeatures(model="efficientnet_lite0", weights="package").fit()


@pytest.mark.parametrize("model", [DINO, LITE0])
def test_tampered_package_is_refused(tmp_path, model):
    source = tmp_path / "file"
    source.write_bytes(b"something else")
    with pytest.raises(WeightsNotFoundError, match="sha256"):
        PACKAGES[model].convert(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_missing_package_is_no_error(monkeypatch):
    monkeypatch.setattr("skdinoad.features._packages.find_spec", lambda name: None)
    assert from_package(LITE0) is None


@pytest.mark.real
def test_lite0_knows_a_screw_and_a_cat(rng):
    """The network as a whole, classifier included, is right: so are its features."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip(PACKAGES[LITE0].module)
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from skdinoad._compat.timm import timm
    from skdinoad.features._preprocess import resize

    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(load_file(from_package(LITE0)), strict=True)
    pictures = [data.chelsea(), data.coffee()]
    x = torch.cat([resize(p, (224, 224)) for p in pictures]) / 127.5 - 1
    with torch.inference_mode():
        found = network(x).argsort(dim=1, descending=True)[:, :5].numpy()
    assert np.isin(found[0], [281, 282, 285]).sum() >= 2  # tabby, tiger cat, Mau
    assert np.isin(found[1], [504, 967]).any()  # coffee mug, espresso
