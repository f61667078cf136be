"""Convert weights of the official checkpoints to the names of our networks.

The checkpoints are files written by ``torch.save`` in github.com/FlappyPeggy/DMAD and
github.com/guojiajeremy/Dinomaly.
"""

import re

import torch

__all__ = ["dinomaly_weights", "dmad_weights"]

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

#: Official names, as patterns, and ours. Numbers in \1 are those found.
_DINOMALY = [
    (r"bottleneck\.0\.fc1\.(.*)", r"bottleneck.inner.\1"),
    (r"bottleneck\.0\.fc2\.(.*)", r"bottleneck.outer.\1"),
    # Dinomaly2: a linear layer, then one MLP with dropout.
    (r"bottleneck\.0\.0\.(.*)", r"bottleneck.neck.\1"),
    (r"bottleneck\.1\.0\.(.*)", r"bottleneck.inner.\1"),
    (r"bottleneck\.1\.3\.(.*)", r"bottleneck.outer.\1"),
    (r"decoder\.(\d+)\.(norm[12])\.(.*)", r"blocks.\1.\2.\3"),
    (r"decoder\.(\d+)\.attn\.qkv\.(.*)", r"blocks.\1.qkv.\2"),
    (r"decoder\.(\d+)\.attn\.proj\.(.*)", r"blocks.\1.project.\2"),
    (r"decoder\.(\d+)\.mlp\.fc1\.(.*)", r"blocks.\1.inner.\2"),
    (r"decoder\.(\d+)\.mlp\.fc2\.(.*)", r"blocks.\1.outer.\2"),
]

#: Parts of a bottleneck block.
_BLOCK = {
    "conv1": "body.0",
    "bn1": "body.1",
    "conv2": "body.3.0",
    "bn2": "body.3.1",
    "conv3": "body.4",
    "bn3": "body.5",
    "downsample": "shortcut",
    "upsample": "shortcut",
}

#: The reductions, with prototypes and without: (convolution, its norm), ours.
_WITH = [
    ("conv1_r", "bn1_r", "0.0"),
    ("conv1", "bn1", "0.1"),
    ("conv2", "bn2", "0.2"),
    ("conv2_r", "bn2_r", "1.0"),
    ("conv3", "bn3", "1.1"),
    ("conv3_r", "bn3_r", "2.0"),
]
_WITHOUT = [("conv1", "bn1", "0.0"), ("conv2", "bn2", "0.1"), ("conv3", "bn3", "1.0")]

#: The offset heads, and the number of convolutions before their last one.
_HEADS = [
    ("conv_offset4", "forth.0", 3),
    ("conv_offset3", "forth.1", 1),
    ("conv_offset4_", "back.0", 3),
    ("conv_offset3_", "back.1", 1),
]


def dinomaly_weights(tensors) -> dict:
    """Return the weights of a Reconstructor from an official state dict.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Weights of the whole model of Dinomaly or Dinomaly2; those of the encoder are
        ignored.

    Returns
    -------
    dict of str to Tensor
        With "bottleneck.neck" if they are Dinomaly2's.

    Raises
    ------
    ValueError
        If it holds no decoder.
    """
    out = {}
    for name, value in tensors.items():
        name = name.removeprefix("module.")
        for pattern, ours in _DINOMALY:
            if found := re.fullmatch(pattern, name):
                out[found.expand(ours)] = value
    if "bottleneck.inner.weight" not in out:
        raise ValueError(_not_official("Dinomaly", "bottleneck.0.fc1.weight", tensors))
    return out


def dmad_weights(parts) -> dict:
    """Return the weights of a MovingStudent from an official checkpoint.

    Parameters
    ----------
    parts : dict of str to dict of str to Tensor
        "offset", "bn" and "decoder", of the image model ("I", with prototypes) or the
        pixel model ("P", without prototypes).

    Raises
    ------
    ValueError
        If a part is missing.
    """
    missing = {"offset", "bn", "decoder"} - set(parts)
    if missing:
        raise ValueError(_not_official("DMAD", ", ".join(sorted(missing)), parts))
    out = {}
    _offset(parts["offset"], out)
    _bottleneck(parts["bn"], out)
    for stage, level in ((1, 2), (2, 1), (3, 0)):
        _stage(parts["decoder"], f"layer{stage}", f"distiller.rebuild.{level}", out)
    return out


def _not_official(method, lacking, found):
    return (
        f"This is not a checkpoint of the official {method}: it lacks {lacking}; it "
        f"holds {list(found)[:5]}."
    )


def _offset(given, out):
    # The first two convolutions contain another one that is never used.
    for i, k in ((0, 0), (3, 1)):
        enter = f"deformer.enter.{k}.conv"
        out[f"{enter}.0.weight"] = given[f"conv_offset1.{i}.conv.weight"]
        _norm(given, f"conv_offset1.{i + 1}", f"{enter}.1", out)
    trunk = "conv_offset2.0.convs"
    _pair(
        given,
        f"{trunk}.1",
        f"{trunk}.2",
        "deformer.residual.1,deformer.residual.2",
        out,
    )
    _pair(
        given, f"{trunk}.4", "conv_offset2.1", "deformer.residual.4,deformer.norm", out
    )
    for theirs, ours, n in _HEADS:
        for j in range(n):
            names = f"deformer.{ours}.{j}.0,deformer.{ours}.{j}.1"
            _pair(given, f"{theirs}.{3 * j}", f"{theirs}.{3 * j + 1}", names, out)
        for kind in ("weight", "bias"):
            out[f"deformer.{ours}.{n}.{kind}"] = given[f"{theirs}.{3 * n}.{kind}"]


def _bottleneck(given, out):
    codes = given.get("vq3.embedding.weight")
    if codes is not None:
        out["distiller.codebook.codes"] = codes
        out["distiller.codebook.idle"] = torch.zeros(len(codes))
    for convolution, norm, ours in _WITHOUT if codes is None else _WITH:
        names = f"distiller.reduce.{ours}.0,distiller.reduce.{ours}.1"
        _pair(given, convolution, norm, names, out)
    _blocks(given, "bn_layer", lambda k: f"distiller.squeeze.{k}", out)
    for i, channels in enumerate((256, 512, 1024)):
        out[f"distiller.scale{i}"] = torch.ones(channels, 1, 1)


def _stage(given, theirs, ours, out):
    def place(k):
        return f"{ours}.blocks.{k - 1}" if k else f"{ours}.enlarge"

    _blocks(given, theirs, place, out)


def _blocks(given, theirs, place, out):
    for name, value in given.items():
        if found := re.fullmatch(rf"{theirs}\.(\d+)\.([a-z]+\d?)\.(.*)", name):
            k, part, rest = found.groups()
            out[f"{place(int(k))}.{_BLOCK[part]}.{rest}"] = value


def _pair(given, convolution, norm, names, out):
    """Copy a convolution and the following BatchNorm; ours has no bias.

    A bias before a BatchNorm only shifts its running mean.
    """
    ours, ours_norm = names.split(",")
    out[f"{ours}.weight"] = given[f"{convolution}.weight"]
    _norm(given, norm, ours_norm, out)
    bias = given.get(f"{convolution}.bias")
    if bias is not None:
        mean = f"{ours_norm}.running_mean"
        out[mean] = out[mean] - bias


def _norm(given, theirs, ours, out):
    for kind in _NORM:
        if f"{theirs}.{kind}" in given:
            out[f"{ours}.{kind}"] = given[f"{theirs}.{kind}"]
