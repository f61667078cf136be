"""Pictures in scikit-learn's convention: ``Display.from_estimator(...)``, then axes.

Colours mean the same in every image: their limits come from held-out training images.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from skdinoad._arrays.thresholds import as_threshold
from skdinoad._inputs.files import told_apart
from skdinoad._inputs.images import as_shown
from skdinoad._inputs.labels import check_labels
from skdinoad._typing import (
    DetectorLike,
    FilePath,
    ImagesLike,
    MapsLike,
    MasksLike,
    Self,
)
from skdinoad.metrics import StreamingPixelMetrics
from skdinoad.pipeline import final_detector, iter_maps, threshold_owner
from skdinoad.results import iter_results

__all__ = [
    "AlignmentDisplay",
    "AnomalyMapDisplay",
    "ProCurveDisplay",
    "ScoreHistogramDisplay",
    "overlay_map",
    "save_maps",
]


def overlay_map(
    image: np.ndarray,
    heat: np.ndarray,
    *,
    limits: tuple[float, float],
    colormap: str = "inferno",
) -> np.ndarray:
    """Lay a heat map over its image.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    heat : ndarray of shape (H, W)
        Anomaly map, higher = more anomalous.
    limits : (float, float)
        Values shown as "nothing" and as "full colour": a detector's ``map_limits_``,
        which come from held-out normal images. Limits taken from each map by itself
        would paint red on perfect parts.
    colormap : str
        Name of a matplotlib colour map.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        The hotter, the more of the image is covered.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.plotting import overlay_map
    >>> image = np.full((1, 2, 3), 100, dtype=np.uint8)
    >>> overlay_map(image, np.array([[0.0, 9.0]]), limits=(1, 5))[0].tolist()
    [[100, 100, 100], [222, 224, 152]]
    """
    low, high = limits
    if not low < high:
        raise ValueError(f"limits={limits!r}: expected (low, high), low < high.")
    share = np.clip((np.asarray(heat, np.float64) - low) / (high - low), 0, 1)
    color = matplotlib.colormaps[colormap](share)[..., :3] * 255
    cover = 0.8 * share[..., np.newaxis]
    return (image * (1 - cover) + color * cover).round().astype(np.uint8)


def save_maps(
    folder: FilePath,
    X: ImagesLike,
    maps: Iterable[np.ndarray],
    *,
    limits: tuple[float, float],
    names: np.ndarray | Sequence[Any] | None = None,
) -> list[Path]:
    """Write images with their heat maps laid over them as PNG files.

    Parameters
    ----------
    folder : str or path
        Made if it does not exist; files of the same name are replaced.
    X : array, list of images or paths
    maps : ndarray of shape (n, H, W), list or iterator of (H, W)
        Higher = more anomalous, as ``predict_map`` gives them for X; of ``iter_maps``
        memory holds one batch at a time.
    limits : (float, float)
        As for :func:`overlay_map`: ``map_limits_`` of a detector or Pipeline.
    names : list of str or None
        Names of the files without ".png". None: those of the images' files, else
        their rows; where two are equal, the later gets a number.

    Returns
    -------
    paths : list of Path

    Raises
    ------
    ValueError
        If numbers or sizes of images and maps differ; of an iterator that ends early,
        the images of its maps are written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skdinoad.plotting import save_maps
    >>> X, maps = np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros((2, 8, 8))
    >>> folder = tempfile.mkdtemp()
    >>> [path.name for path in save_maps(folder, X, maps, limits=(0, 1))]
    ['0.png', '1.png']
    """
    images = as_shown(X)
    _check_lengths(len(images), maps=maps, names=names)
    stems = _stems(X) if names is None else [str(name) for name in names]
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"{stem}.png" for stem in told_apart(stems, set())]
    maps = _exactly(len(images), maps)
    for i, (heat, image, path) in enumerate(zip(maps, images, paths)):
        if image.shape[:2] != np.shape(heat):
            raise ValueError(
                f"Row {i}: image {image.shape[:2]}, map {np.shape(heat)}; expected one "
                "shape: pass the images that predict_map was given."
            )
        overlay = overlay_map(image[..., :3], heat, limits=limits)
        Image.fromarray(overlay).save(path)
    return paths


def _stems(X):
    files = [isinstance(item, (str, os.PathLike)) for item in X]
    return [
        Path(x).stem if file else str(i) for i, (x, file) in enumerate(zip(X, files))
    ]


def _check_lengths(n, **parts):
    for name, part in parts.items():
        if hasattr(part, "__len__") and len(part) != n:
            raise ValueError(f"Got {n} images and {len(part)} {name}.")


def _exactly(n, maps, others="images"):
    """Yield n maps; only its end tells how many an iterator has."""
    count = 0
    for count, heat in enumerate(maps, 1):
        if count > n:
            break
        yield heat
    if count != n:
        more = " or more" * (count > n)
        raise ValueError(f"Got {n} {others} and {count} maps{more}.")


class AnomalyMapDisplay:
    """Images above their heat maps, with the outline of known defects.

    Parameters
    ----------
    images : array or list of images or paths
    maps : ndarray of shape (n, H, W) or list of (H, W)
        Higher = more anomalous.
    limits : (float, float)
        Map values of "nothing" and "full colour".
    masks : sequence of (H, W), bool, or None
        Known defects; drawn as outlines.
    titles : list of str or None

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of shape (2, n), matplotlib Axes
        Images in the first row, maps in the second; after :meth:`plot`.

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
            None takes the detector's ``map_limits_``, from held-out training images.
        axes : array of 2 x n Axes, or None
            Where to draw; None makes a figure.

        Returns
        -------
        AnomalyMapDisplay
            Plotted. Titles are the verdict and the score's distance to the threshold,
            or the score if there is no threshold.

        Raises
        ------
        ValueError
            If the detector has no held-out maps (``holdout=None``) and ``limits`` is
            None.
        """
        detector = final_detector(estimator)
        if limits is None and not len(detector.holdout_scores_):
            raise ValueError(
                "This detector held out no training image, so that it does not know "
                "which values are usual: pass limits=(low, high)."
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
        """Show images with maps that are known; parameters as those of the class."""
        return cls(X, maps, limits=limits, masks=masks, titles=titles).plot(axes)

    def plot(self, axes: Any = None) -> Self:
        """Draw into 2 x n axes, or a new figure; return self."""
        images = as_shown(self.images)
        self._check(images)
        self.axes_ = _grid(axes, 2, len(images))
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
        _check_lengths(len(images), **parts)
        for i, heat in enumerate(self.maps):
            mask = (
                heat if self.masks is None or self.masks[i] is None else self.masks[i]
            )
            if not np.shape(heat) == np.shape(mask) == tuple(images.size(i)):
                raise ValueError(
                    f"Row {i}: image {images.size(i)}, map {np.shape(heat)}, mask "
                    f"{np.shape(mask)}; expected one shape."
                )


class ScoreHistogramDisplay:
    """Scores of good and anomalous images, with the threshold between them.

    Parameters
    ----------
    normal : array-like of shape (n,)
        Scores of normal images by models that have not seen them; higher = normal.
    anomalous : array-like of shape (m,)
        Scores of anomalous images, [] if none are known.
    threshold : float
        NaN = none.

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
        """Show held-out scores of the training images, and those of further images.

        Parameters
        ----------
        estimator : fitted detector, Pipeline, search or ThresholdTunerCV
        X : array, list of images or paths, or None
            Further images, none of them seen in training.
        y : array-like of shape (n,) or None
            Their labels, +1 / -1; None = all anomalous.
        ax : Axes or None

        Returns
        -------
        ScoreHistogramDisplay
            Plotted.
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
                "group by from_predictions."
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
        """Show scores that are known.

        Parameters
        ----------
        y : array-like of shape (n,)
            +1 normal, -1 anomalous.
        scores : array-like of shape (n,)
            Higher = more normal. Those of a memory bank's own training images say
            nothing: take held-out ones.
        threshold : float
        ax : Axes or None

        Returns
        -------
        ScoreHistogramDisplay
            Plotted.
        """
        y, scores = check_labels(y), np.asarray(scores, float)
        return cls(scores[y == 1], scores[y == -1], threshold=threshold).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw into axes, or a new figure; return self."""
        self.ax_ = _grid(ax, 1, 1).flat[0]
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


