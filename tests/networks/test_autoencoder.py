import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from skdinoad.networks import (
    RowAutoencoder,
    code_width,
    covariance,
    principal_axes,
    row_errors,
)


def widths(network):
    """Return the (in, out) of all linear layers in order."""
    return [
        (layer.in_features, layer.out_features)
        for layer in network.modules()
        if isinstance(layer, nn.Linear)
    ]


def test_widths_are_the_papers():
    """h = (c + 2 d) / 2: for VGG19's first 12 ReLUs and d = 197, 15 million weights."""
    network = RowAutoencoder(3456, 197)
    down = [(3456, 1925), (1925, 394), (394, 197)]
    assert widths(network) == [*down, *[(b, a) for a, b in down[::-1]]]
    weights = sum(layer[0] * layer[1] for layer in widths(network))
    assert weights == pytest.approx(15.0e6, rel=0.01)


def test_code_and_output_are_linear():
    encoder, decoder = RowAutoencoder(12, 3).layers
    kinds = [type(layer).__name__ for layer in encoder]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [type(layer).__name__ for layer in decoder] == kinds
    without = RowAutoencoder(12, 3, batch_norm=False).layers[0]
    assert [type(layer).__name__ for layer in without] == ["Linear", "ReLU"] * 2 + [
        "Linear"
    ]


@pytest.mark.parametrize("code", [1, 5, 6, 9, 11])
def test_layers_never_widen_towards_the_code(code):
    shape = [a for a, _ in widths(RowAutoencoder(12, code))[:3]]
    assert shape == sorted(shape, reverse=True)


def test_rows_through_linear_layers_are_places_through_1x1_convolutions():
    network = RowAutoencoder(8, 2).eval()
    images = torch.randn(3, 8, 4, 5)
    layers = []
    for layer in (*network.layers[0], *network.layers[1]):
        if isinstance(layer, nn.Linear):
            conv = nn.Conv2d(layer.in_features, layer.out_features, 1)
            conv.weight.data = layer.weight.data[:, :, None, None]
            conv.bias.data = layer.bias.data
            layers.append(conv)
        elif isinstance(layer, nn.BatchNorm1d):
            layers.append(nn.BatchNorm2d(layer.num_features).eval())
        else:
            layers.append(nn.ReLU())
    expected = nn.Sequential(*layers)(images).permute(0, 2, 3, 1)
    found = network(images.permute(0, 2, 3, 1).reshape(-1, 8)).reshape(3, 4, 5, 8)
    torch.testing.assert_close(found, expected)


def test_without_learning_it_is_the_projection():
    network = RowAutoencoder(6, 2, learned=False)
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    network.components.copy_(axes[:2])
    network.centre.copy_(torch.arange(6))
    z = torch.randn(9, 6)
    assert torch.equal(network(z), network.projected(z))
    rest = (z - network(z)) @ network.components.T
    torch.testing.assert_close(rest, torch.zeros(9, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_weights_tell_the_shape_of_their_network(learned, batch_norm):
    network = RowAutoencoder(9, 2, learned=learned, batch_norm=batch_norm).eval()
    again = RowAutoencoder.like(network.state_dict()).eval()
    again.load_state_dict(network.state_dict())
    z = torch.randn(4, 9)
    assert torch.equal(again(z), network(z))


def test_errors_are_means_over_channels():
    z, rebuilt = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.zeros(2, 2)
    assert row_errors(z, rebuilt).tolist() == [12.5, 0.5]
    turned = torch.tensor([[-3.0, -4.0], [0.0, 2.0]])
    expected = [50 + 0.5 * 2, 2.5 + 0.5 * 1]
    np.testing.assert_allclose(row_errors(z, turned, 0.5), expected, rtol=1e-6)


def test_principal_axes_are_scikit_learns(rng):
    rows = rng.normal(size=(300, 7)) @ rng.normal(size=(7, 7)) + 50
    rows, index = torch.from_numpy(rows.astype("f4")), np.arange(0, 300, 2)
    mean, spread = covariance(rows, index, chunk=64)
    variances, axes = principal_axes(spread)
    pca = PCA().fit(rows[::2].double().numpy())
    np.testing.assert_allclose(mean, pca.mean_)
    np.testing.assert_allclose(variances, pca.explained_variance_ * 149 / 150)
    cosines = (axes.numpy() * pca.components_).sum(1)
    np.testing.assert_allclose(abs(cosines), 1, atol=1e-6)


def test_covariance_survives_a_large_mean():
    """In float32 the spread of 1e-2 around 1e4 would be lost in the products."""
    rows = 1e4 + 1e-2 * torch.tensor([[0.0], [1.0]] * 500)
    _, spread = covariance(rows, np.arange(1000))
    assert float(spread) == pytest.approx(float(rows.double().var(correction=0)))


@pytest.mark.parametrize(
    ("variances", "share", "width"),
    [
        ([6, 3, 1], 0.6, 1),
        ([6, 3, 1], 0.61, 2),
        ([6, 3, 1], 0.9, 2),
        ([6, 3, 1], 1.0, 2),  # a code as wide as its rows would rebuild everything
        ([1, 0, 0], 1.0, 1),
        ([0, 0, 0], 0.9, 1),
        ([2], 0.9, 1),
    ],
)
def test_code_width(variances, share, width):
    assert code_width(torch.tensor(variances).double(), share) == width
