"""Plant synthetic defects in good images and return their masks."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import cv2
import numpy as np

from skdinoad._compat.sklearn import Interval
from skdinoad._inputs.estimators import drawing_by
from skdinoad._inputs.images import as_images
from skdinoad._typing import DefectKind, ImagesLike, OneOrList, RandomState

__all__ = ["DEFECT_KINDS", "plant_defect", "plant_defects"]


def plant_defect(
    image: np.ndarray,
    *,
    kind: DefectKind = "scratch",
    size: float = 0.15,
    where: np.ndarray | None = None,
    random_state: RandomState = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Plant a synthetic defect in a copy of an image and return its mask.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    kind : {"scratch", "blob", "cutpaste", "missing"}
        "scratch": a line of the opposite brightness. "blob": a soft spot of another
        colour. "cutpaste": a piece of the same image, rotated and pasted elsewhere.
        "missing": a round piece removed and inpainted from its surroundings, at the
        most detailed of eight random positions.
    size : float
        Extent of the defect relative to the shorter edge of the image.
    where : ndarray of shape (H, W), bool, or None
        Allowed positions of the defect's centre, for example the pixels of the part.
        None allows all positions except close to the edges.
    random_state : int, RandomState or None
        Seed for position and direction.

    Returns
    -------
    defective : ndarray of shape (H, W, 3), uint8
    mask : ndarray of shape (H, W), bool
        True for pixels that the defect changed.

    Raises
    ------
    ValueError
        If the kind is unknown, the image is invalid or too small, or ``where`` is empty
        or differs from the image in shape.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.datasets import plant_defect
    >>> good = np.full((64, 64, 3), 120, dtype=np.uint8)
    >>> bad, mask = plant_defect(good, kind="blob")
    >>> bool((bad[~mask] == good[~mask]).all()), bool(mask.any())
    (True, True)
    """
    if not isinstance(kind, str) or kind not in _DRAW:
        raise ValueError(f"kind={kind!r}: expected one of {DEFECT_KINDS}.")
    image = np.asarray(image)
    sized = Interval(Real, 0, None, closed="neither").is_satisfied_by(size)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not sized:
        raise ValueError(
            f"Expected an image (H, W, 3), uint8, and a size above 0; got shape "
            f"{image.shape}, dtype {image.dtype}, size={size!r}."
        )
    rng = drawing_by(random_state)
    extent = max(4, round(size * min(image.shape[:2])))
    place = _places(image.shape[:2], extent, where, rng)
    return _DRAW[kind](image, place, extent, rng)


def plant_defects(
    X: ImagesLike,
    *,
    kinds: DefectKind | Sequence[DefectKind] = ("scratch", "blob", "cutpaste"),
    random_state: RandomState = 0,
    **how: Any,
) -> tuple[OneOrList, OneOrList]:
    """Plant one synthetic defect in a copy of each image and return the masks.

    Parameters
    ----------
    X : array, list of images or paths
        Good images without transparency.
    kinds : sequence of str
        Kinds of defects, used in turn and repeated; see :func:`plant_defect`.
    random_state : int, RandomState or None
        Seed for positions and directions.
    **how
        ``size`` and ``where``, passed to :func:`plant_defect`.

    Returns
    -------
    defective : ndarray of shape (n, H, W, 3), uint8
        A list of arrays if the images differ in size.
    masks : ndarray of shape (n, H, W), bool, or list of (H, W)

    Examples
    --------
    >>> from skdinoad.datasets import make_screws, plant_defects
    >>> good, _ = make_screws(3, size=64)
    >>> bad, masks = plant_defects(good)
    >>> bad.shape, bool(masks.any(axis=(1, 2)).all())
    ((3, 64, 64, 3), True)
    """
    rng = drawing_by(random_state)
    kinds = _as_kinds(kinds)
    pairs = [
        plant_defect(image, kind=kinds[i % len(kinds)], random_state=rng, **how)
        for i, image in enumerate(as_images(X))
    ]
    bad, masks = zip(*pairs)
    if len({mask.shape for mask in masks}) > 1:
        return list(bad), list(masks)
    return np.stack(bad), np.stack(masks)


def _as_kinds(kinds):
    kinds = kinds.tolist() if isinstance(kinds, np.ndarray) else kinds
    if not isinstance(kinds, Sequence) or not len(kinds):
        raise ValueError(f"kinds={kinds!r}: expected one or more of {DEFECT_KINDS}.")
    return (kinds,) if isinstance(kinds, str) else kinds


def _places(shape, extent, where, rng):
    """Return a function that draws centres (x, y)."""
    if min(shape) <= 2 * extent:
        raise ValueError(
            f"A defect of {extent} pixels does not fit into an image of shape {shape}; "
            "make size smaller."
        )
    if where is None:
        return lambda: [int(rng.uniform(extent, edge - extent)) for edge in shape[::-1]]
    if np.shape(where) != shape:
        raise ValueError(
            f"where has shape {np.shape(where)}, the image {shape}; expected the same."
        )
    inside = np.zeros(shape, bool)
    inside[extent:-extent, extent:-extent] = True
    places = np.argwhere(inside & np.asarray(where, bool))
    if not len(places):
        raise ValueError(f"where has no pixel that is {extent} pixels from the edges.")
    return lambda: places[rng.randint(len(places))][::-1].tolist()


def _scratch(image, place, extent, rng):
    centre = place()
    angle = rng.uniform(0, np.pi)
    step = extent / 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in centre + s * step) for s in (-1, 1)]
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.line(mask, *ends, 1, max(2, extent // 10))
    x, y = centre
    opposite = 0 if image[y, x].mean() > 127 else 255
    return np.where(mask[..., None] > 0, np.uint8(opposite), image), mask > 0


def _blob(image, place, extent, rng):
    centre = place()
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = np.hypot(columns - centre[0], rows - centre[1]) / (extent / 2)
    share = np.clip(1.5 - 1.5 * distance, 0, 0.8)[..., None]
    color = rng.uniform(0, 255, 3)
    out = (image * (1 - share) + color * share).round().astype(np.uint8)
    return np.where(share > 0, out, image), share[..., 0] > 0


def _cutpaste(image, place, extent, rng):
    centre, half = place(), extent // 2
    height, width = image.shape[:2]
    y, x = (int(rng.uniform(0, edge - 2 * half)) for edge in (height, width))
    piece = np.rot90(image[y : y + 2 * half, x : x + 2 * half])
    rows = slice(centre[1] - half, centre[1] + half)
    columns = slice(centre[0] - half, centre[0] + half)
    out, mask = image.copy(), np.zeros(image.shape[:2], bool)
    out[rows, columns], mask[rows, columns] = piece, True
    return out, mask


def _missing(image, place, extent, rng):
    discs = []
    for _ in range(8):
        disc = np.zeros(image.shape[:2], np.uint8)
        cv2.circle(disc, place(), extent // 2, 1, -1)
        discs.append(disc)
    disc = max(discs, key=lambda disc: image[disc > 0].std(axis=0).sum())
    filled = cv2.inpaint(image[..., :3], disc, 3, cv2.INPAINT_TELEA)
    return np.where(disc[..., None] > 0, filled, image), disc > 0


_DRAW = {
    "scratch": _scratch,
    "blob": _blob,
    "cutpaste": _cutpaste,
    "missing": _missing,
}

#: Kinds of defects of ``plant_defect``.
DEFECT_KINDS = tuple(_DRAW)
