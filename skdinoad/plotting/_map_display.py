"""Display of images above their heat maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skdinoad._inputs.images import as_shown
from skdinoad._typing import DetectorLike, ImagesLike, MapsLike, MasksLike, Self
from skdinoad.pipeline import final_detector
from skdinoad.plotting._overlays import overlay_map
from skdinoad.plotting._shared import axes_grid, check_lengths
from skdinoad.results import iter_results

__all__ = ["AnomalyMapDisplay"]


class AnomalyMapDisplay:
    """Display of images above their heat maps, with outlines of known defects.

    Parameters
    ----------
    images : array or list of images or paths
    maps : ndarray of shape (n, H, W) or list of (H, W)
        Higher = more anomalous.
    limits : (float, float)
        Map values at which the overlay is invisible and strongest.
    masks : sequence of (H, W), bool, or None
        Known defects; drawn as outlines.
    titles : list of str or None

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of shape (2, n), matplotlib Axes
        Images in the first row, maps in the second; set by :meth:`plot`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.plotting import AnomalyMapDisplay
    >>> images = np.full((2, 32, 32, 3), 90, dtype=np.uint8)
    >>> maps = np.zeros((2, 32, 32))
    >>> display = AnomalyMapDisplay.from_predictions(images, maps, limits=(0, 1))
    >>> display.axes_.shape
    (2, 2)
    """

    def __init__(
        self,
        images: ImagesLike,
        maps: MapsLike,
        *,
        limits: tuple[float, float],
        masks: MasksLike | None = None,
        titles: Sequence[str] | None = None,
    ) -> None:
        self.images, self.maps, self.limits = images, maps, limits
        self.masks, self.titles = masks, titles

    @classmethod
    def from_estimator(
        cls,
        estimator: DetectorLike,
        X: ImagesLike,
        *,
        masks: MasksLike | None = None,
        limits: tuple[float, float] | None = None,
        axes: Any = None,
    ) -> Self:
        """Score images and show them.

        Parameters
        ----------
        estimator : fitted detector, Pipeline, search or ThresholdTunerCV
        X : array, list of images or paths
        masks : sequence of (H, W), bool, or None
        limits : (float, float) or None
            None uses the detector's ``map_limits_``, which come from held-out training
            images.
        axes : array of 2 x n Axes, or None
            Where to draw; None creates a figure.

        Returns
        -------
        AnomalyMapDisplay
            The plotted display. Titles show the verdict and the score minus the
            threshold, or the score if there is no threshold.

        Raises
        ------
        ValueError
            If the detector has no held-out maps (``holdout=None``) and ``limits`` is
            None.
        """
        detector = final_detector(estimator)
        if limits is None and not len(detector.holdout_scores_):
            raise ValueError(
                "This detector held out no training image, so the colour limits are "
                "unknown: pass limits=(low, high)."
            )
        limits = detector.map_limits_ if limits is None else limits
        results = list(iter_results(estimator, X))
        maps: Any = [result.heat for result in results]
        titles = [_title(result) for result in results]
        return cls(X, maps, limits=limits, masks=masks, titles=titles).plot(axes)

    @classmethod
    def from_predictions(
        cls,
        X: ImagesLike,
        maps: MapsLike,
        *,
        limits: tuple[float, float],
        masks: MasksLike | None = None,
        titles: Sequence[str] | None = None,
        axes: Any = None,
    ) -> Self:
        """Show images with given maps; parameters as in the class."""
        return cls(X, maps, limits=limits, masks=masks, titles=titles).plot(axes)

    def plot(self, axes: Any = None) -> Self:
        """Draw into 2 x n axes, or a new figure; return self."""
        images = as_shown(self.images)
        self._check(images)
        self.axes_ = axes_grid(axes, 2, len(images))
        self.figure_ = self.axes_.flat[0].figure
        for i, (image, heat) in enumerate(zip(images, self.maps)):
            top, bottom = self.axes_[:, i]
            top.imshow(image)
            bottom.imshow(overlay_map(image[..., :3], heat, limits=self.limits))
            mask = None if self.masks is None else self.masks[i]
            if mask is not None and np.any(mask):
                top.contour(mask, [0.5], colors="lime", linewidths=1)
            if self.titles is not None:
                top.set_title(self.titles[i])
            top.axis("off")
            bottom.axis("off")
        return self

    def _check(self, images):
        parts = {"maps": self.maps, "masks": self.masks, "titles": self.titles}
        check_lengths(len(images), **parts)
        for i, heat in enumerate(self.maps):
            mask = (
                heat if self.masks is None or self.masks[i] is None else self.masks[i]
            )
            if not np.shape(heat) == np.shape(mask) == tuple(images.size(i)):
                raise ValueError(
                    f"Row {i}: image {images.size(i)}, map {np.shape(heat)}, mask "
                    f"{np.shape(mask)}; expected one shape."
                )


def _title(result):
    """Return the verdict on an image, or its score if there is no threshold."""
    if result.decision is None:
        return f"{result.score:.3f}"
    name = "normal" if result.label == 1 else "ANOMALOUS"
    return f"{name} ({result.decision:+.3f})"
