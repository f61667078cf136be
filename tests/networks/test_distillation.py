import pytest
import torch

from skdinoad.networks import (
    Codebook,
    Distiller,
    check_depth,
    level_distances,
    level_loss,
    pyramid,
)


def levels(n=2, size=16, channels=(8, 12, 16)):
    """Return random levels, each half as large as the one before."""
    torch.manual_seed(0)
    return [torch.randn(n, c, size >> i, size >> i) for i, c in enumerate(channels)]


@pytest.mark.parametrize("codes", [0, 5])
@pytest.mark.parametrize("channels", [(8, 12), (8, 12, 16), (4, 8, 12, 16)])
def test_every_level_is_rebuilt_at_its_size(codes, channels):
    targets = levels(channels=channels)
    network = Distiller(channels, depth=(1,) * len(channels), codes=codes)
    rebuilt, loss = network(targets)
    assert [r.shape for r in rebuilt] == [t.shape for t in targets]
    assert (loss > 0) == (codes > 0)


@pytest.mark.parametrize("sizes", [(57, 29, 15), (9, 5, 3), (10, 4, 1)])
def test_sizes_that_do_not_halve(sizes):
    targets = [torch.randn(2, 8, s, s + 2) for s in sizes]
    rebuilt, _ = Distiller((8, 8, 8), codes=3)(targets)
    assert [r.shape for r in rebuilt] == [t.shape for t in targets]


def test_student_sees_the_bottleneck_alone():
    """No path from a level to itself but through the squeezed grid."""
    targets = [t.requires_grad_() for t in levels()]
    network = Distiller((8, 12, 16), codes=0)
    squeezed = []
    network.squeeze.register_forward_hook(lambda *a: squeezed.append(a[-1]))
    rebuilt, _ = network(targets)
    assert squeezed[0].shape == (2, 128, 2, 2)  # half of the deepest level's 4 x 4
    (grad,) = torch.autograd.grad(rebuilt[0].sum(), squeezed[0])
    assert grad.abs().sum() > 0


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_papers_widths():
    """WideResNet50-2: 1216 channels join with prototypes, 3072 without; 2048 leave."""
    for codes, joined in ((200, 1216), (0, 3072)):
        network = Distiller(
            (256, 512, 1024), depth=(6, 4, 3), codes=codes, signed=False
        )
        assert network.squeeze[0].body[0].in_channels == joined
        assert network.squeeze[-1].body[-2].out_channels == 2048
        assert [1 + len(level.blocks) for level in network.rebuild] == [6, 4, 3]
        assert count(network.rebuild) == 24_917_504
        if codes:
            kernels = sum(p.numel() for p in network.reduce.parameters() if p.ndim == 4)
            assert kernels == 1_142_784
        else:
            assert count(network.reduce) + count(network.squeeze) == 58_885_120


def test_convolutions_start_from_kaiming_normal_by_fan_out():
    torch.manual_seed(0)
    network = Distiller((256, 512, 1024), depth=(2, 1, 1), codes=20)
    kernel = network.rebuild[0].blocks[0].body[3][0].weight
    assert kernel.std().item() == pytest.approx(
        (2 / (9 * len(kernel))) ** 0.5, rel=0.02
    )


def test_only_non_negative_features_end_in_a_relu():
    kinds = {
        (signed, width): type(
            Distiller((64, 64), width=width, depth=(1, 1), signed=signed)
            .rebuild[0]
            .head
        ).__name__
        for signed, width in ((True, None), (False, None), (False, 32))
    }
    assert kinds == {
        (True, None): "Conv2d",
        (False, None): "Identity",
        (False, 32): "Conv2d",
    }
    targets = levels()
    rebuilt, _ = Distiller((8, 12, 16), signed=True)(targets)
    assert min(r.min().item() for r in rebuilt) < 0
    rebuilt, _ = Distiller((8, 12, 16), signed=False)(targets)
    assert min(r.min().item() for r in rebuilt) == 0


def test_scales_bring_mean_squares_to_1_and_keep_directions():
    maps = [10 + 3 * torch.randn(4, 8, 6, 6), torch.zeros(4, 5, 3, 3)]
    network = Distiller((8, 5), depth=(1, 1))
    network.learn_scales(maps)
    first, second = network.scaled(maps)
    torch.testing.assert_close(first.square().mean((0, 2, 3)), torch.ones(8))
    assert first.mean() > 0.9  # not centred
    assert torch.equal(second, maps[1])


def test_scales_know_nothing_of_invalid_places():
    maps = [torch.randn(4, 8, 6, 6)]
    masks = [torch.zeros(4, 1, 6, 6, dtype=torch.bool)]
    masks[0][:, :, :4] = True
    network, cut = (Distiller((8,), depth=(1,)) for _ in range(2))
    cut.learn_scales([maps[0][:, :, :4]])
    maps[0][:, :, 4:] = 1e3
    network.learn_scales(maps, masks)
    torch.testing.assert_close(network.scale0, cut.scale0)


# -- prototypes ---------------------------------------------------------------------


def test_the_nearest_code_stands_for_each_place():
    book = Codebook(3, 4).eval()
    book.codes.data = torch.eye(4)[:3]
    x = (2 * torch.eye(4)[[2, 0, 0, 1]].T).reshape(1, 4, 2, 2)
    out, loss = book(x)
    assert book.nearest(x.movedim(1, -1).reshape(-1, 4)).tolist() == [2, 0, 0, 1]
    torch.testing.assert_close(out, x / 2)
    assert loss.item() == pytest.approx(1.25 * 1 / 4)  # one of four channels is 1 off


