"""Loaders of public data sets, in the folder layouts of their authors."""

import csv
import json
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils import Bunch

from skdinoad._typing import FilePath, RandomState
from skdinoad.datasets._folder import (
    bunch_of,
    kinds_of,
    load_folder,
    masks_of,
    normals_in,
)
from skdinoad.datasets._lazy import LazyMasks
from skdinoad.datasets._listing import TRUTH, below, fold, is_good, list_images

__all__ = [
    "load_btad",
    "load_kolektor_sdd",
    "load_mpdd",
    "load_mvtec_3d",
    "load_mvtec_ad",
    "load_mvtec_ad2",
    "load_mvtec_loco",
    "load_real_iad",
    "load_visa",
]


def load_mvtec_ad(root: FilePath, category: str) -> Bunch:
    """List the images of a category of MVTec AD.

    Parameters
    ----------
    root : str or path
        The unpacked data set; nothing is downloaded.
    category : str
        "bottle", "cable", ...

    Returns
    -------
    Bunch
        As of :func:`load_folder`.

    Raises
    ------
    FileNotFoundError
        If there is no such category, or no image in it.

    References
    ----------
    Bergmann, Fauser, Sattlegger, Steger, "MVTec AD", CVPR 2019. CC BY-NC-SA 4.0.
    """
    return load_folder(category_folder(root, category))


def load_mpdd(root: FilePath, category: str) -> Bunch:
    """List the images of a category of MPDD, metal parts in any pose.

    Parameters and the Bunch are as in :func:`load_mvtec_ad`.

    References
    ----------
    Jezek et al., "Deep learning-based defect detection of metal parts", ICUMT 2021.
    CC BY-NC-SA 4.0.
    """
    return load_folder(category_folder(root, category))


def load_mvtec_ad2(
    root: FilePath,
    category: str,
    *,
    test: Literal["public", "private", "private_mixed"] = "public",
) -> Bunch:
    """List the images of a category of MVTec AD 2.

    Parameters
    ----------
    root : str or path
    category : str
        "can", "fabric", "fruit_jelly", ...
    test : {"public", "private", "private_mixed"}
        Only the public part has labels and masks.

    Returns
    -------
    Bunch
        As of :func:`load_folder`, with normal images in ``validation``. For the private
        parts ``y``, ``kinds`` and ``masks`` are None.

    Raises
    ------
    FileNotFoundError
        If there is no such category, or no image in it.

    References
    ----------
    Heckler-Kram et al., "The MVTec AD 2 Dataset", arXiv 2503.21622. CC BY-NC-SA 4.0.
    """
    if test not in ("public", "private", "private_mixed"):
        raise ValueError(f"test={test!r}: expected public, private or private_mixed.")
    folder, part = category_folder(root, category), f"test_{test}"
    files = list_images(folder, "train", "validation", part)
    train = _some(folder / "train/good", normals_in(folder, files, "train"))
    validation = normals_in(folder, files, "validation")
    found = _some(folder / part, below(files, part))
    if test != "public":  # labels and masks are not published
        return bunch_of(folder, train, found, None, None, validation)
    truth = below(files, part, TRUTH)
    good_first = sorted(found, key=lambda path: not is_good(path.parts[1]))
    tested = {path: found[path] for path in good_first if path not in truth}
    named = {path: place.with_suffix("") for path, place in truth.items()}
    masks = masks_of(folder, tested, named, "{}_mask")
    kinds = kinds_of(folder, tested)
    return bunch_of(folder, train, tested, kinds, masks, validation)


def load_mvtec_loco(root: FilePath, category: str) -> Bunch:
    """List the images of a category of MVTec LOCO AD, with logical anomalies.

    Parameters
    ----------
    root : str or path
    category : str
        "breakfast_box", "juice_bottle", ...

    Returns
    -------
    Bunch
        As of :func:`load_folder`, with normal images in ``validation``. A mask is the
        union of its image's regions; the saturation thresholds of the authors' metric
        (sPRO) are not read.

    Raises
    ------
    FileNotFoundError
        If there is no such category, or no image in it.

    References
    ----------
    Bergmann et al., "Beyond Dents and Scratches", IJCV 130, 2022. CC BY-NC-SA 4.0.
    """
    folder = category_folder(root, category)
    files = list_images(folder, "train", "validation", "test", TRUTH)
    train = _some(folder / "train/good", normals_in(folder, files, "train"))
    test = _some(folder / "test", below(files, "test"))
    regions = {path: place.parent for path, place in below(files, TRUTH).items()}
    masks = masks_of(folder, test, regions, "{}")
    validation = normals_in(folder, files, "validation")
    return bunch_of(folder, train, test, kinds_of(folder, test), masks, validation)


