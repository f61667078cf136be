"""Metrics of heat maps: higher = more anomalous; masks: True = anomalous."""

import cv2
import numpy as np

from skdinoad._inputs.labels import named_array
from skdinoad._typing import MapsLike
from skdinoad.metrics._curves import average_precision, f1_max, partial_area

__all__ = [
    "aupro_score",
    "check_fpr_limit",
    "check_numbers",
    "check_pair",
    "pixel_ap_score",
    "pixel_auroc_score",
    "pixel_f1_max_score",
    "region_shares",
]


def aupro_score(masks: MapsLike, maps: MapsLike, *, fpr_limit: float = 0.3) -> float:
    """Return the area under the per-region overlap curve (AUPRO).

    For each threshold, the curve plots the per-region overlap, the share of a defect's
    pixels that are found, averaged over all defects, against the pixel false positive
    rate. Small defects thus count as much as large ones.

    Parameters
    ----------
    masks : array of shape (n, H, W) or list of (H, W), bool
        True = anomalous. Regions are 8-connected.
    maps : array of shape (n, H, W) or list of (H, W), float
    fpr_limit : float, default=0.3
        Largest false positive rate of the curve. The area is divided by it, so that
        the perfect score is 1.

    Returns
    -------
    score : float
        In 0..1, higher = better; a map without information gets ``fpr_limit / 2``.

    Raises
    ------
    ValueError
        If shapes differ, a map is not finite, or masks lack one class of pixels.

    Notes
    -----
    The area is exact and needs no grid of thresholds. Each pixel of a region of size s,
    one of R regions, raises the curve by 1 / (s R) from the false positive rate at
    which the threshold reaches its score. It adds this amount times the distance to
    the limit. Ties are interpolated linearly, as in scikit-learn.

    References
    ----------
    Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.metrics import aupro_score
    >>> mask = np.zeros((1, 4, 4), bool)
    >>> mask[0, 0, 0] = True
    >>> aupro_score(mask, mask.astype(float))
    1.0
    """
    check_fpr_limit(fpr_limit)
    good, bad, weights = _split(masks, maps, weigh=True)
    above = 1 - np.searchsorted(good, bad, side="right") / len(good)
    from_here = 1 - np.searchsorted(good, bad, side="left") / len(good)
    return partial_area(above, from_here, weights, fpr_limit)


def pixel_auroc_score(masks: MapsLike, maps: MapsLike) -> float:
    """Return the area under the ROC curve over the pixels of all maps together.

    Parameters
    ----------
    masks : array of shape (n, H, W) or list of (H, W), bool
    maps : array of shape (n, H, W) or list of (H, W), float

    Returns
    -------
    score : float
        In 0..1, higher = better, 0.5 for a map without information. Equal to
        ``sklearn.metrics.roc_auc_score``, but several times faster.

    Raises
    ------
    ValueError
        If shapes differ, a map is not finite, or masks lack one class of pixels.

    Examples
    --------
    >>> from skdinoad.metrics import pixel_auroc_score
    >>> pixel_auroc_score([[[True, False]]], [[[0.9, 0.2]]])
    1.0
    """
    good, bad, _ = _split(masks, maps)
    below = np.searchsorted(good, bad, side="left").mean()
    not_above = np.searchsorted(good, bad, side="right").mean()
    return float((below + not_above) / (2 * len(good)))


def pixel_ap_score(masks: MapsLike, maps: MapsLike) -> float:
    """Return the average precision over the pixels of all maps together.

    Parameters
    ----------
    masks : array of shape (n, H, W) or list of (H, W), bool
    maps : array of shape (n, H, W) or list of (H, W), float

    Returns
    -------
    score : float
        In 0..1, higher = better; the share of anomalous pixels for a map without
        information. Equal to ``sklearn.metrics.average_precision_score``, but faster.

    Raises
    ------
    ValueError
        If shapes differ, a map is not finite, or masks lack one class of pixels.

    Examples
    --------
    >>> from skdinoad.metrics import pixel_ap_score
    >>> pixel_ap_score([[[True, False, True]]], [[[0.9, 0.5, 0.2]]])
    0.83...
    """
    return average_precision(*_levels(masks, maps))


