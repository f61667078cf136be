"""Public data sets, each in the folders its authors ship it in."""

import csv
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from skdinoad.datasets._folder import (
    bunch_of,
    category_folder,
    images_in,
    load_folder,
    mask_files,
)
from skdinoad.datasets._lazy import read_mask

__all__ = [
    "load_btad",
    "load_kolektor_sdd",
    "load_mpdd",
    "load_mvtec_ad",
    "load_mvtec_ad2",
    "load_mvtec_loco",
    "load_visa",
]


def load_mvtec_ad(root, category):
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


def load_mpdd(root, category):
    """List the images of a category of MPDD, metal parts in any pose.

    Parameters and the Bunch are as in :func:`load_mvtec_ad`.

    References
    ----------
    Jezek et al., "Deep learning-based defect detection of metal parts", ICUMT 2021.
    CC BY-NC-SA 4.0.
    """
    return load_folder(category_folder(root, category))


def load_mvtec_ad2(root, category, *, test="public"):
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
    folder = category_folder(root, category)
    train = _some(folder / "train" / "good")
    validation = images_in(folder / "validation" / "good")
    part = folder / f"test_{test}"
    if test != "public":
        paths = _some(part)
        out = bunch_of(train, paths, ["unknown"] * len(paths), paths, validation)
        out.y = out.kinds = out.masks = None  # they are its authors' alone
        return out
    paths = [*images_in(part / "good"), *_some(part / "bad")]
    kinds = [path.parent.name for path in paths]
    truth = part / "ground_truth" / "bad"
    masks = [mask_files(truth, f"{path.stem}_mask") for path in paths]
    return bunch_of(train, paths, kinds, masks, validation)


def load_mvtec_loco(root, category):
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
        union of its image's regions; the saturation thresholds of the authors' own
        metric (sPRO) are not read.

    Raises
    ------
    FileNotFoundError
        If there is no such category, or no image in it.

    References
    ----------
    Bergmann et al., "Beyond Dents and Scratches", IJCV 130, 2022. CC BY-NC-SA 4.0.
    """
    folder = category_folder(root, category)
    paths = _some(folder / "test")
    kinds = [path.parent.name for path in paths]
    regions = [
        images_in(folder / "ground_truth" / kind / path.stem)
        for kind, path in zip(kinds, paths)
    ]
    masks = [tuple(map(str, files)) or None for files in regions]
    validation = images_in(folder / "validation" / "good")
    return bunch_of(_some(folder / "train" / "good"), paths, kinds, masks, validation)


def load_visa(root, category, *, split="1cls"):
    """List the images of a category of VisA.

    Parameters
    ----------
    root : str or path
        Holds ``split_csv`` and the categories.
    category : str
        "candle", "capsules", ...
    split : {"1cls", "2cls_fewshot", "2cls_highshot"}
        The authors' lists. Anomalous training images of the last two are left out.

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
    with listed.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["object"] == category]
    train = [r for r in rows if r["split"] == "train" and r["label"] == "normal"]
    test = [row for row in rows if row["split"] == "test"]
    kinds = ["good" if row["label"] == "normal" else "anomaly" for row in test]
    masks = [(str(root / row["mask"]),) if row["mask"] else None for row in test]
    paths = [[root / row["image"] for row in part] for part in (train, test)]
    if not all(paths):
        raise FileNotFoundError(f"{listed} lists no image of {category!r}.")
    return bunch_of(*paths, kinds, masks)


def load_btad(root, category):
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
    paths = _some(folder / "test")
    kinds = ["good" if path.parent.name == "ok" else "ko" for path in paths]
    masks = [mask_files(folder / "ground_truth" / "ko", path.stem) for path in paths]
    return bunch_of(_some(folder / "train" / "ok"), paths, kinds, masks)


def load_kolektor_sdd(root, *, test_share=0.5, random_state=0):
    """List the images of KolektorSDD, which has no split of its own for one class.

    Parameters
    ----------
    root : str or path
        Holds ``kos01`` to ``kos50``, one folder for each commutator.
    test_share : float
        Share of the commutators to test on. All images of one are on the same side:
        its eight sides look more alike than those of two.
    random_state : int
        Draws them.

    Returns
    -------
    Bunch
        As of :func:`load_folder`, and ``groups``, the commutator of each of ``train``.
        ``train`` holds the images with an empty mask of the others; their defective
        ones are not used. The masks of all images are looked at.

    Raises
    ------
    FileNotFoundError
        If there is no image.

    References
    ----------
    Tabernik et al., "Segmentation-based deep-learning approach for surface-defect
    detection", Journal of Intelligent Manufacturing 31, 2020. CC BY-NC-SA 4.0.
    """
    paths = [p for p in images_in(Path(root)) if not p.stem.endswith("_label")]
    if not paths:
        raise FileNotFoundError(f"{root} holds no image; expected kos01/Part0.jpg, ...")
    items = np.array([path.parent.name for path in paths])
    masks = [mask_files(path.parent, f"{path.stem}_label") for path in paths]
    for path, files in zip(paths, masks):
        if files is None:
            raise FileNotFoundError(f"{path} has no mask {path.stem}_label.bmp.")
    kinds = ["bad" if read_mask(files[0]).any() else "good" for files in masks]
    splitter = GroupShuffleSplit(1, test_size=test_share, random_state=random_state)
    learned, tested = next(splitter.split(paths, groups=items))
    learned = [i for i in learned if kinds[i] == "good"]
    test = [[part[i] for i in tested] for part in (paths, kinds, masks)]
    out = bunch_of([paths[i] for i in learned], *test)
    out.groups = items[learned]
    return out


def _some(folder):
    """Return the images below a folder; there must be one."""
    paths = images_in(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image.")
    return paths
