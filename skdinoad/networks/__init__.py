"""What is trained: torch only, tensors in and tensors out."""

from skdinoad.networks._reconstructor import (
    Reconstructor,
    cosine_distance,
    rebuild,
    recentred,
    reconstruction_loss,
)

__all__ = [
    "Reconstructor",
    "cosine_distance",
    "rebuild",
    "recentred",
    "reconstruction_loss",
]
