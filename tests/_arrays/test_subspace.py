import numpy as np
import pytest
from sklearn.decomposition import PCA

from skdinoad._arrays.subspace import Moments, principal_subspace, residuals


def moments_of(X):
    out = Moments(X.shape[1])
    out.update(X)
    return out


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(200, 6)) * [5, 3, 1, 0.5, 0.1, 0.01] + 7


def test_moments_add_and_take_away(vectors):
    parts = moments_of(vectors[:80]), moments_of(vectors[80:])
    whole = parts[0] + parts[1]
    assert np.allclose(whole.mean(), vectors.mean(0))
    assert np.allclose(whole.covariance(), np.cov(vectors.T, bias=True))
    rest = whole - parts[0]
    assert np.allclose(rest.covariance(), np.cov(vectors[80:].T, bias=True))
    assert np.allclose(parts[0].mean(), vectors[:80].mean(0))  # unchanged


@pytest.mark.parametrize("n", [2, 0.9, 0.99])
def test_components_and_residuals_are_those_of_scikit_learn(vectors, n):
    pca = PCA(n, svd_solver="full").fit(vectors)
    moments = moments_of(vectors)
    C = principal_subspace(moments, n)
    assert C.shape == pca.components_.shape
    assert np.allclose(np.abs(C @ pca.components_.T), np.eye(len(C)), atol=1e-5)
    X = vectors[:20].astype(np.float32) + 1
    expected = np.square(X - pca.inverse_transform(pca.transform(X))).sum(1)
    mean = moments.mean().astype(np.float32)
    assert np.allclose(residuals(X, mean, C), expected, rtol=1e-4, atol=1e-5)


def test_directions_without_variance_are_none():
    X = np.zeros((5, 4))
    X[:, 1] = [0, 1, 2, 3, 4]
    assert principal_subspace(moments_of(X), 3).tolist() == [[0, 1, 0, 0]]
    flat = moments_of(np.ones((5, 4)))
    assert principal_subspace(flat, 0.99).shape == (0, 4)
    rest = residuals(
        np.eye(4, dtype=np.float32) + 1,
        flat.mean().astype("f4"),
        np.empty((0, 4), "f4"),
    )
    assert rest.tolist() == [1, 1, 1, 1]
