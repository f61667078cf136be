import numpy as np
import pytest
import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode

from skdinoad.features import _backbones
from skdinoad.features._backbones import content_digest, get_backbone, load_backbone


def test_network_is_built_once(monkeypatch):
    load_backbone.cache_clear()
    built, create = [], _backbones._create

    def counted(*args, **kwargs):
        built.append(args)
        return create(*args, **kwargs)

    monkeypatch.setattr(_backbones, "_create", counted)
    for _ in range(3):
        get_backbone("test_vit", "random:3", "cpu", torch.float32)
    get_backbone("test_vit", "random:3", "cpu", torch.bfloat16)
    assert len(built) == 1


def test_network_is_frozen():
    network = load_backbone("test_vit", "random:0").network
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_seed_decides_random_weights():
    digests = [load_backbone("test_vit", f"random:{s}").digest for s in (0, 1)]
    load_backbone.cache_clear()
    assert load_backbone("test_vit", "random:0").digest == digests[0] != digests[1]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_digest_does_not_depend_on_the_file_format(tmp_path, suffix):
    backbone = load_backbone("test_vit", "random:0")
    path = tmp_path / f"weights{suffix}"
    state = backbone.network.state_dict()
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    loaded = load_backbone("test_vit.r160_in1k", str(path))
    assert loaded.digest == backbone.digest
    assert loaded.known.layers == (-1,)


class Counted(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.draws = 0

    def __torch_function__(self, call, types, args=(), kwargs=None):
        self.draws += call.__name__ in ("uniform_", "normal_")
        return call(*args, **(kwargs or {}))


def test_no_weights_are_drawn_that_a_file_replaces(tmp_path):
    path = tmp_path / "weights.safetensors"
    load_backbone.cache_clear()
    with Counted() as seen:
        backbone = load_backbone("test_vit", "random:0")
    assert seen.draws
    safetensors.torch.save_file(backbone.network.state_dict(), path)
    with Counted() as seen:
        loaded = load_backbone("test_vit", str(path))
    assert not seen.draws
    assert loaded.digest == backbone.digest


def test_pickle_that_runs_code_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"norm.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only|Unsupported"):
        load_backbone("test_vit.r160_in1k", str(tmp_path / "evil.pth"))


def test_file_for_another_model_is_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file({"norm.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="do not fit model='test_vit"):
        load_backbone("test_vit.r160_in1k", str(path))


@pytest.mark.parametrize("lost", ["norm.weight", "blocks.1."])
def test_file_that_lacks_a_part_is_refused(tmp_path, lost):
    """timm would leave this part random without an error."""
    state = load_backbone("test_vit", "random:0").network.state_dict()
    path = tmp_path / "part.safetensors"
    kept = {k: v for k, v in state.items() if not k.startswith(lost)}
    safetensors.torch.save_file(kept, path)
    with pytest.raises(ValueError, match="it lacks"):
        load_backbone("test_vit", str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_file_is_named(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="cut"):
        load_backbone("test_vit", str(path))


def test_loading_does_not_move_the_random_state(tmp_path):
    state = load_backbone("test_vit", "random:0").network.state_dict()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    before = torch.get_rng_state()
    load_backbone("test_vit", str(path))
    assert torch.equal(torch.get_rng_state(), before)


def test_digest_sees_every_value():
    network = torch.nn.Linear(2, 2)
    before = content_digest(network)
    with torch.no_grad():
        network.bias[1] += 1e-3
    assert content_digest(network) != before


def test_mean_and_std_come_from_the_model():
    backbone = load_backbone("test_vit", "random:0")
    np.testing.assert_allclose(backbone.mean_std, [[0.5] * 3, [0.5] * 3])
    assert (backbone.patch_size, backbone.depth) == (16, 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_are_no_numbers_name_file_and_tensor(tmp_path, suffix, value):
    state = dict(load_backbone("test_vit", "random:0").network.state_dict())
    state["blocks.2.mlp.fc1.bias"] = state["blocks.2.mlp.fc1.bias"].clone()
    state["blocks.2.mlp.fc1.bias"][7] = value
    path = tmp_path / f"broken{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(state, path)
    with pytest.raises(ValueError, match=r"broken\..*'blocks\.2\.mlp\.fc1\.bias' h"):
        load_backbone("test_vit", str(path))


def test_buffers_that_are_no_numbers_are_named(tmp_path):
    state = dict(load_backbone("test_efficientnet", "random:0").network.state_dict())
    state["bn1.running_var"] = torch.full_like(state["bn1.running_var"], torch.nan)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"'bn1\.running_var' holds NaN"):
        load_backbone("test_efficientnet", str(tmp_path / "w.safetensors"))


def test_source_is_the_file_also_for_a_copy_with_known_content(tmp_path, monkeypatch):
    backbone = load_backbone("test_vit", "random:0")
    known = _backbones._weights.KnownWeights("a known network", layers=(3,))
    monkeypatch.setitem(_backbones._weights.REGISTRY, backbone.digest, known)
    torch.save(backbone.network.state_dict(), tmp_path / "copy.pth")
    loaded = load_backbone("test_vit", str(tmp_path / "copy.pth")).known
    assert (loaded.name, loaded.source) == ("a known network", "file copy.pth")
    assert loaded.layers == (3,)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("test_vit", "vit"),
        ("test_efficientnet", "cnn"),
        ("crossvit_9_240", "other"),  # blocks of two grids
    ],
)
def test_kind_of_network(model, kind):
    assert load_backbone(model, "random:0").kind == kind


@pytest.mark.parametrize(
    ("model", "pixels"), [("xcit_nano_12_p8_224", 8), ("vit_tiny_r_s16_p8_224", 32)]
)
def test_patch_size_is_in_pixels_of_the_image(model, pixels):
    """Behind a CNN a patch consists of several cells."""
    assert load_backbone(model, "random:0").patch_size == pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_network_loaded_in_inference_mode_still_passes_gradients(dtype):
    load_backbone.cache_clear()
    with torch.inference_mode():
        network = get_backbone("test_vit", "random:0", "cpu", dtype).network
    x = torch.rand(1, 3, 32, 32, dtype=dtype, requires_grad=True)
    network(x).square().sum().backward()
    assert (x.grad != 0).any()