def load_mvtec_3d(root: FilePath, category: str) -> Bunch:
    """List the colour images of a category of MVTec 3D-AD, without the depth data.

    Parameters
    ----------
    root : str or path
    category : str
        "bagel", "cable_gland", ...

    Returns
    -------
    Bunch
        As of :func:`load_folder`, with normal images in ``validation``.

    Raises
    ------
    FileNotFoundError
        If there is no such category, or no colour image in it.

    References
    ----------
    Bergmann, Jin, Sattlegger, Steger, "The MVTec 3D-AD Dataset for Unsupervised 3D
    Anomaly Detection and Localization", VISAPP 2022. CC BY-NC-SA 4.0.
    """
    folder = category_folder(root, category)
    files = list_images(folder, "train", "validation", "test")
    colour = [path for path in files if fold(path.parent.name) == "rgb"]
    truth = [path for path in files if fold(path.parent.name) == "gt"]
    train = _some(folder / "train/good/rgb", normals_in(folder, colour, "train"))
    test = _beside_kind(_some(folder / "test", below(colour, "test")))
    marked = _beside_kind(below(truth, "test"))
    named = {path: place.with_suffix("") for path, place in marked.items()}
    kinds = kinds_of(folder, test)
    # Good images have empty mask files, which are never read.
    masks = masks_of(folder, test, named, "{}")
    validation = normals_in(folder, colour, "validation")
    return bunch_of(folder, train, test, kinds, masks, validation)


def load_real_iad(
    root: FilePath, category: str, *, size: int = 1024, split: str = "realiad_jsons"
) -> Bunch:
    """List the images of a category of Real-IAD, using the authors' splits.

    Parameters
    ----------
    root : str or path
        Holds ``realiad_jsons``, and ``realiad_1024`` or another size.
    category : str
        "audiojack", "bottle_cap", ...
    size : {256, 512, 1024}
        Image size, which selects the folder of images.
    split : str
        Folder of the authors' lists: "realiad_jsons" has five views of each part,
        "realiad_jsons_sv" a single view. "realiad_jsons_fuiad_0.1", ... have defects
        among the training images; these are left out.

    Returns
    -------
    Bunch
        As of :func:`load_folder`, plus ``groups``, the part shown in each image of
        ``train``. Use it in cross-validation to keep all views of a part in one fold.

    Raises
    ------
    FileNotFoundError
        If the list does not exist or holds no image.

    References
    ----------
    Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile
    Industrial Anomaly Detection", CVPR 2024. CC BY-NC-SA 4.0.
    """
    name = f"{category}.json"
    places = [Path(root, "realiad_jsons", split, name), Path(root, split, name)]
    listed = next((path for path in places if path.is_file()), None)
    if listed is None:
        raise FileNotFoundError(f"{places[0]} is missing; it comes with the data set.")
    known = json.loads(listed.read_text(encoding="utf-8"))
    normal, prefix = known["meta"]["normal_class"], known["meta"]["prefix"]
    train = [row for row in known["train"] if row["anomaly_class"] == normal]
    test = known["test"]
    if not train or not test:
        raise FileNotFoundError(f"{listed} lists no training image or no test image.")
    kinds = [row["anomaly_class"] for row in test]
    kinds = ["good" if kind == normal else kind for kind in kinds]
    masks = [row["mask_path"] and (Path(prefix, row["mask_path"]),) for row in test]
    paths = [
        [Path(prefix, row["image_path"]) for row in rows] for rows in (train, test)
    ]
    out = bunch_of(Path(root, f"realiad_{size}"), *paths, kinds, masks)
    out.groups = np.array([path.parent.name for path in paths[0]])
    return out


def load_visa(
    root: FilePath,
    category: str,
    *,
    split: Literal["1cls", "2cls_fewshot", "2cls_highshot"] = "1cls",
) -> Bunch:
    """List the images of a category of VisA.

    Parameters
    ----------
    root : str or path
        Holds ``split_csv`` and the categories.
    category : str
        "candle", "capsules", ...
    split : {"1cls", "2cls_fewshot", "2cls_highshot"}
        The authors' splits. Anomalous training images of the last two are left out.

    Returns
    -------
    Bunch
        As of :func:`load_folder`; ``kinds`` are "good" and "anomaly".

    Raises
    ------
    FileNotFoundError
        If there is no such category or list.

    References
    ----------
    Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection
    and Segmentation", ECCV 2022. CC BY 4.0.
    """
    root = Path(root)
    category_folder(root, category)
    listed = root / "split_csv" / f"{split}.csv"
    if not listed.is_file():
        raise FileNotFoundError(f"{listed} is missing; it comes with the data set.")
    with listed.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["object"] == category]
    train = [r for r in rows if r["split"] == "train" and is_good(r["label"])]
    test = [row for row in rows if row["split"] == "test"]
    kinds = ["good" if is_good(row["label"]) else "anomaly" for row in test]
    masks = [(row["mask"],) if row["mask"] else None for row in test]
    paths = [[row["image"] for row in part] for part in (train, test)]
    if not all(paths):
        raise FileNotFoundError(f"{listed} lists no image of {category!r}.")
    return bunch_of(root, *paths, kinds, masks)