def test_the_loss_is_a_number_to_descend():
    """A step of plain gradient descent brings codes and features closer."""
    book, x = Codebook(3, 4), torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = book(x)[1]
    loss.backward()
    with torch.no_grad():
        book.codes -= 0.5 * book.codes.grad
    assert book(x)[1] < loss


def test_features_commit_a_quarter_as_much_as_codes_learn():
    book, x = Codebook(1, 4), torch.randn(1, 4, 1, 1, requires_grad=True)
    codes, features = torch.autograd.grad(book(x)[1], [book.codes, x])
    torch.testing.assert_close(features.flatten(), -0.25 * codes.flatten())


def test_gradients_are_the_same_every_time(request):
    """With several threads: indexing would add them up in any order."""
    torch.set_num_threads(2)
    request.addfinalizer(lambda: torch.set_num_threads(1))
    book, x = Codebook(50, 40), torch.randn(8, 40, 28, 28)
    first = torch.autograd.grad(book.eval()(x)[1], book.codes)[0]
    for _ in range(20):
        assert torch.equal(torch.autograd.grad(book(x)[1], book.codes)[0], first)


def test_nothing_valid_teaches_nothing():
    book, x = Codebook(3, 4), torch.randn(1, 4, 2, 2)
    assert book(x, torch.zeros(1, 1, 2, 2, dtype=torch.bool))[1] == 0
    none = [torch.zeros(1, 1, 2, 2, dtype=torch.bool)]
    assert level_loss([x], [x + 1], none, local=True) == 0
    network = Distiller((4,), depth=(1,))
    network.learn_scales([x], none)
    assert (network.scale0 == 1).all()


def test_gradient_passes_straight_through():
    book, x = Codebook(5, 4), torch.randn(2, 4, 3, 3, requires_grad=True)
    weights = torch.randn(2, 4, 3, 3)
    (grad,) = torch.autograd.grad((book(x)[0] * weights).sum(), x)
    torch.testing.assert_close(grad, weights)


def test_prototypes_learn_from_valid_places_alone():
    book, x = Codebook(5, 4, patience=0), torch.randn(2, 4, 3, 3)
    valid = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    valid[:, :, 1:] = False
    x[:, :, 1:] = 1e3
    for _ in range(5):
        _, loss = book(x, valid)
        assert loss < 100
        assert book.codes.max() < 100


def test_only_used_codes_learn():
    book, x = Codebook(6, 4), torch.randn(1, 4, 1, 2)
    loss = book(x)[1]
    loss.backward()
    used = book.nearest(x.movedim(1, -1).reshape(-1, 4))
    learning = book.codes.grad.abs().sum(1) > 0
    assert sorted(set(used.tolist())) == torch.nonzero(learning)[:, 0].tolist()


@pytest.mark.parametrize("codes", [1, 7, 50])
def test_codes_start_from_good_places_however_few(codes):
    places, book = torch.randn(9, 4), Codebook(codes, 4)
    book.start_from(places)
    for code in book.codes.detach():
        assert (places == code).all(1).any()


def test_idle_codes_move_to_where_features_are():
    book = Codebook(4, 3, patience=2)
    book.codes.data = torch.tensor([[0.0] * 3] + [[99.0] * 3] * 3)
    for _ in range(3):
        book(torch.randn(2, 3, 4, 4))
    assert book.codes.max() < 9
    frozen = book.codes.detach().clone()
    book.eval()
    for _ in range(9):
        book(torch.full((1, 3, 1, 1), -5.0))
    assert torch.equal(book.codes, frozen)


# -- losses and levels --------------------------------------------------------------


def test_global_loss_is_of_whole_levels_and_local_of_places():
    a = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])  # places (1, 0) and (0, 2)
    b = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])  # places (1, 0) and (3, 0)
    whole = 1 - 1 / (5**0.5 * 10**0.5)
    assert level_loss([a], [b]).item() == pytest.approx(whole)
    assert level_loss([a], [b], local=True).item() == pytest.approx((0 + 1) / 2)
    assert level_loss([a, a], [b, b]).item() == pytest.approx(2 * whole)
    distances = level_distances([a], [b])[0]
    assert distances.shape == (1, 1, 1, 2)
    torch.testing.assert_close(distances.ravel(), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("local", [True, False])
def test_invalid_places_do_not_count(local):
    a, b = levels(n=2)[:1], levels(n=2)[:1]
    b[0] = b[0] + 0.1 * torch.randn_like(b[0])
    good = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    good[:, :, :4] = False
    cut = [[x[:, :, 4:] for x in part] for part in (a, b)]
    expected = level_loss(*cut, local=local)
    b[0][:, :, :4] = 1e3
    found = level_loss(a, b, [good], local=local)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_levels_of_one_size_become_a_pyramid():
    maps = [torch.randn(1, 4, 6, 8) for _ in range(3)]
    out = pyramid(maps)
    assert [tuple(m.shape[-2:]) for m in out] == [(12, 16), (6, 8), (3, 4)]
    assert out[1] is maps[1]
    torch.testing.assert_close(out[2], torch.nn.functional.avg_pool2d(maps[2], 2))
    several = levels()
    assert pyramid(several) is several


def test_depth_names_each_level():
    assert check_depth(2, 3) == [2, 2, 2]
    assert check_depth((2, 1, 1), 3) == [2, 1, 1]
    with pytest.raises(ValueError, match=r"student_depth=\(1, 2\).*3 levels"):
        check_depth((1, 2), 3)
    for depth in (-1, (1.5, 1, 1), (1, "a", 2)):
        with pytest.raises(ValueError, match="student_depth="):
            check_depth(depth, 3)
