import math

import numpy as np
import pytest
import torch

from skdinoad.networks import (
    Deformer,
    check_scales,
    magnitude,
    moved,
    roughness,
    strength,
)

SCALES = ((8 / 256, 8), (3 / 256, 2))


@pytest.fixture(autouse=True)
def seed():
    """Draw the same in each test, whatever ran before it."""
    torch.manual_seed(0)


def constant(size, x, y):
    """Return a field that is the same everywhere, in pixels."""
    height, width = size
    units = torch.tensor([2 * x / (width - 1), 2 * y / (height - 1)])
    return units[None, :, None, None].expand(1, 2, height, width)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 5), (33, 20)])
def test_no_offsets_change_nothing(size):
    x = torch.randn(2, 3, *size)
    still = torch.zeros(2, 2, *size)
    torch.testing.assert_close(moved(x, [still, still]), x, atol=1e-5, rtol=0)


def test_a_constant_field_shifts_by_its_pixels():
    x = torch.randn(1, 2, 12, 15)
    shifted = moved(x, [constant((12, 15), x=3, y=-2)])
    torch.testing.assert_close(
        shifted[..., 2:, :-3], x[..., :-2, 3:], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(shifted[..., -1, -1], x[..., -3, -1], atol=1e-4, rtol=0)


def test_fields_act_one_after_the_other():
    x = torch.randn(1, 1, 16, 16)
    there, back = constant((16, 16), 2, 1), constant((16, 16), -2, -1)
    again = moved(x, [there, back])
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(again[inside], x[inside], atol=1e-4, rtol=0)


def test_gradient_of_a_move_is_right():
    x = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    field = 0.02 * torch.randn(1, 2, 5, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: moved(x, [f]), field.requires_grad_())


def test_length_has_a_gradient_where_it_is_0():
    """The root of a sum of squares has none: one still offset would make all NaN."""
    field = torch.zeros(1, 2, 3, 3, requires_grad=True)
    strength([field, field]).backward()
    assert torch.isfinite(field.grad).all()
    field = torch.tensor([3.0, 4.0])[None, :, None, None]
    assert magnitude(field).item() == pytest.approx(5)
    assert strength([field, 2 * field]).item() == pytest.approx(15)


def test_a_pixel_is_as_long_along_both_axes():
    along, down = (constant((48, 96), *p) for p in ((3, 0), (0, 3)))
    ratio = magnitude(along)[0, 0, 0, 0] / magnitude(down)[0, 0, 0, 0]
    assert ratio.item() == pytest.approx(96 / 48 * 47 / 95, rel=1e-5)  # corner pixels
    square = constant((48, 48), 3, 4)
    assert magnitude(square)[0, 0, 0, 0].item() == pytest.approx(2 * 5 / 47)


def test_scales_come_coarse_to_fine():
    check_scales(SCALES)
    with pytest.raises(ValueError, match=r"strides \[2, 8\]; expected coarse to fine"):
        check_scales(SCALES[::-1])


def test_a_constant_field_is_smooth_also_at_the_border():
    assert roughness([constant((6, 7), 3, 1)]).item() == pytest.approx(0, abs=1e-6)


def test_opposite_roughness_does_not_cancel():
    field = torch.randn(1, 1, 9, 9)
    same, opposite = torch.cat([field, field], 1), torch.cat([field, -field], 1)
    assert roughness([same]).item() == pytest.approx(roughness([opposite]).item())
    assert roughness([opposite]).item() > 0.5


def test_roughness_is_the_distance_to_the_neighbours_mean():
    field = torch.zeros(1, 2, 5, 5)
    field[0, 0, 2, 2] = 1
    assert roughness([field]).item() == pytest.approx((1 + 8 / 8) / 50)


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (57, 49)])
def test_offsets_stay_within_their_share_of_the_smaller_side(size):
    deformer = Deformer(SCALES, width=4)
    for heads in (deformer.forth, deformer.back):
        for head in heads:
            torch.nn.init.constant_(head[-1].bias, 50.0)  # tanh is 1
    forth, back = deformer.eval()(torch.randn(2, 3, *size))
    for field, (most, _) in zip([*forth, *back], SCALES * 2):
        assert field.shape == (2, 2, *size)
        pixels = field.detach().abs().amax((0, 2, 3)) * torch.tensor(size[::-1]) / 2
        np.testing.assert_allclose(pixels, most * min(size), rtol=1e-3)


def test_first_fields_are_small_but_not_0():
    forth, _ = Deformer(SCALES, width=8)(torch.randn(2, 3, 32, 32))
    for field in forth:
        assert 0 < field.abs().max() < 0.05


@pytest.mark.parametrize("stem", [1, 2])
def test_papers_layers_and_the_lighter_ones(stem):
    deformer = Deformer(SCALES, width=64, stem=stem)
    halvings = [
        sum(getattr(m, "stride", 1) == (2, 2) for m in head.modules())
        for head in deformer.forth
    ]
    assert halvings == [3 - int(math.log2(stem)), 1 - int(math.log2(stem))]
    n_weights = sum(p.numel() for p in deformer.parameters())
    assert n_weights == pytest.approx(0.57e6, rel=0.25)  # the paper's network


def test_inverse_heads_only_where_wanted():
    forth, back = Deformer(SCALES, width=4, inverse=False)(torch.randn(2, 3, 16, 16))
    assert (len(forth), len(back)) == (2, 0)


@pytest.mark.parametrize(("stride", "stem"), [(1, 2), (6, 2), (3, 1)])
def test_strides_are_powers_of_2_from_the_stem_on(stride, stem):
    with pytest.raises(ValueError, match=f"{stride} pixels per offset.*={stem}"):
        Deformer([(0.03, stride)], width=4, stem=stem)
