import numpy as np
import pytest

from skdinoad._neighbors import mutual_distances


def naive(grids, scored, rule):
    """Reference: the definition, one patch at a time."""
    if isinstance(rule, str):
        return naive_by_images(grids, scored, rule == "musc")
    out = []
    for i, grid in enumerate(grids):
        others = np.concatenate(
            [g.reshape(-1, g.shape[-1]) for j, g in enumerate(grids) if j != i]
        )
        others = others[np.isfinite(others).all(1)].astype(float)
        D = np.full(grid.shape[:2], np.nan)
        for y, x in zip(*np.nonzero(scored[i])):
            squared = np.sort(((grid[y, x] - others) ** 2).sum(1))
            last = squared[max(1, int(rule * len(others) + 1e-9)) - 1]
            below = squared[squared < last]
            D[y, x] = below.mean() if len(below) else squared[0]
        out.append(D)
    return out


def naive_by_images(grids, scored, musc):
    """The same for the rules by images."""
    out = []
    for i, grid in enumerate(grids):
        D = np.full(grid.shape[:2], np.nan)
        for y, x in zip(*np.nonzero(scored[i])):
            others = [j for j in range(len(grids)) if j != i]
            nearest = [
                np.nanmin(((grid[y, x].astype(float) - grids[j]) ** 2).sum(-1))
                for j in others
            ]
            count = min(max(3, round(0.3 * len(others))), len(others))
            if musc:
                nearest, count = np.sqrt(nearest), max(1, int(0.3 * len(others)))
            D[y, x] = np.mean(np.sort(nearest)[:count])
        out.append(D)
    return out


@pytest.mark.parametrize("rule", ["images", "musc", 0.001, 0.1, 0.5])
def test_equals_the_definition(rule, rng):
    sizes = [(3, 4), (5, 2), (4, 4), (2, 6), (3, 3)]
    grids = [rng.normal(size=(*size, 6)).astype(np.float32) for size in sizes]
    grids[1][0, 0] = np.nan
    scored = [rng.random(size) < 0.7 for size in sizes]
    scored[1][0, 0] = False
    out = mutual_distances(grids, scored, np.arange(5), rule)
    for D, expected in zip(out, naive(grids, scored, rule)):
        np.testing.assert_allclose(D, expected, rtol=1e-5)


@pytest.mark.parametrize("n", [6, 20])
def test_twins_never_excuse_each_other(n, rng):
    grids = [rng.normal(0, 0.05, (8, 8, 6)).astype(np.float32) for _ in range(n)]
    for grid in grids[:2]:
        grid[:] += 5  # all patches are anomalous in the same way
    out = mutual_distances(grids, [np.ones((8, 8), bool)] * n, np.arange(n), "images")
    assert min(D.max() for D in out[:2]) > 10 * max(D.max() for D in out[2:])


def test_in_a_large_set_twins_of_a_defect_do_not_hide_it(rng):
    grids = [rng.normal(0, 0.05, (8, 8, 6)).astype(np.float32) for _ in range(20)]
    for grid in grids[:2]:
        grid[3, 3] = 5
    out = mutual_distances(grids, [np.ones((8, 8), bool)] * 20, np.arange(20), 0.005)
    assert all(out[i].argmax() == 3 * 8 + 3 for i in range(2))
    assert out[0].max() > 10 * max(D.max() for D in out[2:])


@pytest.mark.parametrize("rule", ["images", "musc", 0.05])
def test_copies_say_nothing_about_each_other(rule, rng):
    grids = list(rng.normal(size=(5, 4, 4, 6)).astype(np.float32))
    scored = [np.ones((4, 4), bool)] * 6
    out = mutual_distances(
        [*grids, grids[0]], scored, np.array([0, 1, 2, 3, 4, 0]), rule
    )
    alone = mutual_distances(grids, scored[:5], np.arange(5), rule)
    np.testing.assert_allclose(out[0], alone[0], rtol=1e-5)
    np.testing.assert_allclose(out[5], alone[0], rtol=1e-5)
