"""Products by oneDNN equal torch's up to rounding, and are used only where allowed."""

import copy

import pytest
import torch
from torch.nn import functional

from skdinoad._compat import products
from skdinoad._compat.products import Linear, linear, with_fast_products
from skdinoad._compat.timm import timm

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available(),
    reason="This torch has no oneDNN, or no MKL to replace.",
)


@pytest.fixture
def maker(monkeypatch):
    """Return a function that sets the processor's vendor for one test."""

    def pretend(name):
        monkeypatch.setattr(products, "_processor", lambda: f"vendor_id : {name}")
        products._mkl_holds_back.cache_clear()

    yield pretend
    products._mkl_holds_back.cache_clear()


@pytest.fixture
def onednn(monkeypatch):
    """Count the products computed by oneDNN."""
    calls, found = [], torch.ops.mkldnn._linear_pointwise

    def counted(*args):
        calls.append(args)
        return found(*args)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return calls


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["AuthenticAMD", "GenuineIntel"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    "x",
    [
        pytest.param(values(5, 7), id="rows"),
        pytest.param(values(1, 7), id="one"),
        pytest.param(values(3, 5, 7), id="batch"),
        pytest.param(values(0, 7), id="none"),
        pytest.param(values(7, 5).T, id="turned"),
        pytest.param(values(5, 4, 7)[:, 1], id="a layer"),
        pytest.param(values(5, 14)[:, ::2], id="every second"),
    ],
)
def test_products_are_those_of_float64(maker, name, with_bias, x):
    maker(name)
    weight, bias = values(6, 7, seed=1), values(6, seed=2) if with_bias else None
    wide = (part.double() for part in (x, weight, bias) if part is not None)
    torch.testing.assert_close(
        linear(x, weight, bias).double(),
        functional.linear(*wide),
        rtol=1e-5,
        atol=1e-5,
    )


@needs_onednn
@pytest.mark.parametrize(("name", "n"), [("AuthenticAMD", 1), ("GenuineIntel", 0)])
def test_only_where_mkl_holds_back(maker, onednn, name, n):
    maker(name)
    linear(values(5, 7), values(6, 7))
    assert len(onednn) == n


@needs_onednn
def test_rows_do_not_depend_on_each_other(maker):
    maker("AuthenticAMD")
    x, weight = values(300, 64), values(96, 64, seed=1)
    whole = linear(x, weight)
    for n in (1, 7, 257):
        assert torch.equal(linear(x[:n], weight), whole[:n])


@needs_onednn
def test_what_onednn_gets_has_no_gaps(maker, onednn):
    # For weights with gaps oneDNN is far slower than torch.
    maker("AuthenticAMD")
    linear(values(5, 3, 4)[:, 1], values(6, 3, 4)[:, 1])
    linear(values(5, 4), values(4, 6).T)
    assert all(part.is_contiguous() for x, weight, *_ in onednn for part in (x, weight))


def test_infinite_biases_stay(maker):
    # Bank vectors that must never be a neighbour have an infinite norm.
    maker("AuthenticAMD")
    bias = torch.tensor([0.0, torch.inf])
    assert linear(values(3, 4), values(2, 4), bias)[:, 1].isinf().all()


def test_it_learns_as_torch_does(maker):
    maker("AuthenticAMD")
    layer = with_fast_products(torch.nn.Sequential(torch.nn.Linear(4, 2)))
    layer(values(3, 4)).sum().backward()
    expected = values(3, 4).sum(0).expand(2, 4)
    torch.testing.assert_close(layer[0].weight.grad, expected)


@needs_onednn
def test_a_bias_learns(maker):
    maker("AuthenticAMD")
    bias = values(2).requires_grad_()
    linear(values(3, 4), values(2, 4), bias).sum().backward()
    assert bias.grad.tolist() == [3, 3]


@needs_onednn
def test_who_turns_onednn_off_gets_torchs(maker, onednn, monkeypatch):
    maker("AuthenticAMD")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    linear(values(3, 4), values(2, 4))
    assert not onednn


@needs_onednn
def test_other_dtypes_and_casts_are_torchs(maker, onednn):
    maker("AuthenticAMD")
    x, weight = values(3, 4), values(2, 4)
    assert linear(x.double(), weight.double()).dtype is torch.float64
    assert linear(x.bfloat16(), weight.bfloat16()).dtype is torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype is torch.bfloat16
    assert not onednn


def test_a_network_keeps_its_weights_and_can_be_copied_and_exported(maker):
    maker("AuthenticAMD")
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    network.requires_grad_(False)
    before, x = copy.deepcopy(network), values(2, 4)
    copied = copy.deepcopy(with_fast_products(network))
    assert type(copied[0]) is Linear
    assert copied.state_dict().keys() == before.state_dict().keys()
    torch.testing.assert_close(copied(x), before(x))
    program = torch.export.export(copied, (x,))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


def test_subclasses_with_a_forward_of_their_own_keep_it():
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    network = with_fast_products(torch.nn.Sequential(Doubled(2, 2)))
    assert type(network[0]) is Doubled


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return timm.layers.Mlp(4, 6).requires_grad_(False)


@needs_onednn
@pytest.mark.parametrize("n", [1, 5])
def test_gelu_is_done_with_the_product_before_it(maker, onednn, mlp, n):
    maker("AuthenticAMD")
    x, expected = values(n, 4), copy.deepcopy(mlp).double()(values(n, 4).double())
    torch.testing.assert_close(with_fast_products(mlp)(x).double(), expected)
    assert [args[3] for args in onednn] == ["gelu", "none"]


@pytest.mark.parametrize("name", ["AuthenticAMD", "GenuineIntel"])
def test_gelu_stays_where_torch_multiplies(maker, mlp, name):
    maker(name)
    before, x = copy.deepcopy(mlp), values(5, 4)
    fast = with_fast_products(mlp)
    assert fast.state_dict().keys() == before.state_dict().keys()
    for dtype in (torch.float64, torch.bfloat16):
        expected = before.to(dtype)(x.to(dtype))
        assert torch.equal(fast.to(dtype)(x.to(dtype)), expected)
    for network in (fast.float(), before.float()):
        network.requires_grad_(True)(x).sum().backward()
    torch.testing.assert_close(fast.fc1.weight.grad, before.fc1.weight.grad)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(timm.layers.GluMlp(4, 6), id="gated"),
        pytest.param(timm.layers.Mlp(4, 6, use_conv=True), id="convolutions"),
        pytest.param(timm.layers.Mlp(4, 6, act_layer=torch.nn.ReLU), id="relu"),
        pytest.param(timm.layers.Mlp(4, 6, act_layer=timm.layers.GELUTanh), id="tanh"),
        pytest.param(
            timm.layers.Mlp(4, 6, act_layer=lambda: torch.nn.GELU("tanh")), id="as tanh"
        ),
    ],
)
def test_other_activations_stay_where_they_are(maker, layer):
    maker("AuthenticAMD")
    layer.requires_grad_(False)
    x = values(1, 4, 5, 5) if layer.fc1.weight.dim() == 4 else values(5, 4)
    kind, expected = type(layer.act), layer(x)
    torch.testing.assert_close(with_fast_products(layer)(x), expected)
    assert type(layer.act) is kind
