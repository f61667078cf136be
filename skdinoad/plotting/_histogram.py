"""Histogram of the scores of normal and anomalous images."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skdinoad._arrays.thresholds import as_threshold
from skdinoad._inputs.labels import check_labels
from skdinoad._typing import DetectorLike, ImagesLike, Self
from skdinoad.pipeline import threshold_owner
from skdinoad.plotting._shared import axes_grid

__all__ = ["ScoreHistogramDisplay"]


class ScoreHistogramDisplay:
    """Histogram of the scores of normal and anomalous images, with the threshold.

    Parameters
    ----------
    normal : array-like of shape (n,)
        Held-out scores of normal images; higher = more normal.
    anomalous : array-like of shape (m,)
        Scores of anomalous images; may be empty.
    threshold : float
        NaN if there is none.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes

    Examples
    --------
    >>> from skdinoad.plotting import ScoreHistogramDisplay
    >>> display = ScoreHistogramDisplay.from_predictions(
    ...     [1, 1, 1, -1], [-0.1, -0.2, -0.15, -0.5], threshold=-0.3
    ... )
    >>> display.ax_.get_xlabel()
    'score, higher = more normal'
    """

    def __init__(
        self, normal: ArrayLike, anomalous: ArrayLike, *, threshold: float = np.nan
    ) -> None:
        self.normal = np.asarray(normal, float)
        self.anomalous = np.asarray(anomalous, float)
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls,
        estimator: DetectorLike,
        X: ImagesLike | None = None,
        y: ArrayLike | None = None,
        *,
        ax: Any = None,
    ) -> Self:
        """Show the held-out scores of training images, and the scores of other images.

        Parameters
        ----------
        estimator : fitted detector, Pipeline, search or ThresholdTunerCV
        X : array, list of images or paths, or None
            Other images, not used for training.
        y : array-like of shape (n,) or None
            Labels of X: +1 normal, -1 anomalous; None means all are anomalous.
        ax : Axes or None

        Returns
        -------
        ScoreHistogramDisplay
            The plotted display.
        """
        known = threshold_owner(estimator)
        held, labels = known.holdout_scores_, getattr(known, "labels_", None)
        normal = held[np.isfinite(held)]
        anomalous = np.empty(0)
        if labels is not None:
            normal, anomalous = (
                held[np.isfinite(held) & (labels == label)] for label in (1, -1)
            )
        if X is not None:
            y = np.full(len(X), -1) if y is None else check_labels(y)
            scores = estimator.score_samples(X)
            normal = np.append(normal, scores[y == 1])
            anomalous = np.append(anomalous, scores[y == -1])
        if isinstance(known.offset_, dict):
            raise ValueError(
                f"There is a threshold for each of {list(known.offset_)}: show each "
                "group with from_predictions."
            )
        threshold = as_threshold(known.offset_)
        return cls(normal, anomalous, threshold=threshold).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y: ArrayLike,
        scores: ArrayLike,
        *,
        threshold: float = np.nan,
        ax: Any = None,
    ) -> Self:
        """Show given scores.

        Parameters
        ----------
        y : array-like of shape (n,)
            +1 normal, -1 anomalous.
        scores : array-like of shape (n,)
            Higher = more normal. Use held-out scores for training images, because a
            memory bank contains its training images.
        threshold : float
        ax : Axes or None

        Returns
        -------
        ScoreHistogramDisplay
            The plotted display.
        """
        y, scores = check_labels(y), np.asarray(scores, float)
        return cls(scores[y == 1], scores[y == -1], threshold=threshold).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw into axes, or a new figure; return self."""
        self.ax_ = axes_grid(ax, 1, 1).flat[0]
        self.figure_ = self.ax_.figure
        edges = np.histogram_bin_edges(np.append(self.normal, self.anomalous), bins=30)
        kinds = (self.normal, "normal", "C0"), (self.anomalous, "anomalous", "C3")
        for scores, name, color in kinds:
            label = f"{name} ({len(scores)})"
            self.ax_.hist(scores, edges, color=color, alpha=0.6, label=label)
        if np.isfinite(self.threshold):
            self.ax_.axvline(self.threshold, color="black", ls="--", label="threshold")
        self.ax_.set(xlabel="score, higher = more normal", ylabel="images")
        self.ax_.legend()
        return self
