"""Trainable torch networks, with tensors as input and output."""

from skdinoad.networks._autoencoder import (
    RowAutoencoder,
    code_width,
    covariance,
    pooled,
    principal_axes,
    row_errors,
)
from skdinoad.networks._deformation import (
    Deformer,
    check_scales,
    magnitude,
    moved,
    roughness,
    strength,
)
from skdinoad.networks._distillation import (
    Codebook,
    Distiller,
    check_depth,
    level_distances,
    level_loss,
    pyramid,
)
from skdinoad.networks._official import dinomaly_weights, dmad_weights
from skdinoad.networks._reconstructor import (
    Reconstructor,
    cosine_distance,
    rebuild,
    recentred,
    reconstruction_loss,
)
from skdinoad.networks._student import MovingStudent, on_levels

__all__ = [
    "Codebook",
    "Deformer",
    "Distiller",
    "MovingStudent",
    "Reconstructor",
    "RowAutoencoder",
    "check_depth",
    "check_scales",
    "code_width",
    "cosine_distance",
    "covariance",
    "dinomaly_weights",
    "dmad_weights",
    "level_distances",
    "level_loss",
    "magnitude",
    "moved",
    "on_levels",
    "pooled",
    "principal_axes",
    "pyramid",
    "rebuild",
    "recentred",
    "reconstruction_loss",
    "roughness",
    "row_errors",
    "strength",
]
