"""A category folder in MVTec AD's layout, as lists of paths."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.utils import Bunch

__all__ = ["load_folder", "read_mask"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def load_folder(folder):
    """List the images of a category folder in MVTec AD's layout; none is read.

    Parameters
    ----------
    folder : str or path
        ``train/good/*``, ``test/good/*``, ``test/<kind>/*`` and, optionally,
        ``ground_truth/<kind>/<stem>_mask.png``.

    Returns
    -------
    Bunch
        ``train``: array of paths of normal images. ``test``: array of paths.
        ``y``: +1 / -1 for each of ``test``. ``kinds``: array of folder names.
        ``masks``: list of path or None for each of ``test``; None for good images,
        and where there is no mask file.

    Raises
    ------
    FileNotFoundError
        If ``train/good`` or ``test`` is missing or holds no image.
    """
    folder = Path(folder)
    train, test = _images(folder / "train" / "good"), _images(folder / "test")
    for name, paths in (("train/good", train), ("test", test)):
        if not paths:
            raise FileNotFoundError(
                f"{folder / name} holds no image; expected MVTec AD's layout: "
                "train/good/*, test/good/*, test/<kind>/*, "
                "ground_truth/<kind>/<stem>_mask.png."
            )
    kinds = [path.relative_to(folder / "test").parts[0] for path in test]
    return Bunch(
        train=np.array([str(path) for path in train]),
        test=np.array([str(path) for path in test]),
        y=np.array([1 if kind == "good" else -1 for kind in kinds]),
        kinds=np.array(kinds),
        masks=[_mask_path(folder, kind, path) for kind, path in zip(kinds, test)],
    )


def _images(folder):
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)


def _mask_path(folder, kind, path):
    mask = folder / "ground_truth" / kind / f"{path.stem}_mask.png"
    return str(mask) if kind != "good" and mask.is_file() else None


def read_mask(path, size=None) -> np.ndarray:
    """Read a mask file as booleans.

    Parameters
    ----------
    path : str, path or None
        None gives an empty mask of ``size``.
    size : (int, int), optional
        (height, width) of the empty mask.

    Returns
    -------
    ndarray of shape (H, W), bool
        True = anomalous (any value above 0).
    """
    if path is None:
        return np.zeros(size, bool)
    with Image.open(path) as image:
        return np.asarray(image.convert("L")) > 0
