"""List the images of a folder, or of a category folder in MVTec AD's layout."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skdinoad._compat.caller import warn
from skdinoad._typing import FilePath
from skdinoad.datasets._lazy import LazyMasks
from skdinoad.datasets._listing import (
    GOOD,
    TRUTH,
    below,
    fold,
    is_good,
    list_images,
    shown,
)

__all__ = [
    "bunch_of",
    "kinds_of",
    "load_folder",
    "load_images",
    "masks_of",
    "normals_in",
]


def load_images(folder: FilePath) -> np.ndarray:
    """List the image files of a folder and its subfolders without reading them.

    Parameters
    ----------
    folder : str or path

    Returns
    -------
    paths : ndarray of shape (n,), str
        Sorted paths, accepted as X by every ``fit`` and ``predict``.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or holds no image.
    ValueError
        If it is a category in MVTec AD's layout, because its test images would be
        taken for good ones.

    Warns
    -----
    UserWarning
        If files that are not images were left out.

    Examples
    --------
    >>> from skdinoad.datasets import load_images
    >>> X = load_images("photographs/good")                         # doctest: +SKIP
    """
    files = list_images(folder)
    if below(files, "test") or below(files, TRUTH):
        raise ValueError(
            f"{folder} holds folders 'test' or 'ground_truth' besides others: this is "
            "a category in MVTec AD's layout, which load_folder reads. To list only "
            "its good images, pass their folder."
        )
    if not files:
        there = sorted(path.name for path in Path(folder).iterdir())
        what = f"there are {shown(there)}" if there else "it is empty"
        raise FileNotFoundError(f"{folder} holds no image; {what}.")
    return np.array([str(Path(folder) / path) for path in files])


def load_folder(folder: FilePath) -> Bunch:
    """List the images of a category folder in MVTec AD's layout without reading them.

    Parameters
    ----------
    folder : str or path
        ``train/good/*``, ``test/good/*``, ``test/<kind>/*`` and, optionally,
        ``ground_truth/<kind>/<stem>_mask.png`` or ``<stem>.png``. ``good`` and
        ``<kind>`` may hold subfolders; masks must use the same subfolders as their
        images.

    Returns
    -------
    Bunch
        ``train``: array of paths of normal images. ``validation``: array of paths of
        further normal images, usually empty. ``test``: array of paths. ``y``: array of
        labels +1 / -1 of ``test``. ``kinds``: array of "good" or the kind of defect of
        each test image. ``masks``: :class:`LazyMasks` of ``test``.

    Raises
    ------
    FileNotFoundError
        If ``train/good`` or ``test`` is missing or holds no image, or a link is broken.
    ValueError
        If the label of an image is ambiguous (it lies directly in ``test``, in a folder
        "good" inside a kind of defect, or is linked as both good and defective), or if
        a mask matches two images.

    Warns
    -----
    UserWarning
        If files of other formats, training images outside of ``good`` or masks without
        an image were left out, a folder holds no image, or no test image is good.

    Notes
    -----
    Names are compared case-insensitively and without leading and trailing spaces; "ok"
    and "normal" mean "good". Links are followed. Hidden files and folders are ignored,
    and so are those created by operating systems and tools: ``.ipynb_checkpoints``,
    ``__MACOSX``, ``Thumbs.db``.

    Examples
    --------
    >>> from skdinoad.datasets import load_folder
    >>> data = load_folder("screws")                                # doctest: +SKIP
    >>> DinoPatch().fit(data.train).predict(data.test)              # doctest: +SKIP
    """
    files = list_images(folder, "train", "test", TRUTH)
    train, test = normals_in(folder, files, "train"), below(files, "test")
    for name, paths in (("train/good", train), ("test", test)):
        if not paths:
            raise FileNotFoundError(
                f"{Path(folder) / name} holds no image; expected MVTec AD's layout: "
                "train/good/*, test/good/*, test/<kind>/*, "
                "ground_truth/<kind>/<stem>_mask.png."
            )
    masks = {path: place.with_suffix("") for path, place in below(files, TRUTH).items()}
    kinds = kinds_of(folder, test)
    masks = masks_of(folder, test, masks, "{}_mask", "{}")
    return bunch_of(folder, train, test, kinds, masks)


def bunch_of(root, train, test, kinds, masks, validation=()):
    """Build the Bunch that all loaders return; masks of good images are not used.

    Paths are relative to ``root``. Pass ``kinds=None`` and ``masks=None`` for test sets
    without published labels.
    """
    train, test, validation = (
        np.array([str(Path(root) / path) for path in paths], dtype=str)
        for paths in (train, test, validation)
    )
    out = Bunch(train=train, validation=validation, test=test)
    if kinds is None:
        return Bunch(**out, y=None, kinds=None, masks=None)
    _tell_none_good(root, kinds)
    kinds = np.array(kinds)
    bad = kinds != "good"
    _check_one_label([*train, *validation, *test[~bad]], test[bad])
    files = [
        known and [str(Path(root) / path) for path in known] if odd else ()
        for odd, known in zip(bad, masks)
    ]
    masks = LazyMasks(test.tolist(), files, bad)
    return Bunch(**out, y=np.where(bad, -1, 1), kinds=kinds, masks=masks)


def normals_in(root, files, part):
    """Return the images below ``part/good``; warn about others in ``part``."""
    good = below(files, part, GOOD)
    others = [path for path in below(files, part) if path not in good]
    if good and others:
        warn(
            f"Images in {Path(root) / part}, but in no folder named good, were left "
            f"out: {len(others)} ({shown(others)}).",
            UserWarning,
        )
    return list(good)


def kinds_of(root, test):
    """Return the kind of each test image, which is the name of its first folder.

    ``test`` maps each path to its path relative to the folder of all test images.
    """
    for path, place in test.items():
        if len(place.parts) == 1:
            raise ValueError(
                f"{Path(root) / path} is in no folder: move it to {path.parent}/good "
                f"or {path.parent}/<kind>."
            )
        kind, *inner = place.parts[:-1]
        if not is_good(kind) and any(map(is_good, inner)):
            raise ValueError(
                f"Is {Path(root) / path} good, or a defect of the kind {kind!r}? "
                "Expected <kind>/... or good/...: the first folder gives the label."
            )
    kinds = [place.parts[0].strip() for place in test.values()]
    return ["good" if is_good(kind) else kind for kind in kinds]


def masks_of(root, test, masks, *names):
    """Return the mask files of each test image, or None if there are none.

    Parameters
    ----------
    root : path
    test : dict of Path to Path
        Path of each image relative to the folder of all images.
    masks : dict of Path to Path
        Path of each mask relative to the folder of all masks, without its suffix.
    *names : str
        Patterns of mask names, where "{}" is the image's stem; the first pattern with
        an existing mask is used.
    """
    exact, folded = _by_name(masks, Path.as_posix), _by_name(masks, fold)
    found = []
    for place in test.values():
        places = [place.with_name(name.format(place.stem)) for name in names]
        known = [exact.get(p.as_posix()) or folded.get(fold(p)) for p in places]
        found.append(next(filter(None, known), None))
    _check_shared(root, list(test), found)
    used = {path for files in found for path in files or ()}
    _tell_unused(root, [path for path in masks if path not in used])
    return found


def _by_name(masks, name):
    out = {}
    for path, place in masks.items():
        out.setdefault(name(place), []).append(path)
    return out


def _check_shared(root, images, found):
    counts = Counter(path for files in found for path in files or ())
    for mask in [path for path, count in counts.items() if count > 1]:
        rivals = [i for i, files in zip(images, found) if files and mask in files]
        raise ValueError(
            f"The mask {Path(root) / mask} could belong to {len(rivals)} images: "
            f"{shown(rivals)}. Give each image and its mask a unique name."
        )


def _tell_unused(root, masks):
    if masks:
        warn(
            f"Masks below {root} belong to no image: {len(masks)} ({shown(masks)}). "
            "Expected the same folders and the same name as the image.",
            UserWarning,
        )


def _check_one_label(good, bad):
    """Raise an error if links list one file as both good and defective."""
    known = {os.path.realpath(path): path for path in good}
    for path in bad:
        if (real := os.path.realpath(path)) in known:
            raise ValueError(
                f"{path} is a defect and {known[real]} is good, but both are the same "
                "file."
            )


def _tell_none_good(root, kinds):
    if "good" not in kinds:
        warn(
            f"No test image of {root} is good; there are {sorted(set(kinds))[:5]}. If "
            "one of these means good, rename its folder to good.",
            UserWarning,
        )
