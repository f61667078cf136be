"""DFR's autoencoder: one small network for the features of all locations.

Shi, Yang, Qi, "Unsupervised anomaly segmentation via deep feature reconstruction",
Neurocomputing 424, 2021, arXiv 2012.07122, section 3.2. Its 1 x 1 convolutions are
linear layers over rows, one row per location.

Tensors: m rows, c channels, d code entries.
"""

import itertools

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

__all__ = [
    "RowAutoencoder",
    "code_width",
    "covariance",
    "pooled",
    "principal_axes",
    "row_errors",
]


class RowAutoencoder(nn.Module):
    """Reconstruct standardised rows from d principal components or a learned code.

    Parameters
    ----------
    channels : int
        Width c of the rows.
    code : int
        Width d of the code.
    learned : bool
        Whether to use an autoencoder; otherwise ``forward`` is the PCA projection.
    batch_norm : bool
        Whether a BatchNorm follows each inner layer.
    """

    def __init__(self, channels, code, *, learned=True, batch_norm=True):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("variances", torch.zeros(channels))
        self.register_buffer("components", torch.zeros(code, channels))
        self.layers = None
        if learned:
            middle = min(2 * code, channels)
            hidden = (channels + middle) // 2
            down = [channels, hidden, middle, code]
            encoder, decoder = _mlp(down, batch_norm), _mlp(down[::-1], batch_norm)
            self.layers = nn.Sequential(encoder, decoder)

    @classmethod
    def like(cls, weights):
        """Return a new network with the shapes of weights, a dict of name to array."""
        code, channels = weights["components"].shape
        learned = any(name.startswith("layers") for name in weights)
        batch_norm = any(name.endswith("running_mean") for name in weights)
        return cls(channels, code, learned=learned, batch_norm=batch_norm)

    def standardised(self, rows):
        return (rows - self.mean) / self.scale

    def projected(self, z):
        """Return the best linear reconstruction from d components."""
        return self.centre + (z - self.centre) @ self.components.T @ self.components

    def forward(self, z):
        """Return the reconstruction of standardised rows (m, c)."""
        return self.projected(z) if self.layers is None else self.layers(z)


def _mlp(widths, batch_norm):
    """Return linear layers with ReLUs between them and no activation at the end."""
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b)]
        layers += [nn.BatchNorm1d(b)] if batch_norm else []
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[: -2 if batch_norm else -1])


def row_errors(z, rebuilt, cos_weight=0.0):
    """Return each row's mean squared error, plus ``cos_weight`` times 1 - cos.

    The cosine is ULSAD's refinement ("Revisiting Deep Feature Reconstruction for
    Logical and Structural Industrial Anomaly Detection", arXiv 2410.16255).
    """
    errors = (z - rebuilt).square().mean(dim=-1)
    if cos_weight == 0:
        return errors
    return errors + cos_weight * (1 - cosine_similarity(z, rebuilt, dim=-1))


def covariance(rows, index, chunk=8192):
    """Return mean (c,) and covariance (c, c) of some rows, accumulated in float64.

    Parameters
    ----------
    rows : Tensor of shape (m, c)
    index : ndarray of int
        Rows to use.
    chunk : int
        Number of rows per step.
    """
    parts = torch.as_tensor(index).split(chunk)
    mean = sum(rows[part].double().sum(0) for part in parts) / len(index)
    spread = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in parts:
        centred = rows[part].double() - mean
        spread.addmm_(centred.T, centred)
    return mean, spread / len(index)


def pooled(counts, means, covariances):
    """Return mean (c,) and covariance (c, c) of the union of several sets of rows.

    Examples
    --------
    >>> import torch
    >>> from skdinoad.networks import covariance, pooled
    >>> rows = torch.tensor([[1.0], [3.0], [8.0]])
    >>> means, covariances = zip(covariance(rows, [0, 1]), covariance(rows, [2]))
    >>> mean, spread = pooled([2, 1], means, covariances)
    >>> torch.allclose(spread, covariance(rows, [0, 1, 2])[1])
    True
    """
    shares = [count / sum(counts) for count in counts]
    mean = sum(share * own for share, own in zip(shares, means))
    away = [own - mean for own in means]
    between = (s * d[:, None] * d for s, d in zip(shares, away))
    within = (s * spread for s, spread in zip(shares, covariances))
    return mean, sum(between) + sum(within)


def principal_axes(covariance):
    """Return the eigenvalues (c,), descending, and eigenvectors (c, c), as rows."""
    variances, axes = torch.linalg.eigh(covariance)
    return variances.flip(0).clamp_min(0), axes.T.flip(0)


def code_width(variances, share):
    """Return the smallest number of components that explain a share of the variance.

    The result is at least 1 and less than the number of channels, and 1 if the total
    variance is 0.

    Examples
    --------
    >>> import torch
    >>> from skdinoad.networks import code_width
    >>> [code_width(torch.tensor([6.0, 3.0, 1.0]), share) for share in (0.6, 0.9, 1.0)]
    [1, 2, 2]
    """
    if variances.sum() <= 0:
        return 1
    held = variances.cumsum(0) / variances.sum()
    needed = int((held < share - 1e-12).sum()) + 1
    return max(1, min(needed, len(variances) - 1))
