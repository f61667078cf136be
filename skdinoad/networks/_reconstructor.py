"""Dinomaly's noisy bottleneck, linear-attention decoder and loose loss.

Guo, Lu, Zhang, Chen, Li, Liao, "Dinomaly: The Less Is More Philosophy in Multi-Class
Unsupervised Anomaly Detection", CVPR 2025, arXiv 2405.14325; official code
github.com/guojiajeremy/Dinomaly (Apache-2.0).

Tensors: b images, g groups of encoder layers, t tokens of which p come before the
patches, c channels, n = t - p patches.
"""

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, dropout, layer_norm

__all__ = [
    "Reconstructor",
    "cosine_distance",
    "rebuild",
    "recentred",
    "reconstruction_loss",
]

#: Channels per attention head, in all ViTs of DINOv2; other widths have one head.
_HEAD = 64


class Reconstructor(nn.Module):
    """Reconstruct groups of encoder features from their noisy mean.

    Parameters
    ----------
    channels : int
        Width c of the features.
    groups : int
        Number g of groups to reconstruct.
    depth : int
        Number of decoder blocks, a multiple of ``groups``.
    dropout : float
        Dropout rate of the bottleneck, in training mode only.
    eps : float
        Prevents division by zero in linear attention. It is 0 in the official code of
        Dinomaly, which gives NaN if all queries of a head are very negative, and 1e-8
        in that of Dinomaly2.
    neck : int
        Width of a linear layer before the bottleneck, as in Dinomaly2; 0 = none.
    """

    def __init__(self, channels, groups, depth, dropout=0.2, eps=1e-6, neck=0):
        super().__init__()
        if depth % groups:
            raise ValueError(
                f"depth={depth} does not divide into {groups} groups of equal size, "
                "one per group of features."
            )
        self.groups = groups
        self.bottleneck = NoisyBottleneck(channels, dropout, neck)
        self.blocks = nn.ModuleList(Block(channels, eps) for _ in range(depth))
        self.apply(_initialise)

    @classmethod
    def like(cls, weights, groups, eps=1e-6):
        """Return a new network with the shapes of weights, a dict of name to array."""
        depth = sum(name.endswith(".qkv.bias") for name in weights)
        neck = len(weights.get("bottleneck.neck.bias", ()))
        channels = len(weights["bottleneck.outer.bias"])
        return cls(channels, groups, depth, eps=eps, neck=neck)

    def forward(self, tokens, valid=None):
        """Return reconstructions (b, g, t, c) from mean tokens (b, t, c).

        The decoder's order is reversed: its last blocks reconstruct the first, shallow
        group. ``valid`` (b, t) masks the tokens that others may attend to.
        """
        x, out = self.bottleneck(tokens), []
        for block in self.blocks:
            x = block(x, valid)
            out.append(x)
        return torch.stack(out[::-1], dim=1).unflatten(1, (self.groups, -1)).mean(2)


class NoisyBottleneck(nn.Module):
    """MLP with dropout before, within and after; no LayerNorm, no residual.

    An optional neck precedes the first dropout.
    """

    def __init__(self, channels, rate, neck=0):
        super().__init__()
        self.rate = rate
        self.neck = nn.Linear(channels, neck) if neck else nn.Identity()
        self.inner = nn.Linear(neck or channels, 4 * channels)
        self.outer = nn.Linear(4 * channels, channels)

    def forward(self, x):
        x = nn.functional.gelu(self.inner(self._noisy(self.neck(x))))
        return self._noisy(self.outer(self._noisy(x)))

    def _noisy(self, x):
        return dropout(x, self.rate, self.training)


class Block(nn.Module):
    """Pre-norm transformer block with linear attention."""

    def __init__(self, channels, eps):
        super().__init__()
        self.heads = 1 if channels % _HEAD else channels // _HEAD
        self.eps = eps
        self.norm1 = nn.LayerNorm(channels, eps=1e-8)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-8)
        self.inner = nn.Linear(channels, 4 * channels)
        self.outer = nn.Linear(4 * channels, channels)

    def forward(self, x, valid=None):
        x = x + self.project(self._attend(self.norm1(x), valid))
        return x + self.outer(nn.functional.gelu(self.inner(self.norm2(x))))

    def _attend(self, x, valid):
        # (b, t, 3, heads, d) -> three (b, heads, t, d)
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return linear_attention(*parts, valid, self.eps).transpose(1, 2).flatten(2)


