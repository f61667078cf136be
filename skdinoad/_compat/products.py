"""Fast products of float32 matrices on processors of all vendors.

torch multiplies float32 matrices with Intel's MKL, which does not use the widest
instructions of other vendors' processors. oneDNN, which torch includes for
convolutions, uses them; ``benchmarks/speed/latency.py`` compares both.
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
        Activation, which oneDNN applies while the result is in the cache.

    Returns
    -------
    y : Tensor of shape (..., n)
        Equal to torch's result up to rounding. With oneDNN on a few cores, the result
        of a row does not depend on the number of rows.
    """
    if not _by_onednn(x, weight, bias):
        y = _linear(x, weight, bias)
        return gelu(y) if activation == "gelu" else y
    if x.numel() == x.shape[-1]:  # a single row is summed in another order
        return linear(x.expand(2, *x.shape), weight, bias, activation)[0]
    # Non-contiguous weights, such as one layer of a bank, have no fast kernel.
    x, weight = x.contiguous(), weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


class Linear(torch.nn.Linear):
    """torch's linear layer, computed by :func:`linear`."""

    activation = "none"

    def forward(self, x):
        return linear(x, self.weight, self.bias, self.activation)


class GeluLinear(Linear):
    """A linear layer fused with the GELU that follows it."""

    activation = "gelu"


class DoneBefore(torch.nn.GELU):
    """Placeholder for a GELU that was fused with the previous layer."""

    def forward(self, x):
        return x


def with_fast_products(network):
    """Make a network's linear layers use :func:`linear`; return the network."""
    for module in network.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = Linear
    for module in network.modules():
        if type(module) is timm.layers.Mlp and _can_join(module.fc1, module.act):
            module.fc1.__class__, module.act.__class__ = GeluLinear, DoneBefore
    return network


def _can_join(layer, activation):
    """Whether oneDNN can fuse a layer and its activation."""
    exact = getattr(activation, "approximate", None) == "none"
    return type(layer) is Linear and type(activation) is torch.nn.GELU and exact


def _by_onednn(*parts):
    """Whether to use oneDNN, which supports neither gradients nor compilation here."""
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
    """Whether MKL is slow: a processor of another vendor, and torch has oneDNN."""
    backends = torch.backends
    able = backends.mkl.is_available() and backends.mkldnn.is_available()
    return able and "GenuineIntel" not in _processor()


def _processor() -> str:
    """Return the system's description of the processor, with its vendor."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    return cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
