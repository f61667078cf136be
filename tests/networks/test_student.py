import torch

from skdinoad.networks import (
    Deformer,
    Distiller,
    MovingStudent,
    moved,
    on_levels,
    roughness,
    strength,
)


def teach(x):
    """Three levels of x, by pooling: gradients pass, nothing is learned."""
    pooled = torch.nn.functional.avg_pool2d
    return [pooled(x, k).repeat(1, 4, 1, 1) for k in (2, 4, 8)]


def student(inverse=True, scales=((0.1, 8), (0.05, 2))):
    torch.manual_seed(0)
    deformer = Deformer(scales, width=4, inverse=inverse) if scales else None
    return MovingStudent(deformer, Distiller((12, 12, 12), codes=4))


def test_terms_of_each_variant():
    x = torch.randn(2, 3, 32, 32)
    always = {"reconstruction", "codebook"}
    shift = {"strength", "roughness"}
    assert set(student().losses(x, teach)) == always | shift | {"cycle"}
    assert set(student(inverse=False).losses(x, teach)) == always | shift
    assert set(student(scales=()).losses(x, teach)) == always


def test_the_teacher_sees_the_moved_image_in_ppdm_only():
    x, seen = torch.randn(2, 3, 32, 32), []

    def spy(image):
        seen.append(image)
        return teach(image)

    for inverse in (True, False):
        network = student(inverse).eval()
        network.losses(x, spy)
        network.parts(x, spy, join)
    forth, _ = student().eval().fields(x)
    for image in seen[:2]:
        assert torch.equal(image, moved(x, forth))
    for image in seen[2:]:
        assert image is x


def test_known_levels_spare_the_teacher_where_nothing_moves():
    x = torch.randn(2, 3, 32, 32)
    network, known = student(inverse=False).eval(), lambda: teach(x)
    found = network.losses(x, None, maps=known)
    expected = network.losses(x, teach)
    torch.testing.assert_close(found, expected)
    student().losses(x, teach, maps=lambda: 1 / 0)  # of moved images nothing is known


def join(levels, size):
    large = [torch.nn.functional.interpolate(level, size) for level in levels]
    return torch.cat(large, dim=1)


def test_terms_are_those_of_the_paper():
    """Strength of forward fields alone, roughness of all, the cycle in reverse."""
    x, network = torch.randn(1, 3, 32, 32), student().eval()
    fields = [0.2 * torch.randn(1, 2, 32, 32) for _ in range(4)]
    forth, back = fields[:2], fields[2:]
    network.deformer.forward = lambda x: (forth, back)
    losses = network.losses(x, teach)
    assert losses["strength"] == strength(forth) != strength(fields)
    assert losses["roughness"] == roughness(fields) != roughness(forth)
    there = moved(moved(x, [forth[0]]), [forth[1]])
    again = moved(moved(there, [back[1]]), [back[0]])  # the last one is undone first
    expected = (again - x).square().mean()
    torch.testing.assert_close(losses["cycle"], expected)


def test_errors_go_home_as_the_image_does():
    x, network = torch.randn(1, 3, 32, 32), student().eval()
    back = [0.2 * torch.randn(1, 2, 32, 32) for _ in range(2)]
    still = [torch.zeros(1, 2, 32, 32)] * 2
    network.deformer.forward = lambda x: (still, back)
    error = torch.rand(1, 1, 32, 32)
    found, _ = network.parts(x, teach, lambda *_: error)
    torch.testing.assert_close(found, moved(moved(error, [back[1]]), [back[0]]))


def test_levels_have_valid_places_where_an_image_has():
    valid = torch.zeros(2, 16, 16, dtype=torch.bool)
    valid[0, 5, 5] = True
    fine, coarse = on_levels(
        valid, [torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 2, 2)]
    )
    assert fine[0, 0].nonzero().tolist() == [[5, 5]]
    assert coarse[0, 0].tolist() == [[True, False], [False, False]]
    assert not fine[1].any()
    assert not coarse[1].any()


def test_parts_do_not_depend_on_companions():
    x = torch.randn(3, 3, 32, 32)
    network = student().eval()
    whole = network.parts(x, teach, join)
    for i in range(3):
        alone = network.parts(x[i : i + 1], teach, join)
        for a, b in zip(whole, alone):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-5, rtol=1e-4)


def test_mask_moves_with_the_image(monkeypatch):
    network, x = student().eval(), torch.randn(1, 3, 32, 32)
    field = torch.zeros(1, 2, 32, 32)
    field[:, 0] = 2 * 8 / 31  # what is seen at column c was at c + 8
    network.deformer.forward = lambda x: ([field], [-field])
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    valid[..., 24:] = False
    masks = []
    spy = lambda *args, **_: masks.append(args[2]) or 0  # noqa: E731
    monkeypatch.setattr("skdinoad.networks._student.level_loss", spy)
    network.losses(x, teach, valid=valid)
    assert masks[0][0][0, 0, 0].tolist() == [True] * 8 + [False] * 8
