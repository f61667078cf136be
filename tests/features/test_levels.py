import numpy as np
import pytest
import torch

from skdinoad.features._backbones import load_backbone
from skdinoad.features._levels import (
    _resampling,
    cell_shifts,
    level_maps,
    level_strides,
    on_grid,
)


def network(model):
    return load_backbone(model, "random:0").network


@pytest.fixture(scope="module")
def vgg():
    """Return a VGG11 with a sixteenth of the channels."""
    from timm.models.vgg import VGG

    torch.manual_seed(0)
    cfg = [4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"]
    return VGG(cfg, num_classes=0).eval().requires_grad_(False)


def test_strides():
    assert level_strides(network("test_efficientnet")) == (2, 4, 8, 16, 32)
    assert level_strides(network("test_convnext")) == (4, 8, 16, 32)


def test_maps_are_timms_in_the_order_asked():
    net, x = network("test_resnet"), torch.randn(2, 3, 64, 96)
    expected = net.forward_intermediates(x, intermediates_only=True)
    found = level_maps(net, x, (3, 1))
    assert torch.equal(found[0], expected[3])
    assert torch.equal(found[1], expected[1])


def test_network_stops_at_the_deepest_level():
    net, ran = network("test_efficientnet"), []
    hook = net.blocks[-1].register_forward_hook(lambda *_: ran.append(1))
    level_maps(net, torch.zeros(1, 3, 64, 64), (1, 2))
    hook.remove()
    assert not ran


def test_vgg_gives_every_relu(vgg):
    if not hasattr(vgg, "forward_intermediates"):
        pytest.skip("this timm gives no levels of VGG; CNNFeatures refuses it")
    x = torch.randn(1, 3, 32, 32)
    assert level_strides(vgg) == (1, 2, 4, 4, 8, 8, 16, 16)
    maps = level_maps(vgg, x, range(8))
    assert [m.shape[1] for m in maps] == [4, 8, 16, 16, 32, 32, 32, 32]
    assert [32 // m.shape[-1] for m in maps] == list(level_strides(vgg))
    assert all((m >= 0).all() for m in maps)  # in-place ReLUs overwrote nothing
    # By hand: the only ReLU of the second stage, after the first pooling.
    first, second = vgg.features[0], vgg.features[3]
    y = torch.nn.functional.max_pool2d(first(x).relu(), 2)
    torch.testing.assert_close(maps[1], second(y).relu())
    # timm returns only the last ReLU of a stage, which is equal.
    torch.testing.assert_close(
        maps[3], vgg.forward_intermediates(x, intermediates_only=True)[2]
    )


def test_vgg_with_mirrored_edges_differs_at_the_edges_only(vgg):
    x = torch.randn(1, 3, 64, 64)
    (zeros,), (mirrored,) = (
        level_maps(vgg, x, [2], reflect=reflect) for reflect in (False, True)
    )
    assert mirrored.shape == zeros.shape  # maps are never returned padded
    torch.testing.assert_close(mirrored[..., 3:-3, 3:-3], zeros[..., 3:-3, 3:-3])
    assert abs(mirrored - zeros)[..., 0, :].max() > 1e-3
    y = torch.nn.functional.pad(x, [1] * 4, mode="reflect")
    first = torch.nn.functional.conv2d(y, vgg.features[0].weight, vgg.features[0].bias)
    torch.testing.assert_close(level_maps(vgg, x, [0], reflect=True)[0], first.relu())


def test_gradients_pass():
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    sum(m.sum() for m in level_maps(network("test_resnet"), x, (1, 2))).backward()
    assert x.grad.abs().sum() > 0


class Strided(torch.nn.Module):
    """One convolution of stride 4 that uses one pixel of each 4 x 4."""

    def __init__(self, row):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 4, stride=4, bias=False)
        torch.nn.init.zeros_(self.conv.weight)
        self.conv.weight.data[:, :, row, row] = 1
        self.requires_grad_(False)

    def forward_intermediates(self, x, **_):
        return [self.conv(x)]


@pytest.mark.parametrize("row", range(4))
def test_shift_of_a_network_whose_cells_are_known(row):
    assert cell_shifts(Strided(row), [0]) == pytest.approx([(row - 1.5) / 4], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "expected"), [("test_convnext", 0), ("test_efficientnet", -0.45)]
)
def test_shift_by_the_kind_of_padding(model, expected):
    """Patches are centred; PyTorch's padding centres cells on their first pixel."""
    shifts = cell_shifts(network(model), (-2, -1))
    np.testing.assert_allclose(shifts, expected, atol=0.12)


def test_vgg_is_centred_by_construction(vgg):
    assert cell_shifts(vgg, (1, 2)) == (0.0, 0.0)


def slow_resample(values, wanted, shift):
    """Reference: average linear interpolation at 30 000 points of each new cell."""
    n, points = len(values), 3 * 10_000
    at = (np.arange(wanted * points) + 0.5) * n / (wanted * points) - 0.5
    fine = np.interp(at - shift, np.arange(n), values)
    return fine.reshape(wanted, points).mean(1)


@pytest.mark.parametrize(("cells", "wanted"), [(56, 28), (28, 28), (7, 28), (14, 9)])
@pytest.mark.parametrize("shift", [0, 0.4, -0.5])
def test_resampling_keeps_constants_and_slopes(cells, wanted, shift):
    matrix = _resampling(cells, wanted, shift).numpy()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    ramp = (matrix @ np.arange(cells))[2:-2]
    expected = slow_resample(np.arange(cells), wanted, shift)[2:-2]
    inside = (expected > 0.5) & (expected < cells - 1.5)
    np.testing.assert_allclose(ramp[inside], expected[inside], atol=1e-4)


def test_fine_maps_are_averaged_and_coarse_ones_interpolated(rng):
    fine = torch.from_numpy(rng.normal(size=(1, 2, 8, 12)).astype("f4"))
    coarse = torch.from_numpy(rng.normal(size=(1, 3, 2, 3)).astype("f4"))
    F = on_grid([fine, coarse], (4, 6), (0, 0))
    assert F.shape == (1, 4, 6, 5)
    area = torch.nn.functional.avg_pool2d(fine, 2)
    linear = torch.nn.functional.interpolate(coarse, (4, 6), mode="bilinear")
    expected = torch.cat([area, linear], 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(F, expected)
