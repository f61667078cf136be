"""Tokens of the blocks of a Vision Transformer: patches and prefix tokens."""

import inspect

import torch

__all__ = [
    "block_tokens",
    "grid_problem",
    "has_class_token",
    "n_prefix",
    "stacked_tokens",
]


def n_prefix(network) -> int:
    """Return the number of prefix tokens of a network.

    Networks that add the class token behind their blocks (CaiT, XCiT) have none, those
    of timm that keep it to themselves count as if they had none.
    """
    known = inspect.signature(network.forward_intermediates).parameters
    tells = "return_prefix_tokens" in known
    return getattr(network, "num_prefix_tokens", 0) if tells else 0


def block_tokens(network, x, layers, norm):
    """Return the tokens after some blocks, in the order given.

    Parameters
    ----------
    network : torch.nn.Module
    x : Tensor of shape (n, 3, H, W)
    layers : sequence of int
        0-based blocks; the network stops at the last one needed.
    norm : bool
        Whether the final LayerNorm is applied.

    Returns
    -------
    list of (prefix, grid)
        Tensors of shapes (n, p, c), where p may be 0, and (n, c, h, w).
    """
    prefix = {"return_prefix_tokens": True} if n_prefix(network) else {}
    found = network.forward_intermediates(
        x,
        indices=list(layers),
        norm=norm,
        stop_early=True,
        intermediates_only=True,
        **prefix,
    )
    if not prefix:
        found = [(grid, grid.new_empty(len(x), 0, grid.shape[1])) for grid in found]
    # timm returns blocks in the order of the network.
    order = sorted(range(len(layers)), key=lambda i: layers[i])
    return [found[order.index(i)][::-1] for i in range(len(layers))]


def stacked_tokens(found):
    """Return the result of :func:`block_tokens` as one tensor (n, p + h * w, l, c)."""
    (n, p, c), (*_, h, w) = found[0][0].shape, found[0][1].shape
    tokens = found[0][1].new_empty(n, p + h * w, len(found), c)
    for j, (prefix, grid) in enumerate(found):  # copied once, not by cat and stack
        tokens[:, :p, j], tokens[:, p:, j] = prefix, grid.flatten(2).mT
    return tokens


def has_class_token(network) -> bool:
    """Return whether the first prefix token is a class token."""
    return n_prefix(network) > 0 and getattr(network, "cls_token", None) is not None


@torch.inference_mode()
def grid_problem(network, patch_size, grid) -> str:
    """Return why the network does not support a grid of (h, w) patches, or "".

    timm knows of most networks that they take any size; the others are tried, on the
    CPU: some raise an error, some answer with the grid of another size.
    """
    if getattr(network, "dynamic_img_size", False):
        return ""
    x = torch.zeros(1, 3, *[edge * patch_size for edge in grid])
    try:
        found = tuple(block_tokens(network, x, [0], norm=False)[0][1].shape[2:])
    except Exception as error:  # each network has its own
        return str(error).rstrip(".")
    return "" if found == tuple(grid) else f"{grid} patches became {found}"
