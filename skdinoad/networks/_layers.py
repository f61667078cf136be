"""Layers shared by several networks."""

from torch import nn

__all__ = ["convolution"]


def convolution(a, b, stride=1):
    """Return a 3 x 3 convolution from a to b channels, BatchNorm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(b),
        nn.ReLU(inplace=True),
    )
