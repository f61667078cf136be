"""Products of float32 matrices, fast on processors of every maker.

torch multiplies float32 matrices by Intel's MKL, which keeps the widest instructions of
other makers' processors unused. oneDNN, which torch brings along for convolutions,
uses them; ``benchmarks/latency.py`` times a network by both.
"""

import platform
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn.functional import linear as _linear

__all__ = ["Linear", "linear", "with_fast_products"]


def linear(x, weight, bias=None):
    """Return x @ weight.T + bias; see :func:`torch.nn.functional.linear`.

    Parameters
    ----------
    x : Tensor of shape (..., k)
    weight : Tensor of shape (n, k)
    bias : Tensor of shape (n,), optional

    Returns
    -------
    y : Tensor of shape (..., n)
        Equal to torch's up to rounding. By oneDNN, on a few cores, no row's result
        depends on how many there are.
    """
    if not _by_onednn(x, weight, bias):
        return _linear(x, weight, bias)
    if x.numel() == x.shape[-1]:  # a row alone would be summed in another order
        return linear(x.expand(2, *x.shape), weight, bias)[0]
    # Weights with gaps between rows, a layer of a bank, have no fast kernel.
    x, weight = x.contiguous(), weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class Linear(torch.nn.Linear):
    """torch's layer, by :func:`linear`."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)


def with_fast_products(network):
    """Let a network's linear layers multiply by :func:`linear`; return the network."""
    for module in network.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = Linear
    return network


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
