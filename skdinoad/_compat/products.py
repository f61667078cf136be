"""Products of float32 matrices, fast on processors of every maker.

torch multiplies float32 matrices by Intel's MKL, which keeps the widest instructions of
other makers' processors unused. oneDNN, which torch brings along for convolutions,
uses them; ``benchmarks/latency.py`` times a network by both.
"""

import platform
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn.functional import gelu
from torch.nn.functional import linear as _linear

from skdinoad._compat.timm import timm

__all__ = ["DoneBefore", "GeluLinear", "Linear", "linear", "with_fast_products"]


def linear(x, weight, bias=None, activation="none"):
    """Return x @ weight.T + bias; see :func:`torch.nn.functional.linear`.

    Parameters
    ----------
    x : Tensor of shape (..., k)
    weight : Tensor of shape (n, k)
    bias : Tensor of shape (n,), optional
    activation : {"none", "gelu"}
        What follows; oneDNN does it before a sum has left the cache.

    Returns
    -------
    y : Tensor of shape (..., n)
        Equal to torch's up to rounding. By oneDNN, on a few cores, no row's result
        depends on how many there are.
    """
    if not _by_onednn(x, weight, bias):
        y = _linear(x, weight, bias)
        return gelu(y) if activation == "gelu" else y
    if x.numel() == x.shape[-1]:  # a row alone would be summed in another order
        return linear(x.expand(2, *x.shape), weight, bias, activation)[0]
    # Weights with gaps between rows, a layer of a bank, have no fast kernel.
    x, weight = x.contiguous(), weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


class Linear(torch.nn.Linear):
    """torch's layer, by :func:`linear`."""

    activation = "none"

    def forward(self, x):
        return linear(x, self.weight, self.bias, self.activation)


class GeluLinear(Linear):
    """A layer and the GELU that follows it."""

    activation = "gelu"


class DoneBefore(torch.nn.GELU):
    """The GELU that a layer before it has done."""

    def forward(self, x):
        return x


def with_fast_products(network):
    """Let a network's linear layers multiply by :func:`linear`; return the network."""
    for module in network.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = Linear
    for module in network.modules():
        if type(module) is timm.layers.Mlp and _can_join(module.fc1, module.act):
            module.fc1.__class__, module.act.__class__ = GeluLinear, DoneBefore
    return network


def _can_join(layer, activation):
    """Whether oneDNN knows a layer and what follows it."""
    exact = getattr(activation, "approximate", None) == "none"
    return type(layer) is Linear and type(activation) is torch.nn.GELU and exact


def _by_onednn(*parts):
    """Whether a product goes to oneDNN, which neither learns nor is compiled."""
    parts = [part for part in parts if part is not None]
    learns = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (
        _mkl_holds_back()
        and torch.backends.mkldnn.enabled
        and all(part.device.type == "cpu" for part in parts)
        and all(part.dtype is torch.float32 for part in parts)
        and parts[0].numel() > 0
        and not (learns or traced or torch.is_autocast_enabled("cpu"))
    )


@lru_cache
def _mkl_holds_back() -> bool:
    """Whether the processor is not Intel's, and torch has MKL and oneDNN."""
    backends = torch.backends
    able = backends.mkl.is_available() and backends.mkldnn.is_available()
    return able and "GenuineIntel" not in _processor()


def _processor() -> str:
    """Return what the system says of the processor, its maker among it."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    return cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