class ProCurveDisplay:
    """The per-region overlap of heat maps against the share of good pixels flagged.

    Parameters
    ----------
    fpr : ndarray of shape (k,)
        Share of good pixels above a threshold, rising.
    pro : ndarray of shape (k,)
        Mean over all defects of the share of their pixels above it.
    aupro : float
        The area up to ``fpr_limit``, divided by it.
    fpr_limit : float
        Where the picture and the area end.
    name : str or None
        What the legend calls the curve.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
    line_ : matplotlib Line2D
        The curve.

    See Also
    --------
    skdinoad.metrics.aupro_score : The area, exact.
    sklearn.metrics.RocCurveDisplay, sklearn.metrics.PrecisionRecallDisplay
        Curves of image scores: ``from_predictions(y, -scores, pos_label=-1)``.

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
        """Compute heat maps, a batch at a time, and show their curve.

        Parameters
        ----------
        estimator : fitted detector, Pipeline, search or ThresholdTunerCV
        X : array, list of images or paths
        masks : array of shape (n, H, W) or list of (H, W), bool
            True = anomalous; None in a list is an empty mask.
        fpr_limit : float
        name : str or None
            None takes the estimator's class.
        ax : Axes or None
            Where to draw, several curves in one if you like; None makes a figure.

        Returns
        -------
        ProCurveDisplay
            Plotted.
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
        """Show the curve of maps that are known.

        Parameters
        ----------
        masks : array of shape (n, H, W) or list of (H, W), bool
            True = anomalous; None in a list is an empty mask.
        maps : array of shape (n, H, W), list or iterator of (H, W)
            Higher = more anomalous. They are counted by
            :class:`skdinoad.metrics.StreamingPixelMetrics`, whose area is within about
            1e-3 of the exact one.
        fpr_limit : float
        name : str or None
        ax : Axes or None

        Returns
        -------
        ProCurveDisplay
            Plotted.

        Raises
        ------
        ValueError
            If numbers or shapes differ, a map is not finite, or all pixels are of one
            kind.
        """
        metrics = StreamingPixelMetrics()
        for row, heat in enumerate(_exactly(len(masks), maps, "masks")):
            metrics.update([masks[row]], [heat])
        area = metrics.aupro(fpr_limit)
        shown: dict[str, Any] = {"aupro": area, "fpr_limit": fpr_limit, "name": name}
        return cls(*metrics.pro_curve(), **shown).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw into axes, or a new figure; return self."""
        self.ax_ = _grid(ax, 1, 1).flat[0]
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


class AlignmentDisplay:
    """Images before and after an aligner, and which pixels are valid.

    Parameters
    ----------
    before : array or list of images or paths
    after : ndarray of shape (n, s, t, 4), uint8
        What the aligner returns; the fourth channel is validity.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of shape (3, n), matplotlib Axes

    Examples
    --------
    >>> from skdinoad import PCAAligner
    >>> from skdinoad.datasets import make_screws
    >>> from skdinoad.plotting import AlignmentDisplay
    >>> X, _ = make_screws(2, size=96)
    >>> aligner = PCAAligner(output_size=64).fit(X)
    >>> AlignmentDisplay.from_estimator(aligner, X).axes_.shape
    (3, 2)
    """

    def __init__(self, before: ImagesLike, after: ImagesLike) -> None:
        self.before, self.after = before, after

    @classmethod
    def from_estimator(cls, aligner: Any, X: ImagesLike, *, axes: Any = None) -> Self:
        """Align images and show them.

        Parameters
        ----------
        aligner : fitted transformer of images to images
            PCAAligner, AffineAligner, ForegroundMask, or a Pipeline of such.
        X : array, list of images or paths
        axes : array of 3 x n Axes, or None

        Returns
        -------
        AlignmentDisplay
            Plotted.
        """
        return cls(X, aligner.transform(X)).plot(axes)

    @classmethod
    def from_predictions(
        cls, X: ImagesLike, Z: ImagesLike, *, axes: Any = None
    ) -> Self:
        """Show images and what an aligner made of them."""
        return cls(X, Z).plot(axes)

    def plot(self, axes: Any = None) -> Self:
        """Draw into 3 x n axes, or a new figure; return self."""
        before, after = as_shown(self.before), as_shown(self.after)
        self.axes_ = _grid(axes, 3, len(before))
        self.figure_ = self.axes_.flat[0].figure
        for column, image, aligned in zip(self.axes_.T, before, after):
            opaque = np.full(aligned.shape[:2], 255, np.uint8)
            valid = aligned[..., 3] if aligned.shape[-1] == 4 else opaque
            column[0].imshow(image[..., :3])
            column[1].imshow(aligned[..., :3])
            column[2].imshow(valid, cmap="gray", vmin=0, vmax=255)
            for ax in column:
                ax.set(xticks=[], yticks=[])  # valid is white: it needs its frame
        for ax, name in zip(self.axes_[:, 0], ("before", "after", "valid")):
            ax.set_title(name, loc="left")
        return self


def _grid(axes, rows, columns):
    """Return rows x columns axes: those given, or those of a new figure."""
    if axes is None:
        import matplotlib.pyplot as plt

        size = (2.6 * columns, 2.6 * rows) if rows > 1 else None
        _, axes = plt.subplots(
            rows, columns, squeeze=False, figsize=size, layout="constrained"
        )
    axes = np.asarray(axes)
    if axes.size != rows * columns:
        raise ValueError(f"Got {axes.size} axes, expected {rows} x {columns}.")
    return axes.reshape(rows, columns)


def _title(result):
    """Return the verdict on an image, or its score where there is no threshold."""
    if result.decision is None:
        return f"{result.score:.3f}"
    name = "normal" if result.label == 1 else "ANOMALOUS"
    return f"{name} ({result.decision:+.3f})"