def pixel_f1_max_score(masks: MapsLike, maps: MapsLike) -> float:
    """Return the best F1 of the pixels of all maps together, over all thresholds.

    Parameters
    ----------
    masks : array of shape (n, H, W) or list of (H, W), bool
    maps : array of shape (n, H, W) or list of (H, W), float

    Returns
    -------
    score : float
        In 0..1, higher = better. The threshold is chosen on the test masks themselves,
        as in the papers, so the score is optimistic.

    Raises
    ------
    ValueError
        If shapes differ, a map is not finite, or masks lack one class of pixels.

    Examples
    --------
    >>> from skdinoad.metrics import pixel_f1_max_score
    >>> pixel_f1_max_score([[[True, False, True]]], [[[0.9, 0.5, 0.2]]])
    0.8
    """
    return f1_max(*_levels(masks, maps))


def check_fpr_limit(fpr_limit):
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit={fpr_limit!r}: expected a share above 0, up to 1.")


def _levels(masks, maps):
    """Return bad and good pixels found at each level, and the number of bad ones."""
    good, bad, _ = _split(masks, maps)
    levels, counts = np.unique(bad, return_counts=True)
    false = len(good) - np.searchsorted(good, levels, side="left")
    return counts[::-1].cumsum(), false[::-1], len(bad)


def _split(masks, maps, *, weigh=False):
    """Return sorted scores of good pixels, scores of bad ones, and their weights."""
    check_numbers(masks, maps)
    good, bad, weights = [], [], []
    for i, (mask, heat) in enumerate(zip(masks, maps)):
        mask, heat = check_pair(mask, heat, i)
        good.append(heat[~mask])
        bad.append(heat[mask])
        if weigh:
            weights.append(region_shares(mask))
    good, bad = np.sort(np.concatenate(good)), np.concatenate(bad)
    if not len(good) or not len(bad):
        raise ValueError("The masks hold pixels of one kind only; both are needed.")
    weights = np.concatenate(weights) if weigh else np.ones(len(bad))
    return good, bad, weights / weights.sum()


def check_numbers(masks, maps):
    """Raise an error unless there are equally many masks and maps."""
    for name, part in (("masks", masks), ("maps", maps)):
        if not np.iterable(part) or not hasattr(part, "__len__"):
            raise TypeError(
                f"{name} is a {type(part).__name__}; expected an array of shape "
                "(n, H, W) or a list of (H, W)."
            )
    if len(masks) != len(maps):
        raise ValueError(f"Got {len(masks)} masks and {len(maps)} maps.")


def check_pair(mask, heat, row):
    """Return a mask and its map as validated arrays; messages name the ``row``."""
    mask = named_array(mask, f"Row {row}: the mask")
    heat = named_array(heat, f"Row {row}: the map")
    numbers = mask.dtype.kind in "buif" and heat.dtype.kind in "buif"
    if not numbers or mask.shape != heat.shape or heat.ndim != 2:
        raise ValueError(
            f"Row {row}: expected a mask and a map of one shape (H, W), got a mask of "
            f"shape {mask.shape}, dtype {mask.dtype}, and a map of shape {heat.shape}, "
            f"dtype {heat.dtype}."
        )
    if (mask != mask).any():  # NaN would become True
        raise ValueError(f"Row {row}: the mask holds NaN; expected True and False.")
    if not np.isfinite(heat).all():
        raise ValueError(
            f"Row {row}: the map holds {(~np.isfinite(heat)).sum()} NaN or inf; "
            "expected finite values."
        )
    return mask.astype(bool), heat


def region_shares(mask):
    """Return, for each True pixel, 1 / (size of its region)."""
    if not mask.any():
        return np.empty(0)
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    labels = labels[mask]
    return 1 / np.bincount(labels)[labels]