def load_btad(root: FilePath, category: str) -> Bunch:
    """List the images of a product of BTAD.

    Parameters
    ----------
    root : str or path
        ``BTech_Dataset_transformed``.
    category : {"01", "02", "03"}

    Returns
    -------
    Bunch
        As of :func:`load_folder`; ``kinds`` are "good" and "ko".

    Raises
    ------
    FileNotFoundError
        If there is no such product, or no image in it.

    References
    ----------
    Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and
    Localization", ISIE 2021. CC BY-SA.
    """
    folder = category_folder(root, category)
    files = list_images(folder, "train", "test", TRUTH)
    train = _some(folder / "train/ok", normals_in(folder, files, "train"))
    test = _some(folder / "test", below(files, "test"))
    named = {path: place.with_suffix("") for path, place in below(files, TRUTH).items()}
    masks = masks_of(folder, test, named, "{}")
    return bunch_of(folder, train, test, kinds_of(folder, test), masks)


def load_kolektor_sdd(
    root: FilePath, *, test_share: float = 0.5, random_state: RandomState = 0
) -> Bunch:
    """List the images of KolektorSDD, with a random one-class split by commutator.

    Parameters
    ----------
    root : str or path
        Holds ``kos01`` to ``kos50``, one folder for each commutator.
    test_share : float
        Share of the commutators in the test set. All images of a commutator are in the
        same set, because its eight sides look similar.
    random_state : int
        Seed of the split.

    Returns
    -------
    Bunch
        As of :func:`load_folder`, plus ``groups``, the commutator of each image of
        ``train``. ``train`` holds the defect-free images of the remaining commutators;
        their defective images are not used. All masks are read.

    Raises
    ------
    FileNotFoundError
        If there is no image.

    References
    ----------
    Tabernik et al., "Segmentation-based deep-learning approach for surface-defect
    detection", Journal of Intelligent Manufacturing 31, 2020. CC BY-NC-SA 4.0.
    """
    files = list_images(root)
    named = {p: p.with_suffix("") for p in files if fold(p.stem).endswith("_label")}
    paths = [path for path in files if path not in named]
    if not paths:
        raise FileNotFoundError(f"{root} holds no image; expected kos01/Part0.jpg, ...")
    masks = masks_of(root, {path: path for path in paths}, named, "{}_label")
    kinds = _kinds_by_mask(Path(root), paths, masks)
    items = np.array([path.parent.name for path in paths])
    splitter = GroupShuffleSplit(1, test_size=test_share, random_state=random_state)
    learned, tested = next(splitter.split(paths, groups=items))
    learned = [i for i in learned if kinds[i] == "good"]
    test = [[part[i] for i in tested] for part in (paths, kinds, masks)]
    out = bunch_of(root, [paths[i] for i in learned], *test)
    out.groups = items[learned]
    return out


def category_folder(root, category):
    """Return the folder of a category, or raise an error that lists the categories."""
    folder = Path(root) / category
    if not folder.is_dir():
        there = Path(root).iterdir() if Path(root).is_dir() else ()
        names = sorted(path.name for path in there if path.is_dir())
        raise FileNotFoundError(
            f"{folder} is not a folder; below {str(root)!r} there are {names}. Data "
            "sets are never downloaded: unpack them there."
        )
    return folder


def _beside_kind(paths):
    """Drop the folder "rgb" or "gt" from the relative paths."""
    return {path: place.parent.parent / place.name for path, place in paths.items()}


def _kinds_by_mask(root, paths, masks):
    """Return "bad" for images with a non-empty mask and "good" for the others."""
    for path, files in zip(paths, masks):
        if files is None:
            raise FileNotFoundError(f"{root / path} has no mask {path.stem}_label.bmp.")
    files = [[str(root / path) for path in found] for found in masks]
    marked = LazyMasks([str(root / path) for path in paths], files)
    return ["bad" if mask.any() else "good" for mask in marked]


def _some(folder, paths):
    """Return the paths, or raise an error if there are none."""
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image.")
    return paths
