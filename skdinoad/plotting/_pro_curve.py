"""Display of the per-region overlap curve."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from skdinoad._typing import DetectorLike, ImagesLike, MasksLike, Self
from skdinoad.metrics import StreamingPixelMetrics
from skdinoad.pipeline import iter_maps
from skdinoad.plotting._shared import axes_grid, exactly

__all__ = ["ProCurveDisplay"]


class ProCurveDisplay:
    """Display of the per-region overlap against the share of good pixels flagged.

    Parameters
    ----------
    fpr : ndarray of shape (k,)
        Share of good pixels above each threshold, in increasing order.
    pro : ndarray of shape (k,)
        Share of a defect's pixels above each threshold, averaged over all defects.
    aupro : float
        The area under the curve up to ``fpr_limit``, divided by ``fpr_limit``.
    fpr_limit : float
        Upper limit of the x axis and of the area.
    name : str or None
        Name of the curve in the legend.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
    line_ : matplotlib Line2D
        The curve.

    See Also
    --------
    skdinoad.metrics.aupro_score : Compute the exact area.
    sklearn.metrics.RocCurveDisplay, sklearn.metrics.PrecisionRecallDisplay
        Curves of image scores; use ``from_predictions(y, -scores, pos_label=-1)``.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.plotting import ProCurveDisplay
    >>> mask = np.eye(4, dtype=bool)
    >>> display = ProCurveDisplay.from_predictions([mask], [mask * 1.0], name="perfect")
    >>> display.line_.get_label()
    'perfect (AUPRO = 1.00)'
    """

    def __init__(
        self,
        fpr: np.ndarray,
        pro: np.ndarray,
        *,
        aupro: float,
        fpr_limit: float,
        name: str | None = None,
    ) -> None:
        self.fpr, self.pro, self.aupro = fpr, pro, aupro
        self.fpr_limit, self.name = fpr_limit, name

    @classmethod
    def from_estimator(
        cls,
        estimator: DetectorLike,
        X: ImagesLike,
        masks: MasksLike,
        *,
        fpr_limit: float = 0.3,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Compute heat maps batch by batch and show their curve.

        Parameters
        ----------
        estimator : fitted detector, Pipeline, search or ThresholdTunerCV
        X : array, list of images or paths
        masks : array of shape (n, H, W) or list of (H, W), bool
            True = anomalous; None in a list is an empty mask.
        fpr_limit : float
        name : str or None
            None uses the name of the estimator's class.
        ax : Axes or None
            Where to draw; several curves can share axes. None creates a figure.

        Returns
        -------
        ProCurveDisplay
            The plotted display.
        """
        name = type(estimator).__name__ if name is None else name
        shown = {"fpr_limit": fpr_limit, "name": name, "ax": ax}
        return cls.from_predictions(masks, iter_maps(estimator, X), **shown)

    @classmethod
    def from_predictions(
        cls,
        masks: MasksLike,
        maps: Iterable[np.ndarray],
        *,
        fpr_limit: float = 0.3,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Show the curve of given maps.

        Parameters
        ----------
        masks : array of shape (n, H, W) or list of (H, W), bool
            True = anomalous; None in a list is an empty mask.
        maps : array of shape (n, H, W), list or iterator of (H, W)
            Higher = more anomalous. The area is computed by
            :class:`skdinoad.metrics.StreamingPixelMetrics`, within about 1e-3 of the
            exact area.
        fpr_limit : float
        name : str or None
        ax : Axes or None

        Returns
        -------
        ProCurveDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If the numbers or shapes of masks and maps differ, a map is not finite, or
            the masks do not hold both normal and anomalous pixels.
        """
        metrics = StreamingPixelMetrics()
        for row, heat in enumerate(exactly(len(masks), maps, "masks")):
            metrics.update([masks[row]], [heat])
        area = metrics.aupro(fpr_limit)
        shown: dict[str, Any] = {"aupro": area, "fpr_limit": fpr_limit, "name": name}
        return cls(*metrics.pro_curve(), **shown).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw into axes, or a new figure; return self."""
        self.ax_ = axes_grid(ax, 1, 1).flat[0]
        self.figure_, limit = self.ax_.figure, self.fpr_limit
        inside = self.fpr <= limit
        fpr = np.append(self.fpr[inside], limit)
        pro = np.append(self.pro[inside], np.interp(limit, self.fpr, self.pro))
        area = f"AUPRO = {self.aupro:.2f}"
        label = area if self.name is None else f"{self.name} ({area})"
        (self.line_,) = self.ax_.plot(fpr, pro, label=label)
        names = {
            "xlabel": "share of good pixels flagged",
            "ylabel": "overlap per region",
        }
        self.ax_.set(xlim=(0, limit), ylim=(0, 1.02), **names)
        self.ax_.legend(loc="lower right")
        return self
