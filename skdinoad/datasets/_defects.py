"""Defects planted in good images, with the mask of what was changed."""

import cv2
import numpy as np
from sklearn.utils import check_random_state

__all__ = ["plant_defect"]


def plant_defect(image, *, kind="scratch", size=0.15, random_state=0):
    """Return a copy of an image with a defect, and where it is.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    kind : {"scratch", "blob", "cutpaste"}
        A line of the opposite brightness; a soft spot of another colour; a piece of
        the same image, turned, in another place.
    size : float
        Extent over the shorter edge of the image.
    random_state : int, RandomState or None
        Draws place and direction.

    Returns
    -------
    defective : ndarray of shape (H, W, 3), uint8
    mask : ndarray of shape (H, W), bool
        True where pixels were changed on purpose.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.datasets import plant_defect
    >>> good = np.full((64, 64, 3), 120, dtype=np.uint8)
    >>> bad, mask = plant_defect(good, kind="blob")
    >>> bool((bad[~mask] == good[~mask]).all()), bool(mask.any())
    (True, True)
    """
    draw = {"scratch": _scratch, "blob": _blob, "cutpaste": _cutpaste}.get(kind)
    if draw is None:
        raise ValueError(f"kind={kind!r}: expected scratch, blob or cutpaste.")
    rng = check_random_state(random_state)
    extent = max(4, round(size * min(image.shape[:2])))
    centre = [int(rng.uniform(extent, edge - extent)) for edge in image.shape[1::-1]]
    return draw(image, centre, extent, rng)


def _scratch(image, centre, extent, rng):
    angle = rng.uniform(0, np.pi)
    step = extent / 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in centre + s * step) for s in (-1, 1)]
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.line(mask, *ends, 1, max(2, extent // 10))
    x, y = centre
    opposite = 0 if image[y, x].mean() > 127 else 255
    return np.where(mask[..., None] > 0, np.uint8(opposite), image), mask > 0


def _blob(image, centre, extent, rng):
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = np.hypot(columns - centre[0], rows - centre[1]) / (extent / 2)
    share = np.clip(1.5 - 1.5 * distance, 0, 0.8)[..., None]
    color = rng.uniform(0, 255, 3)
    out = (image * (1 - share) + color * share).round().astype(np.uint8)
    return np.where(share > 0, out, image), share[..., 0] > 0


def _cutpaste(image, centre, extent, rng):
    half = extent // 2
    height, width = image.shape[:2]
    y, x = (int(rng.uniform(0, edge - 2 * half)) for edge in (height, width))
    piece = np.rot90(image[y : y + 2 * half, x : x + 2 * half])
    rows = slice(centre[1] - half, centre[1] + half)
    columns = slice(centre[0] - half, centre[0] + half)
    out, mask = image.copy(), np.zeros(image.shape[:2], bool)
    out[rows, columns], mask[rows, columns] = piece, True
    return out, mask
