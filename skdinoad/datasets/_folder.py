"""A category folder in MVTec AD's layout, as lists of paths."""

from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skdinoad.datasets._lazy import LazyMasks

__all__ = ["bunch_of", "category_folder", "images_in", "load_folder", "mask_files"]

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
        ``train``: array of paths of normal images. ``validation``: array of paths of
        further normal images, mostly empty. ``test``: array of paths. ``y``: +1 / -1
        for each of ``test``. ``kinds``: array of what it shows, "good" or the kind of
        defect. ``masks``: :class:`LazyMasks` of ``test``.

    Raises
    ------
    FileNotFoundError
        If ``train/good`` or ``test`` is missing or holds no image.
    ValueError
        If an image lies in ``test`` itself.

    Examples
    --------
    >>> from skdinoad.datasets import load_folder
    >>> data = load_folder("screws")                                # doctest: +SKIP
    >>> DinoPatch().fit(data.train).predict(data.test)              # doctest: +SKIP
    """
    folder = Path(folder)
    train, test = images_in(folder / "train" / "good"), images_in(folder / "test")
    for name, paths in (("train/good", train), ("test", test)):
        if not paths:
            raise FileNotFoundError(
                f"{folder / name} holds no image; expected MVTec AD's layout: "
                "train/good/*, test/good/*, test/<kind>/*, "
                "ground_truth/<kind>/<stem>_mask.png."
            )
    loose = [path for path in test if path.parent == folder / "test"]
    if loose:
        raise ValueError(
            f"{loose[0]} is in no folder: test/good or test/<kind> says what it is."
        )
    kinds = [path.relative_to(folder / "test").parts[0] for path in test]
    masks = [
        mask_files(folder / "ground_truth" / kind, f"{path.stem}_mask")
        for kind, path in zip(kinds, test)
    ]
    return bunch_of(train, test, kinds, masks)


def bunch_of(train, test, kinds, masks, validation=()):
    """Return what all loaders return; the masks of good images are not looked at."""
    kinds = np.array([str(kind) for kind in kinds])
    test = np.array([str(path) for path in test])
    files = [() if kind == "good" else known for kind, known in zip(kinds, masks)]
    return Bunch(
        train=np.array([str(path) for path in train]),
        validation=np.array([str(path) for path in validation], dtype=str),
        test=test,
        y=np.where(kinds == "good", 1, -1),
        kinds=kinds,
        masks=LazyMasks(test.tolist(), files),
    )


def images_in(folder):
    """Return the sorted paths of the images below a folder, [] if there is none."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)


def mask_files(folder, stem):
    """Return the mask files of an image, in any format; None if there are none."""
    found = [folder / f"{stem}{suffix}" for suffix in sorted(_SUFFIXES)]
    return tuple(str(path) for path in found if path.is_file()) or None


def category_folder(root, category):
    """Return a category's folder, or say which there are."""
    folder = Path(root) / category
    if not folder.is_dir():
        there = Path(root).iterdir() if Path(root).is_dir() else ()
        names = sorted(path.name for path in there if path.is_dir())
        raise FileNotFoundError(
            f"{folder} is no folder; below {str(root)!r} there are {names}. Data sets "
            "are never downloaded: unpack them there."
        )
    return folder
