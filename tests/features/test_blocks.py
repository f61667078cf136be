import pytest
import torch

from skdinoad.features._backbones import load_backbone
from skdinoad.features._blocks import (
    block_tokens,
    grid_problem,
    has_class_token,
    n_prefix,
    stacked_tokens,
)


def network(model):
    return load_backbone(model, "random:0").network


@pytest.mark.parametrize(
    ("model", "n", "classes"),
    [
        ("test_vit", 1, True),
        ("test_vit2", 1, False),  # only a register
        ("deit_tiny_distilled_patch16_224", 2, True),
        ("vit_tiny_patch16_dinov3_qkvb", 5, True),
        ("test_vit_relpos", 0, False),
        ("xcit_nano_12_p8_224", 0, False),  # added after the blocks
        ("convit_tiny", 0, False),
    ],
)
@pytest.mark.usefixtures("_in_this_timm")
def test_tokens_before_the_patches(model, n, classes):
    assert (n_prefix(network(model)), has_class_token(network(model))) == (n, classes)


@pytest.mark.parametrize("model", ["test_vit", "xcit_nano_12_p8_224"])
def test_blocks_come_in_the_order_asked(model):
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        single = [block_tokens(network(model), x, [i], False)[0] for i in (4, 0, 2)]
        found = block_tokens(network(model), x, [4, 0, 2], norm=False)
    for one, other in zip(single, found):
        assert all(torch.equal(a, b) for a, b in zip(one, other))
    prefix, grid = found[0]
    assert prefix.shape[:2] == (2, n_prefix(network(model)))
    assert prefix.shape[2] == grid.shape[1]


def test_gradients_pass_through_blocks():
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    block_tokens(network("test_vit"), x, [1], norm=False)[0][1].sum().backward()
    assert (x.grad != 0).any()


@pytest.mark.parametrize(
    ("model", "grid", "words"),
    [
        ("test_vit", (2, 3), ""),
        ("xcit_nano_12_p8_224", (2, 3), ""),
        ("test_vit_relpos", (2, 3), "doesn't match"),
        ("test_vit_relpos", (10, 10), ""),
    ],
)
@pytest.mark.usefixtures("_in_this_timm")
def test_what_sizes_a_network_takes(model, grid, words):
    patch = load_backbone(model, "random:0").patch_size
    problem = grid_problem(network(model), patch, grid)
    assert words in problem
    assert bool(words) == bool(problem)


def test_answer_of_another_size_is_a_problem(monkeypatch):
    other = torch.zeros(1, 64, 10, 10)
    monkeypatch.setattr(network("test_vit"), "dynamic_img_size", False)
    monkeypatch.setattr(
        network("test_vit"),
        "forward_intermediates",
        lambda x, return_prefix_tokens, **_: [(other, torch.zeros(1, 1, 64))],
    )
    assert "(10, 10)" in grid_problem(network("test_vit"), 16, (2, 3))


@pytest.mark.parametrize("model", ["test_vit", "xcit_nano_12_p8_224"])
def test_stacked_tokens_are_those_of_the_blocks(model):
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        blocks = block_tokens(network(model), x, [3, 1], False)
        found = stacked_tokens(blocks)
    for j, (prefix, grid) in enumerate(blocks):
        p = prefix.shape[1]
        assert torch.equal(found[:, :p, j], prefix)
        assert torch.equal(found[:, p:, j].mT.reshape(grid.shape), grid)
