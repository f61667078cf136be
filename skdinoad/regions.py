"""Find the regions of heat maps above a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from skdinoad._typing import MapsLike

__all__ = ["Region", "find_regions", "regions_table"]


@dataclass(frozen=True, eq=False)
class Region:
    """Connected region of a heat map above a threshold.

    Attributes
    ----------
    box : (int, int, int, int)
        Top, left, bottom, right; the last two are exclusive:
        ``map[box[0]:box[2], box[1]:box[3]]``, as in skimage's ``bbox``.
    area : int
        Number of pixels.
    peak, mean : float
        Largest and mean map value.
    place : (int, int)
        Row and column of the peak.
    mask : ndarray of shape (box height, box width), bool
        Pixels of the box that belong to the region.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    mean: float
    place: tuple[int, int]
    mask: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes except the mask, in a form that JSON can store."""
        return {
            "box": list(self.box),
            "area": self.area,
            "peak": round(self.peak, 6),
            "mean": round(self.mean, 6),
            "place": list(self.place),
        }


def find_regions(
    maps: MapsLike, threshold: ArrayLike, *, min_area: int = 1
) -> list[Any]:
    """Return the regions of each heat map above a threshold, the highest peak first.

    Parameters
    ----------
    maps : array of shape (n, H, W), list of (H, W), or one map (H, W)
        Higher = more anomalous, as returned by ``predict_map``.
    threshold : float, or array-like of shape (n,)
        Pixels above it form regions. Use ``pixel_threshold_`` of a detector, of a
        Pipeline, or of a ThresholdTunerCV with ``target_pixel_fpr``.
    min_area : int, default=1
        Minimum number of pixels of a region.

    Returns
    -------
    regions : list of list of Region
        One list per map, empty if no pixel is above the threshold; for a single map a
        plain list of Region. Regions are 8-connected.

    Raises
    ------
    ValueError
        If a map is not (H, W) or not finite, or the threshold is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import find_regions
    >>> heat = np.zeros((8, 8))
    >>> heat[1:3, 2:5] = 2
    >>> heat[6, 6] = 5
    >>> [(r.box, r.area, r.peak) for r in find_regions(heat, 1.0)]
    [((6, 6, 7, 7), 1, 5.0), ((1, 2, 3, 5), 6, 2.0)]
    """
    if isinstance(maps, np.ndarray) and maps.ndim == 2:
        return find_regions(maps[np.newaxis], threshold, min_area=min_area)[0]
    if isinstance(threshold, dict):
        raise ValueError(
            f"There is a threshold for each of {list(threshold)}: pass one for each "
            "map, [threshold[group] for group in groups]."
        )
    try:
        thresholds = np.broadcast_to(np.asarray(threshold, float), len(maps))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"threshold={threshold!r} for these maps: {error}. Expected one number, or "
            "one per map."
        ) from error
    if np.isnan(thresholds).any():
        raise ValueError("threshold is NaN: the estimator has no threshold.")
    return [
        _regions(m, t, min_area, i) for i, (m, t) in enumerate(zip(maps, thresholds))
    ]


def regions_table(
    regions: Sequence[Sequence[Region]], names: np.ndarray | Sequence[Any] | None = None
) -> list[dict[str, Any]]:
    """Convert the regions of several images to table rows.

    Parameters
    ----------
    regions : list of list of Region
        Result of :func:`find_regions` for several maps.
    names : sequence or None
        Names of the images, such as their paths; None uses row numbers.

    Returns
    -------
    rows : list of dict
        One per region: "image", "top", "left", "bottom", "right" (the box; the last
        two are exclusive), "area", "peak", "mean", "row", "column" (of the peak).
        Suitable for ``pandas.DataFrame(rows)`` and ``csv.DictWriter``.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import find_regions, regions_table
    >>> maps = np.zeros((2, 8, 8))
    >>> maps[1, 2:4, 5] = 3
    >>> regions_table(find_regions(maps, 1.0), names=["a.png", "b.png"])
    [{'image': 'b.png', 'top': 2, 'left': 5, 'bottom': 4, 'right': 6, 'area': 2,
    'peak': 3.0, 'mean': 3.0, 'row': 2, 'column': 5}]
    """
    names = range(len(regions)) if names is None else names
    if len(names) != len(regions):
        raise ValueError(
            f"Got regions of {len(regions)} images and {len(names)} names."
        )
    return [_row(name, r) for name, found in zip(names, regions) for r in found]


def _row(name, region):
    box = dict(zip(("top", "left", "bottom", "right"), region.box))
    place = dict(zip(("row", "column"), region.place))
    values = {"area": region.area, "peak": region.peak, "mean": region.mean}
    return {"image": name, **box, **values, **place}


def _regions(heat, threshold, min_area, row):
    heat = np.asarray(heat)
    if heat.ndim != 2 or heat.dtype.kind not in "buif":
        raise ValueError(
            f"Row {row}: expected a finite map (H, W), got shape {heat.shape}, dtype "
            f"{heat.dtype}."
        )
    if not np.isfinite(heat).all():
        raise ValueError(
            f"Row {row}: expected a finite map (H, W), got shape {heat.shape} with "
            f"{(~np.isfinite(heat)).sum()} NaN or inf."
        )
    above = (heat > threshold).astype(np.uint8)
    n, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    large = [k for k in range(1, n) if stats[k, cv2.CC_STAT_AREA] >= min_area]
    found = [_region(heat, labels, k, stats[k].tolist()) for k in large]
    return sorted(found, key=lambda region: -region.peak)


def _region(heat, labels, k, stats):
    left, top, width, height, area = stats
    box = (top, left, top + height, left + width)
    part = slice(top, box[2]), slice(left, box[3])
    mask = labels[part] == k
    values = np.where(mask, heat[part], -np.inf)
    y, x = np.unravel_index(values.argmax(), values.shape)
    peak, mean = float(values.max()), float(values[mask].mean(dtype=np.float64))
    return Region(box, area, peak, mean, (top + int(y), left + int(x)), mask)
