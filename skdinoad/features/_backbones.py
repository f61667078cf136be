"""Frozen networks, loaded once per process and identified by their digest."""

import sys
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.overrides import TorchFunctionMode

from skdinoad._compat.products import with_fast_products
from skdinoad._compat.timm import timm
from skdinoad._compat.torch import isolated_torch_state, seeded
from skdinoad.features import _weights
from skdinoad.features._state import tensors_digest

__all__ = ["Backbone", "get_backbone", "load_backbone"]


#: timm's method that returns features of several depths.
_INTERMEDIATES = "forward_intermediates"


@dataclass(frozen=True)
class Backbone:
    """A frozen network, its digest and the settings that suit its weights.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, on its device, without gradients.
    digest : str
        sha256 over names, shapes and values of all parameters: the same weights
        have the same digest whatever file they came in.
    known : KnownWeights
        The registry's entry for these weights.
    """

    network: torch.nn.Module
    digest: str
    known: "_weights.KnownWeights"

    @property
    def kind(self) -> str:
        """ "vit" for a plain Vision Transformer, "cnn" for maps of several strides."""
        if not hasattr(self.network, _INTERMEDIATES):
            return "other"
        levels = getattr(self.network, "feature_info", [])
        strides = len({level["reduction"] for level in levels})
        if hasattr(self.network, "blocks") and hasattr(self.network, "patch_embed"):
            return "vit" if strides == 1 else "other"
        return "cnn" if strides > 1 else "other"

    @property
    def patch_size(self) -> int:
        # patch_embed.patch_size counts cells of a CNN if one precedes the blocks.
        return self.network.feature_info[0]["reduction"]

    @property
    def depth(self) -> int:
        return len(self.network.blocks)

    @property
    def mean_std(self) -> torch.Tensor:
        """(2, 3) channel mean and standard deviation for values in 0..1."""
        config = self.network.pretrained_cfg
        return torch.tensor([config["mean"], config["std"]])


def get_backbone(model: str, weights: str, device, dtype) -> Backbone:
    """Return the network from the process-level cache; load it the first time."""
    loaded = load_backbone(model, str(weights))
    return _on_device(loaded, torch.device(device), dtype)


@lru_cache(maxsize=2)
@isolated_torch_state()
def _on_device(backbone, device, dtype):
    if device.type == "cpu" and dtype is torch.float32:
        return backbone
    import copy

    network = copy.deepcopy(backbone.network).to(device=device, dtype=dtype)
    return Backbone(network, backbone.digest, backbone.known)


@lru_cache(maxsize=2)
@isolated_torch_state()
def load_backbone(model: str, weights: str) -> Backbone:
    """Build a timm network and load its weights (on the CPU, in float32).

    Raises
    ------
    ValueError
        If timm has no such model, or the file does not fit it.
    WeightsNotFoundError
        If no weights were found.
    """
    build = _random if weights.startswith("random:") else _pretrained
    network, source = build(model, weights)
    with_fast_products(network).eval().requires_grad_(False)
    digest = content_digest(network)
    return Backbone(network, digest, _weights.describe(model, digest, source))


def _random(model, weights):
    try:
        seed = int(weights.removeprefix("random:"))
    except ValueError:
        raise ValueError(
            f"weights={weights!r}: expected 'random:SEED' with an integer seed."
        ) from None
    return _create(model, seed), f"random initialisation, {weights}"


class _Unfilled(TorchFunctionMode):
    """Skip the initialisation of weights, which takes as long as reading them."""

    #: Methods of tensors, and functions of torch.nn.init that call them.
    _FILL = frozenset({"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_"}) | {
        *("kaiming_normal_", "kaiming_uniform_", "trunc_normal_", "uniform_"),
        *("ones_", "xavier_normal_", "xavier_uniform_", "zero_", "zeros_"),
    }

    def __torch_function__(self, call, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        fills = getattr(call, "__name__", "") in self._FILL
        if fills and isinstance(target, torch.nn.Parameter):
            return target
        return call(*args, **kwargs)


def _pretrained(model, weights):
    with _Unfilled():  # a file that lacks some of them is refused
        network = _create(model, seed=0)
    found = _weights.find(model, weights)
    problem = _load(network, found.tensors) or _not_finite(network)
    if problem:
        raise ValueError(
            f"The weights in {str(found.path)!r} do not fit model={model!r}: "
            f"{problem} {found.remedy}".rstrip()
        )
    return network, found.source


def _load(network, tensors):
    """Load tensors into a network; return a description of any problem, or "".

    timm's own loader lets missing parameters pass when it drops the classifier, and
    the network would be random in part.
    """
    try:
        module = sys.modules[type(network).__module__]
        translate = getattr(module, "checkpoint_filter_fn", lambda state, _: state)
        missing, other = network.load_state_dict(translate(tensors, network), False)
    except Exception as error:  # other names, other shapes
        return f"{type(error).__name__}: {error}"
    other = [name for name in other if not name.startswith(_NOT_NEEDED)]
    if missing or other:
        return f"it lacks {missing[:3]} and has {other[:3]} besides."
    return ""


def _not_finite(network):
    """Return a message if a tensor of a network is not finite, or ""."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name!r} holds NaN or infinite values."
    return ""


#: Parameters of classifiers and of pretraining, which features do not need.
_NOT_NEEDED = (
    "head",
    "fc.",
    "fc_norm",
    "classifier",
    "pre_logits",
    "mask_token",
    "dist_token",
)


def _create(model, seed):
    if not timm.is_model(model):
        raise ValueError(
            f"model={model!r} is not a timm model; see timm.list_models('vit*'), or "
            "for CNNs timm.list_models('*net*')."
        )
    with seeded(seed):
        try:
            return timm.create_model(model, num_classes=0, dynamic_img_size=True)
        except TypeError:  # only Vision Transformers know that option
            network = timm.create_model(model, num_classes=0)
    if hasattr(network, "pre_logits"):  # of VGG: 120 million weights of a classifier
        network.pre_logits = torch.nn.Identity()
    return network


def content_digest(network) -> str:
    """Return the sha256 over all parameters and buffers of a network."""
    return tensors_digest(network.state_dict())
