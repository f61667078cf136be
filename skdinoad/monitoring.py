"""Detect drift of images, such as a dirty lens or a dim lamp."""

from bisect import bisect_left, bisect_right, insort
from numbers import Integral, Real

import cv2
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skdinoad._compat.sklearn import Interval
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import ImageEstimator, fitted_extractor
from skdinoad._inputs.images import as_images
from skdinoad._inputs.pixels import hidden_pixels
from skdinoad._typing import ExtractorLike, ImagesLike, LabelsLike, RandomState, Self
from skdinoad.features import DinoFeatures

__all__ = ["DriftMonitor"]

#: Share of images that still look normal after a change, as assumed by each bet. A
#: small share gains fast on strong drift, a large one on weak drift.
_USUAL = np.array([0.1, 0.4, 0.8])

#: Number of recent images among which a change point is considered.
_MEMORY = 128

#: Cells per side over which features are averaged: coarse, but fine enough to detect a
#: moved camera.
_CELLS = 4


class DriftMonitor(ImageEstimator, BaseEstimator):
    r"""Detect drift of new images away from the training images.

    A detector's results are unreliable once the lens is dirty, the lamp dim or the
    camera moved. The monitor tracks four properties of whole images: the distance of
    their features from the mean of the good images, brightness, sharpness and colour,
    each in both directions. Each new image is ranked among all earlier images. Without
    drift all ranks are equally likely. Bets against this hypothesis gain wealth when
    new images get extreme ranks, and the monitor raises an alarm when the mean wealth
    reaches a threshold. Occasional defective parts are not drift; a defect in every
    image is.

    Parameters
    ----------
    features : DinoFeatures or None, default=None
        Feature extractor; None means ``DinoFeatures()``, whose features of an image
        are shared with detectors.
    false_alarm_every : int, default=10000
        Lower bound of the average run length: the mean number of images until the
        first false alarm when nothing changes. With larger values a change is detected
        a few images later.
    batch_size : int, default=8
        Number of images read at once.
    random_state : int, RandomState instance or None, default=0
        Seed for breaking ties between ranks.

    Attributes
    ----------
    statistics_ : list of str
        Names of the monitored statistics.
    evidence_ : float
        Mean wealth of the bets; an alarm is raised at ``false_alarm_every``.
    evidence_of_ : dict of str to float
        Mean wealth of each statistic.
    alarm_ : bool
        Whether evidence has reached ``false_alarm_every`` since ``fit`` or ``reset``.
    n_seen_ : int
        Number of images passed to ``update`` since ``fit`` or ``reset``.

    Notes
    -----
    The conformal p-values of each image among all earlier ones are independent and
    uniform as long as images are exchangeable [1]_. If the images changed k images ago,
    at most the k images since then are as extreme as the new one, so its p-value among
    n images is at most q = (k + 1) / n. A bet on this event multiplies its stake by
    (1 - w) / q if the event occurs and by w / (1 - q) otherwise, for w = 0.1, 0.4 and
    0.8. A stake of 1 is placed at each of the last 128 images. The sum of their current
    values is an e-detector [2]_, and so is the mean of several such sums: its average
    run length is at least the threshold, whatever the distribution of images. Training
    images are compared with the mean of all others, new images with the mean of all.
    New images thus look slightly more normal, which makes the guarantee conservative.

    The monitor stores four numbers of each image seen, to rank later images.

    Twelve good images are enough to start. With fewer than about eight a change takes
    long to detect, because even the most extreme image is only the first of nine.

    References
    ----------
    .. [1] Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman, "Retrain or Not
       Retrain: Conformal Test Martingales for Change-Point Detection", COPA 2021,
       PMLR 152.
    .. [2] Shin, Ramdas, Rinaldo, "E-detectors: a Nonparametric Framework for
       Sequential Change Detection", New England Journal of Statistics in Data
       Science 2, 2023, arXiv 2203.03532 (theorem 2.4).

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoFeatures
    >>> from skdinoad.monitoring import DriftMonitor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.integers(90, 110, (20, 32, 32, 3), dtype=np.uint8)
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=32)
    >>> monitor = DriftMonitor(features=features, false_alarm_every=1000).fit(X[:12])
    >>> bool(monitor.update(X[12:])[-1])
    False
    >>> dim = (X * 0.7).astype(np.uint8)
    >>> bool(monitor.update(dim)[-1])
    True
    """

    _parameter_constraints = {
        "features": "no_validation",
        "false_alarm_every": [Interval(Real, 1, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        features: ExtractorLike | None = None,
        false_alarm_every: float = 10_000,
        batch_size: int = 8,
        random_state: RandomState = 0,
    ) -> None:
        self.features = features
        self.false_alarm_every = false_alarm_every
        self.batch_size = batch_size
        self.random_state = random_state

    @isolated_torch_state()
    def fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Learn the normal state from good images.

        Parameters
        ----------
        X : array, list of images or paths
            Good images, for example the training images of a detector. Colour images
            are RGB; convert OpenCV's BGR with ``image[..., ::-1]``.
        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there are fewer than two images.
        """
        self._validate_params()
        X = as_images(X)
        if len(X) < 2:
            raise ValueError(
                f"X holds {len(X)} image; expected at least two, preferably twelve or "
                "more."
            )
        with self._learning():
            X = self._images_to_fit(X)
            self.features_ = fitted_extractor("features", self._part("features"), X)
            self._learn(*self._described(X))
            self._learn_seen(X)
        return self

    @isolated_torch_state()
    def update(self, X: ImagesLike) -> np.ndarray:
        """Update the evidence with new images, in the order in which they were taken.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        alarms : ndarray of shape (n,), bool
            Whether the alarm has been raised up to each image; it stays on until
            ``reset``.
        """
        check_is_fitted(self)
        images = self._images_to_score(X)
        pooled, pixels = self._described(images)
        self._warn_without_alpha(images)
        if not hasattr(self, "_stakes"):  # saved by a version with other bets
            self._stakes = self._none_laid()
        values = _with_distance(pooled - self.mean_, pixels)
        return np.array([self._bet(row) for row in values], bool)

    def reset(self) -> Self:
        """Discard all images since ``fit``, for example after cleaning the lens.

        Returns
        -------
        self
        """
        check_is_fitted(self, "mean_")
        self._history = [column.tolist() for column in self._usual.T]
        self._stakes = self._none_laid()
        self.alarm_, self.n_seen_ = False, 0
        self._tell()
        return self

    # -- private ----------------------------------------------------------------------

    def default_features(self) -> ExtractorLike:
        """Return the extractor that ``features=None`` stands for.

        Returns
        -------
        extractor : unfitted extractor
        """
        return DinoFeatures()

    def _learn(self, pooled, pixels):
        """Learn from the statistics of good images returned by ``_described``."""
        n = len(pooled)
        self.mean_, self.n_learned_ = pooled.mean(axis=0), n
        others = (n * self.mean_ - pooled) / (n - 1)
        self._usual = np.sort(_with_distance(pooled - others, pixels), axis=0)
        sides = ("low", "high")
        both = [f"{name}, {side}" for name in _NAMES for side in sides]
        self.statistics_ = both[1:]
        self._seed = check_random_state(self.random_state).randint(2**31)
        self.reset()

    def _described(self, X):
        """Return features averaged in cells (n, c), and pixel statistics (n, k)."""
        pooled, pixels = [], []
        for start in range(0, len(X), self.batch_size):
            batch = X[start : start + self.batch_size]
            F, _ = self.features_.transform_affines(batch)
            pooled += [_pooled(grid) for grid in F]
            pixels += [_properties(image) for image in batch]
        return np.array(pooled, np.float64), np.array(pixels)

    def _none_laid(self):
        return np.zeros((len(self.statistics_), len(_USUAL), _MEMORY))

    def _bet(self, row):
        """Bet on one image and return whether the alarm has been raised."""
        # Seeded by the image number, so that a reloaded monitor continues identically.
        ties = np.random.default_rng([self._seed, self.n_seen_]).uniform(size=len(row))
        p = np.array([self._p_value(*part) for part in zip(self._history, row, ties)])
        # Low and high; features closer to the mean than usual are not drift.
        p = np.stack([p, 1 - p], axis=1).ravel()[1:]
        self._stakes = _after_a_bet(self._stakes, p, len(self._history[0]))
        self.n_seen_ += 1
        self._tell()
        return self.alarm_

    def _p_value(self, known, value, share):
        """Return the rank of a value among all earlier ones, scaled to 0..1."""
        below, until = bisect_left(known, value), bisect_right(known, value)
        equal = until - below + 1  # including the value itself
        insort(known, float(value))
        return (below + share * equal) / len(known)

    def _tell(self):
        wealth = self._stakes.sum(axis=2).mean(axis=1)
        self.evidence_of_ = dict(zip(self.statistics_, wealth.tolist()))
        self.evidence_ = float(wealth.mean())
        self.alarm_ = self.alarm_ or self.evidence_ >= self.false_alarm_every


def _after_a_bet(wealth, p, n):
    """Return wealth (statistics, bets, starts) after ranks p among n images."""
    wealth = np.concatenate([np.ones_like(wealth[..., :1]), wealth[..., :-1]], axis=-1)
    # More extreme than the n - k - 1 images before the start; capped below 1.
    q = np.minimum(np.arange(1, _MEMORY + 1) / n, 0.999)
    usual = _USUAL[:, np.newaxis]
    odd = p[:, np.newaxis, np.newaxis] <= q
    won = np.where(odd, (1 - usual) / q, usual / (1 - q))
    return np.minimum(wealth * won, 1e290)  # keeps sums finite


#: Properties of an image, the distance of its features first.
_NAMES = ["distance of features", "brightness", "sharpness", "warmth"]


def _with_distance(away, pixels):
    return np.column_stack([np.linalg.norm(away, axis=1), pixels])


def _pooled(grid):
    """Average the features (h, w, c) of an image in cells and normalise the vector.

    Invalid patches are replaced by the image's mean.
    """
    valid = np.isfinite(grid).all(-1, keepdims=True)
    mean = np.where(valid, grid, 0).sum((0, 1)) / max(1, valid.sum())
    grid = np.where(valid, grid, mean).astype(np.float32)
    rows, columns = map(_cells, grid.shape[:2])
    vector = np.concatenate([grid[r, c].mean((0, 1)) for r in rows for c in columns])
    return vector / max(np.linalg.norm(vector), 1e-12)


def _cells(n):
    """Return the slices of n patches along a side; they overlap if n is small."""
    starts = np.arange(_CELLS) * n // _CELLS
    return [
        slice(a, max(a + 1, -(-(i + 1) * n // _CELLS))) for i, a in enumerate(starts)
    ]


def _properties(image):
    """Return brightness, sharpness and warmth of an image's valid pixels.

    Sharpness is the mean absolute difference from a Gaussian blur of 1.5 pixels,
    divided by the brightness. Warmth is red divided by blue. A dimmer lamp changes
    neither.
    """
    color = image[..., :3].astype(np.float32)
    whole = np.ones(image.shape[:2], bool)
    valid = ~hidden_pixels(image) if image.shape[-1] == 4 else whole
    grey = color.mean(-1)
    fine = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.5))
    shown = np.dstack([grey, fine, color[..., 0], color[..., 2]])[valid]
    level, detail, red, blue = shown.mean(0) if len(shown) else np.zeros(4)
    return level, detail / (level + 1), (red + 1) / (blue + 1)
