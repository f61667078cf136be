"""Read files of weights safely, and compute digests of their content."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from skdinoad._compat.timm import timm

__all__ = [
    "Found",
    "WeightsNotFoundError",
    "flat",
    "read",
    "read_checkpoint",
    "tensors_digest",
]


class WeightsNotFoundError(RuntimeError):
    """Raised if no pretrained weights are found; the message names remedies."""


@dataclass(frozen=True)
class Found:
    """Weights, and their origin for reports and errors.

    Parameters
    ----------
    tensors : dict of str to Tensor
    source : str
        Where the weights were found.
    path : Path
        The file from which they were read.
    remedy : str
        What to do if they turn out to be wrong; "" if this is not known.
    """

    tensors: dict
    source: str
    path: Path
    remedy: str = ""


def read(path) -> dict:
    """Return the tensors of a ``.safetensors``, ``.pt`` or ``.pth`` file.

    Raises
    ------
    ValueError
        If the file is damaged, holds code or has another format; the message names the
        path.
    """
    try:
        return timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # each format and version has its own
        raise ValueError(
            f"The weights file {str(path)!r} cannot be read: it is damaged or has "
            f"another format ({type(error).__name__}: {error})."
        ) from error


def read_checkpoint(path) -> dict:
    """Return the tensors in a file from ``torch.save``, a dict or nested dicts.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is damaged, or holds anything but tensors, numbers and dicts. Code in it
        never runs.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist.")
    try:
        out = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each version has its own
        raise ValueError(
            f"The checkpoint {str(path)!r} cannot be read: it is damaged, or holds "
            f"more than weights ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(out, dict):
        raise ValueError(
            f"The checkpoint {str(path)!r} holds a {type(out).__name__}, expected a "
            "dict of weights."
        )
    return out


def flat(parts, prefix="") -> dict:
    """Return nested dicts of tensors as one dict, with names joined by dots."""
    out = {}
    for name, value in parts.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{name}."))
        elif isinstance(value, torch.Tensor):
            out[f"{prefix}{name}"] = value
    return out


def tensors_digest(tensors) -> str:
    """Return the sha256 over names, shapes, types and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()
