import numpy as np
import pytest
from sklearn.decomposition import PCA

from skdinoad._arrays.projection import fit_projection, project


@pytest.fixture
def F(rng):
    """Return features that vary in three directions only."""
    basis = rng.normal(size=(3, 10))
    return (rng.normal(size=(7, 4, 5, 3)) @ basis + 1).astype(np.float32)


def distances(P):
    return np.linalg.norm(P[:, None] - P, axis=-1)


@pytest.mark.parametrize("kind", ["shared", "local"])
def test_enough_components_keep_all_distances(F, kind):
    P = project(F, *fit_projection(F, kind, 3))
    assert P.shape == (7, 4, 5, 4)
    np.testing.assert_allclose(distances(P), distances(F), atol=1e-3)
    assert abs(P[..., -1]).max() < 1e-2


@pytest.mark.parametrize("kind", ["shared", "local"])
def test_what_lies_beside_the_components_is_not_lost(F, kind, rng):
    mean, components = fit_projection(F, kind, 2)
    x = F + rng.normal(size=F.shape).astype(np.float32)
    P = project(x, mean, components)
    length = np.linalg.norm(x - mean, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(P, axis=-1), length, rtol=1e-4)


def test_local_equals_scikit_learn_at_each_location(rng):
    F = rng.normal(size=(6, 2, 3, 9)).astype(np.float32)
    P = project(F, *fit_projection(F, "local", 4))
    for y, x in np.ndindex(2, 3):
        expected = PCA(4).fit_transform(F[:, y, x])
        np.testing.assert_allclose(abs(P[:, y, x, :4]), abs(expected), atol=1e-4)


@pytest.mark.parametrize("kind", ["shared", "local"])
def test_invalid_patches_are_left_out_and_stay_invalid(F, kind):
    holed = F.copy()
    holed[2, 1, 1] = np.nan
    mean, components = fit_projection(holed, kind, 2)
    assert np.isfinite(mean).all()
    assert np.isfinite(components).all()
    assert np.isnan(project(holed, mean, components)[2, 1, 1]).all()


@pytest.mark.parametrize(("kind", "n"), [("shared", 11), ("local", 7)])
def test_more_components_than_there_can_be(F, kind, n):
    with pytest.raises(ValueError, match=f"n_components={n}: expected at most {n - 1}"):
        fit_projection(F, kind, n)
