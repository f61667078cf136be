"""Pixel metrics for test sets that do not fit into memory."""

import numpy as np
from numpy.typing import ArrayLike

from skdinoad._typing import MapsLike, MasksLike, Self
from skdinoad.metrics._curves import average_precision, f1_max, partial_area
from skdinoad.metrics._pixel import (
    check_fpr_limit,
    check_numbers,
    check_pair,
    region_shares,
)

__all__ = ["N_BINS", "StreamingPixelMetrics", "bins_of", "upper_edges"]

#: Mantissa bits dropped from a score, which leaves 2**20 bins with a relative width of
#: 1/2048.
_DROPPED = 12
N_BINS = 2 ** (32 - _DROPPED)


def bins_of(scores: ArrayLike) -> np.ndarray:
    """Return the bin index of each score as int64; the order of scores is preserved.

    A bin holds all float32 numbers with the same sign, exponent and first 11 bits of
    the mantissa. The range of scores need not be known beforehand.
    """
    scores = np.asarray(scores, np.float32) + np.float32(0)  # turns -0 into 0
    bits = scores.view(np.uint32)
    sign = np.uint32(2**31)
    ordered = np.where(bits < sign, bits | sign, ~bits)
    return (ordered >> np.uint32(_DROPPED)).astype(np.int64)


def upper_edges(bins: ArrayLike) -> np.ndarray:
    """Return the largest float32 number of each bin."""
    # All operands are uint32: numpy 1 promotes a scalar and a Python int to int64.
    low = np.uint32(2**_DROPPED - 1)
    ordered = (np.asarray(bins).astype(np.uint32) << np.uint32(_DROPPED)) | low
    sign = np.uint32(2**31)
    return np.where(ordered < sign, ~ordered, ordered ^ sign).view(np.float32)


class StreamingPixelMetrics:
    """AUPRO, AUROC, AP and F1-max of heat maps, batch by batch in constant memory.

    Scores are counted in a million bins, which take 24 MB for any number of pixels. The
    width of a bin is 1/2048 of its distance from the median of the first map. Scores in
    one bin count as equal: results agree with the exact metrics to about 1e-3, mostly
    1e-4.

    See Also
    --------
    aupro_score, pixel_auroc_score, pixel_ap_score, pixel_f1_max_score : Exact.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.metrics import StreamingPixelMetrics
    >>> metrics, mask = StreamingPixelMetrics(), np.zeros((4, 4), bool)
    >>> mask[0, 0] = True
    >>> for _ in range(3):
    ...     metrics = metrics.update([mask], [mask.astype(float)])
    >>> metrics.aupro(), metrics.f1_max()
    (1.0, 1.0)
    """

    def __init__(self) -> None:
        self._good = np.zeros(N_BINS, np.int64)
        self._bad = np.zeros(N_BINS, np.int64)
        self._shares = np.zeros(N_BINS)
        self.n_maps_, self._middle = 0, None

    def update(self, masks: MasksLike, maps: MapsLike) -> Self:
        """Count the pixels of one batch of maps.

        Parameters
        ----------
        masks : array of shape (n, H, W) or list of (H, W), bool
            True = anomalous; None in a list is an empty mask. Regions are 8-connected.
        maps : array of shape (n, H, W) or list of (H, W), float

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If shapes differ or a map is not finite. In that case no map is counted.
        """
        check_numbers(masks, maps)
        pairs = [
            check_pair(_known(mask, heat), heat, self.n_maps_ + i)
            for i, (mask, heat) in enumerate(zip(masks, maps))
        ]
        if self._middle is None and pairs:
            self._middle = np.median(pairs[0][1])  # bins are narrow around 0
        for mask, heat in pairs:
            bins, shares = bins_of(heat - self._middle), region_shares(mask)
            np.add.at(self._good, bins[~mask], 1)
            np.add.at(self._bad, bins[mask], 1)
            np.add.at(self._shares, bins[mask], shares)
        self.n_maps_ += len(pairs)
        return self

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Return the area under the per-region overlap curve, in 0..1."""
        check_fpr_limit(fpr_limit)
        return partial_area(*self._levels(), self._weights(self._shares), fpr_limit)

    def pro_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the per-region overlap curve; its area is :meth:`aupro`.

        Returns
        -------
        fpr : ndarray of shape (k,)
            Share of good pixels above a threshold, from 0 to 1.
        pro : ndarray of shape (k,)
            Share of a region's pixels above the threshold, averaged over all regions,
            from 0 to 1.
        """
        found = np.cumsum([0, *self._weights(self._shares)])
        x = np.stack(self._levels(), axis=1)  # before and after each level
        y = np.stack([found[:-1], found[1:]], axis=1)
        return np.array([0, *x.flat, 1]), np.array([0, *y.flat, 1])

    def auroc(self) -> float:
        """Return the area under the ROC curve over all pixels, in 0..1."""
        return partial_area(*self._levels(), self._weights(self._bad), 1)

    def average_precision(self) -> float:
        """Return the average precision over all pixels, in 0..1."""
        return average_precision(*self._counts())

    def f1_max(self) -> float:
        """Return the best F1 over all pixels and thresholds, in 0..1."""
        return f1_max(*self._counts())

    def _used(self):
        """Return the bins that hold bad pixels, the highest first."""
        used = np.flatnonzero(self._bad)[::-1]
        if not len(used) or not self._good.any():
            raise ValueError("The masks hold pixels of one kind only; both are needed.")
        return used

    def _levels(self):
        used, from_here = self._used(), self._good[::-1].cumsum()[::-1]
        above = from_here - self._good
        return above[used] / from_here[0], from_here[used] / from_here[0]

    def _weights(self, weights):
        weights = weights[self._used()]
        return weights / weights.sum()

    def _counts(self):
        used = self._used()
        from_here = self._good[::-1].cumsum()[::-1]
        return self._bad[used].cumsum(), from_here[used], self._bad.sum()


def _known(mask, heat):
    return np.zeros(np.shape(heat), bool) if mask is None else mask