def linear_attention(q, k, v, valid=None, eps=1e-6):
    """Return softmax-free attention of (b, heads, t, d), linear in t.

    phi(q) (sum phi(k) v^T) / (phi(q) sum phi(k)), phi(a) = elu(a) + 1; computed in
    float32 even under autocast.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = _phi(q.float()), _phi(k.float()), v.float()
        if valid is not None:
            k = k * valid[:, None, :, None]
        scale = q @ k.sum(dim=2)[..., None] + eps
        return q @ (k.transpose(2, 3) @ v) / scale


def _phi(a):
    # elu(a) + 1 rounds to 0 below -17; exp does not.
    return a.clamp(max=0).exp() + a.clamp(min=0)


def _initialise(module):
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
        nn.init.zeros_(module.bias)


def rebuild(network, tokens, valid=None, *, prefix=0, recenter=False, low=False):
    """Return the patch features and their reconstructions.

    Parameters
    ----------
    network : Reconstructor
    tokens : Tensor of shape (b, g, t, c)
    valid : Tensor of shape (b, t), bool, or None
    prefix : int
        Number of tokens before the patches, which are input but not part of the result.
    recenter : bool
        Whether the target features are :func:`recentred`.
    low : bool
        Whether to compute matrix products in bfloat16.

    Returns
    -------
    encoded, decoded : Tensor of shape (b, g, t - prefix, c)
    """
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=low):
        decoded = network(tokens.mean(dim=1), valid).float()
    encoded = recentred(tokens, prefix) if recenter else tokens
    return encoded[:, :, prefix:], decoded[:, :, prefix:]


def recentred(tokens, prefix):
    """Return tokens minus the class token, normalised; the prefix is unchanged.

    Context-aware recentering of Dinomaly2 (arXiv 2510.17611), for targets only.
    """
    patches = tokens[..., prefix:, :] - tokens[..., :1, :]
    patches = layer_norm(patches, patches.shape[-1:], eps=1e-8)
    return torch.cat([tokens[..., :prefix, :], patches], dim=-2)


def cosine_distance(encoded, decoded):
    """Return 1 - cosine along the channels of (..., c): 0 = equal, 2 = opposite."""
    return 1 - cosine_similarity(encoded, decoded, dim=-1)


def reconstruction_loss(encoded, decoded, valid=None, share=0.0, factor=0.1):
    """Return Dinomaly's loose loss: a global cosine with damped easy patches.

    Parameters
    ----------
    encoded, decoded : Tensor of shape (b, g, n, c)
    valid : Tensor of shape (b, n), bool, or None
        Patches to use.
    share : float
        Share of easy patches, those with the best reconstruction in the whole batch,
        per group.
    factor : float
        Factor for the gradients of easy patches. It does not affect the value of the
        loss.

    Returns
    -------
    Tensor, scalar
        Mean over groups and images of 1 - cos over all entries of an image.
    """
    if valid is None:
        valid = encoded.new_ones(encoded[:, 0, :, 0].shape, dtype=torch.bool)
    encoded = encoded.detach()
    if share > 0:
        hard = _hard(cosine_distance(encoded, decoded.detach()), valid, share)
        decoded = torch.where(hard, decoded, damped(decoded, factor))
    counts = valid[:, None, :, None]
    parts = [(x * counts).flatten(2) for x in (encoded, decoded)]
    return cosine_distance(*parts).mean()


def damped(x, factor):
    """Return x with its gradient multiplied by a factor."""
    return factor * x + (1 - factor) * x.detach()


def _hard(distance, valid, share):
    """Return a mask (b, g, n, 1) of the hardest patches of the batch."""
    count = max(1, int(int(valid.sum()) * (1 - share)))
    flat = distance.masked_fill(~valid[:, None], -1).transpose(0, 1).flatten(1)
    threshold = flat.topk(count, dim=1).values[:, -1]
    return (distance >= threshold[:, None])[..., None]
