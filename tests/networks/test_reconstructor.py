"""Each fact about Dinomaly's network and loss that decides its accuracy."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from skdinoad._compat.torch import seeded
from skdinoad.networks import (
    Reconstructor,
    cosine_distance,
    recentred,
    reconstruction_loss,
)
from skdinoad.networks._reconstructor import _hard, linear_attention


def make(channels=128, groups=2, depth=4, **parameters):
    with seeded(0):
        network = Reconstructor(channels, groups, depth, **parameters)
        for weight in network.parameters():  # far from the tiny start, where all is 0
            nn.init.normal_(weight, std=0.2)
    return network.eval()


def test_size_is_the_papers():
    count = sum(p.numel() for p in Reconstructor(384, 2, 8).parameters())
    assert count == 15_377_280


def test_initial_weights_are_the_official_ones():
    with seeded(0):
        network = Reconstructor(384, 2, 2)
    for name, weight in network.named_parameters():
        if "norm" in name:
            assert (weight == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert (weight == 0).all()
        else:
            assert weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert weight.abs().max() <= 0.03


class Add(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x, valid=None):
        return x + self.number


def test_last_decoder_blocks_rebuild_the_first_group():
    network = make(groups=2, depth=4)
    network.bottleneck = nn.Identity()
    network.blocks = nn.ModuleList(Add(10**k) for k in range(4))
    out = network(torch.zeros(1, 3, 128))
    # The blocks give 1, 11, 111, 1111: the shallow group takes the last two.
    assert out[0, 0].unique().tolist() == [(111 + 1111) / 2]
    assert out[0, 1].unique().tolist() == [(1 + 11) / 2]


def test_bottleneck_drops_out_three_times_in_training_only():
    rate, n = 0.5, 200
    bottleneck = make(channels=64, dropout=rate).bottleneck.train()
    seen = []
    bottleneck.inner.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    bottleneck.outer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with seeded(0):
        seen.append(bottleneck(torch.ones(1, n, 64)))
    for x in seen:
        assert (x == 0).float().mean().item() == pytest.approx(rate, abs=0.02)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}  # scaled up, per element
    bottleneck.eval()
    assert (bottleneck(torch.ones(1, n, 64)) != 0).all()


def test_a_neck_stands_before_the_first_dropout():
    bottleneck = make(channels=64, dropout=0.5, neck=16).bottleneck.train()
    seen = []
    bottleneck.neck.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    bottleneck.inner.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    x = torch.ones(1, 50, 64)
    assert bottleneck(x).shape == x.shape
    assert (seen[0] == 1).all()
    assert seen[1].shape == (1, 50, 16)
    assert (seen[1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_a_network_like_weights_has_their_neck():
    weights = make(neck=16).state_dict()
    other = Reconstructor.like(weights, groups=2)
    other.load_state_dict(weights)
    assert other.bottleneck.neck.out_features == 16


def test_forward_equals_a_literal_oracle():
    network, tokens = make(), torch.randn(2, 7, 128, generator=_generator())
    state = {k: v.numpy().astype(float) for k, v in network.state_dict().items()}

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def gelu(x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def normed(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-8)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def phi(x):
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))

    def attention(x):
        out = np.empty_like(x)
        for head in (slice(0, 64), slice(64, 128)):
            q, k, v = (part[:, head] for part in np.split(x_qkv(x), 3, axis=1))
            weights = phi(q) @ phi(k).T
            out[:, head] = weights / weights.sum(1, keepdims=True) @ v
        return out

    for image in range(2):
        x = tokens[image].numpy().astype(float)
        x, outputs = linear(gelu(linear(x, "bottleneck.inner")), "bottleneck.outer"), []
        for j in range(4):

            def x_qkv(x, j=j):
                return linear(x, f"blocks.{j}.qkv")

            x = x + linear(
                attention(normed(x, f"blocks.{j}.norm1")), f"blocks.{j}.project"
            )
            y = gelu(linear(normed(x, f"blocks.{j}.norm2"), f"blocks.{j}.inner"))
            x = x + linear(y, f"blocks.{j}.outer")
            outputs.append(x)
        expected = [(outputs[3] + outputs[2]) / 2, (outputs[1] + outputs[0]) / 2]
        with torch.no_grad():
            out = network(tokens)[image].numpy()
        np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)


def _generator():
    return torch.Generator().manual_seed(0)


def qkv(t=9, d=64):
    return torch.randn(3, 2, 1, t, d, generator=_generator())


def test_linear_attention_equals_its_quadratic_form():
    q, k, v = qkv()
    positive = [torch.nn.functional.elu(x.double()) + 1 for x in (q, k)]
    weights = positive[0] @ positive[1].transpose(2, 3)
    expected = (weights / weights.sum(3, keepdim=True)) @ v.double()
    torch.testing.assert_close(
        linear_attention(q, k, v).double(), expected, rtol=1e-4, atol=1e-5
    )


def test_linear_attention_of_equal_values_returns_them():
    q, k, _ = qkv()
    v = torch.full_like(q, 3.0)
    torch.testing.assert_close(linear_attention(q, k, v), v, rtol=1e-5, atol=0)


@pytest.mark.parametrize("low", [-20.0, -50.0, -1e4])
def test_linear_attention_survives_very_negative_queries(low):
    _, k, v = qkv()
    q = torch.full_like(k, low, requires_grad=True)
    out = linear_attention(q, k.requires_grad_(), v)
    out.sum().backward()
    assert out.isfinite().all()
    assert q.grad.isfinite().all()


def test_attention_is_summed_in_float32_under_autocast():
    q, k, v = qkv(t=500)
    exact = linear_attention(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear_attention(q, k, v)
    assert out.dtype == torch.float32
    assert torch.equal(out, exact)


def test_norms_divide_by_hardly_more_than_the_variance():
    network = Reconstructor(64, 2, 2)
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 4
    assert {norm.eps for norm in norms} == {1e-8}


def test_nobody_looks_at_invalid_tokens():
    network, tokens = make(), torch.randn(1, 6, 128, generator=_generator())
    valid = torch.tensor([[True, True, False, True, True, False]])
    with torch.no_grad():
        masked, without = network(tokens, valid), network(tokens[:, valid[0]])
    torch.testing.assert_close(masked[:, :, valid[0]], without, rtol=1e-4, atol=1e-4)


def test_recentred_is_layer_norm_of_patches_minus_class_token():
    tokens = torch.randn(2, 2, 6, 8, generator=_generator())
    out = recentred(tokens, prefix=2)
    x = (tokens[..., 2:, :] - tokens[..., :1, :]).numpy()
    expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(out[..., 2:, :], expected, atol=1e-5)
    assert torch.equal(out[..., :2, :], tokens[..., :2, :])


def test_weights_tell_the_shape_of_their_network():
    network = make(channels=128, groups=2, depth=6)
    again = Reconstructor.like(network.state_dict(), groups=2)
    again.load_state_dict(network.state_dict())
    tokens = torch.randn(1, 4, 128, generator=_generator())
    assert torch.equal(again.eval()(tokens), network(tokens))


def test_depth_must_divide_into_groups():
    with pytest.raises(ValueError, match="depth=3 does not divide into 2 groups"):
        Reconstructor(64, 2, 3)


# -- the loss -----------------------------------------------------------------------


def pair(b=3, g=2, n=10, c=5):
    encoded, decoded = torch.randn(2, b, g, n, c, generator=_generator())
    return encoded, decoded.requires_grad_()


def test_loss_is_the_cosine_of_whole_images():
    encoded, decoded = pair()
    x, y = (part.detach().numpy().reshape(3, 2, -1) for part in (encoded, decoded))
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    loss = reconstruction_loss(encoded, decoded)
    assert loss.item() == pytest.approx(1 - cosine.mean(), rel=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_mining_changes_gradients_of_easy_patches_only_and_never_the_value(share):
    encoded, decoded = pair()
    plain = reconstruction_loss(encoded, decoded)
    (full,) = torch.autograd.grad(plain, decoded)
    mined = reconstruction_loss(encoded, decoded, share=share, factor=0.1)
    (part,) = torch.autograd.grad(mined, decoded)
    assert mined.item() == pytest.approx(plain.item(), rel=1e-6)
    ratio = (part / full).mean(-1)  # (b, g, n)
    distance = cosine_distance(encoded, decoded.detach())
    count = int(30 * (1 - share))
    for g in range(2):  # per group, over the whole batch
        order = distance[:, g].flatten().argsort(descending=True)
        expected = torch.full((30,), 0.1)
        expected[order[:count]] = 1.0
        torch.testing.assert_close(ratio[:, g].flatten(), expected, rtol=1e-3, atol=0)


def test_without_a_share_gradients_are_untouched():
    encoded, decoded = pair()
    one = torch.autograd.grad(reconstruction_loss(encoded, decoded), decoded)[0]
    two = reconstruction_loss(encoded, decoded, share=0.0, factor=0.1)
    assert torch.equal(one, torch.autograd.grad(two, decoded)[0])


def test_mining_keeps_one_patch_where_the_share_would_leave_none():
    hard = _hard(torch.rand(1, 1, 5, generator=_generator()), torch.ones(1, 5) > 0, 0.9)
    assert hard.sum() == 1


def test_encoder_features_get_no_gradient():
    encoded, decoded = pair()
    encoded.requires_grad_()
    reconstruction_loss(encoded, decoded, share=0.5).backward()
    assert encoded.grad is None


def test_invalid_patches_do_not_count():
    encoded, decoded = pair(b=1)
    valid = torch.ones(1, 10, dtype=torch.bool)
    valid[0, 7:] = False
    loss = reconstruction_loss(encoded, decoded, valid, share=0.5)
    short = reconstruction_loss(encoded[:, :, :7], decoded[:, :, :7], share=0.5)
    assert loss.item() == pytest.approx(short.item(), rel=1e-6)
    loss.backward()
    assert (decoded.grad[:, :, 7:] == 0).all()
