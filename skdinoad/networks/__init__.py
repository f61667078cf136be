"""What is trained: torch only, tensors in and tensors out."""

from skdinoad.networks._autoencoder import (
    RowAutoencoder,
    code_width,
    covariance,
    principal_axes,
    row_errors,
)
from skdinoad.networks._reconstructor import (
    Reconstructor,
    cosine_distance,
    rebuild,
    recentred,
    reconstruction_loss,
)

__all__ = [
    "Reconstructor",
    "RowAutoencoder",
    "code_width",
    "cosine_distance",
    "covariance",
    "principal_axes",
    "rebuild",
    "recentred",
    "reconstruction_loss",
    "row_errors",
]
