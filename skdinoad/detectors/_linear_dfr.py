"""DFR without training: reconstruction from principal components."""

from numbers import Integral, Real
from typing import Literal

import torch
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if

from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._training.loop import Run
from skdinoad._typing import Aggregate, ExtractorLike, FeaturesLike, RandomState
from skdinoad.detectors._rows import EXTRACTORS, PRESETS, RowDetector
from skdinoad.networks import pooled

__all__ = ["LinearDFR"]


def _adds_up(detector):
    """Whether all that is learned are moments of all rows."""
    return detector.holdout is None and detector.max_rows is None


class LinearDFR(RowDetector):
    r"""Reconstruct features from principal components; the error is the anomaly score.

    The linear form of :class:`~skdinoad.DFR`: the autoencoder is the projection on the
    principal components of good images. Nothing is trained, and the result is exact. A
    patch's score is the mean squared error of its features z,

    .. math:: \frac{1}{c} \lVert z - \hat z \rVert^2 .

    Parameters
    ----------
    features : CNNFeatures, DinoFeatures, "passthrough" or None, default=None
        Extractor of the features; None stands for the preset's. Feature grids are
        taken as they are.
    preset : {"fast", "vit", "paper"}, default="fast"
        What ``features``, ``standardize`` and ``score_smoothing`` are where they are
        None; see :class:`~skdinoad.DFR`.
    latent_dim : int or None, default=None
        Number of principal components, less than the number of channels. None takes it
        from ``variance``.
    variance : float, default=0.9
        Share of the variance that the principal components hold.
    standardize : bool or None, default=None
        Whether each channel is brought to mean 0 and variance 1 over the training
        images first. None: all presets but the paper's.
    max_rows : int or None, default=100_000
        Rows kept to learn from, the same number from each image; None keeps all.
    holdout : int, float or None, default=3
        Where thresholds and display limits come from. An int is a number of folds, each
        held out once. A float is a share of images that are not learned. None: no
        threshold.
    aggregate : float, "max", "mean" or "p99", default="max"
        How patch scores become the image score. A share in (0, 1] takes the mean of
        this share of them, the largest ones, at least one.
    score_smoothing : float or None, default=None
        Standard deviation of a Gaussian over the patch scores enlarged to the image, as
        a share of the image's height. Image scores and heat maps are made from the
        smoothed ones. 0: image scores are those of the patches.
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
    device : str, default="auto"
        Where rows are rebuilt; "auto" takes a GPU if there is one.
    random_state : int, RandomState instance or None, default=0
        Draws rows and folds, by what images show and not by their order; of feature
        grids the order counts.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    features_ : CNNFeatures, DinoFeatures or None
        The fitted extractor; it knows the digest of the weights.
    autoencoder_ : dict of str to ndarray
        Channel means and scales, principal components.
    latent_dim_ : int
        Number of principal components.
    explained_variance_ : ndarray of shape (c,)
        Variance along each principal component, falling.
    errors_ : dict of str to (float, float)
        Mean error of patches "learned" and "held out", twice; empty after a merge.
    holdout_scores_, holdout_rows_, suspects_, offset_, pixel_threshold_, map_limits_
        As of :class:`~skdinoad.DFR`.

    See Also
    --------
    DFR : Trains a small autoencoder.
    SubspaceAD : The same idea on the layers of a ViT, each by itself.

    Notes
    -----
    **Differences from the official code.** The official code of DFR has principal
    components for the width of the code only and no linear form. The features, the
    patch error and the image score are those of :class:`~skdinoad.DFR`, with the same
    differences.

    Detectors with ``holdout=None, max_rows=None`` that were fitted on parts of a data
    set can be merged exactly, see :func:`skdinoad.scale.merge`.

    References
    ----------
    Shi, Yang, Qi, "Unsupervised anomaly segmentation via deep feature reconstruction",
    Neurocomputing 424, 2021, arXiv 2012.07122.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import LinearDFR
    >>> rng = np.random.default_rng(0)
    >>> F = rng.normal(size=(8, 6, 6, 2)) @ rng.normal(size=(2, 16))  # a plane in 16-d
    >>> detector = LinearDFR(latent_dim=2).fit(F)
    >>> odd = F[:1].copy()
    >>> odd[0, 4, 1] += rng.normal(size=16)
    >>> heat = detector.predict_map(odd)[0]
    >>> detector.predict(odd), np.argwhere(heat == heat.max())
    (array([-1]), array([[4, 1]]))
    """

    _parameter_constraints = {
        **RowDetector._parameter_constraints,
        "preset": [StrOptions(set(PRESETS))],
        "latent_dim": [None, Interval(Integral, 1, None, closed="left")],
        "variance": [Interval(Real, 0, 1, closed="right")],
        "standardize": [None, "boolean"],
        "max_rows": [None, Interval(Integral, 1, None, closed="left")],
        "score_smoothing": [None, Interval(Real, 0, 1, closed="both")],
    }

    _presets = PRESETS
    _default_parts = {}
    _learned = False

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        preset: Literal["fast", "vit", "paper"] = "fast",
        latent_dim: int | None = None,
        variance: float = 0.9,
        standardize: bool | None = None,
        max_rows: int | None = 100_000,
        holdout: float | None = 3,
        aggregate: Aggregate = "max",
        score_smoothing: float | None = None,
        target_fpr: float = 0.05,
        device: str = "auto",
        random_state: RandomState = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.preset = preset
        self.latent_dim = latent_dim
        self.variance = variance
        self.standardize = standardize
        self.max_rows = max_rows
        self.holdout = holdout
        self.aggregate = aggregate
        self.score_smoothing = score_smoothing
        self.target_fpr = target_fpr
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- the parts of a detector ------------------------------------------------------

    def default_features(self) -> ExtractorLike:
        return EXTRACTORS[self.preset]()

    def _optimizer(self, network):
        return None  # nothing to train

    # -- private: merging -------------------------------------------------------------

    @available_if(_adds_up)
    def _clone_for_merge(self):
        """Return an unfitted copy: moments are of all rows as it is."""
        return clone(self)

    @available_if(_adds_up)
    def _join(self, parts):
        """Add up the moments of all rows."""
        counts, means, spreads = zip(*(part._moments for part in parts))
        if len({len(mean) for mean in means}) > 1:
            raise ValueError(
                f"Features of {[len(mean) for mean in means]} channels: use one "
                "extractor for all."
            )
        self._moments = sum(counts), *pooled(counts, means, spreads)
        self._draw_seed()
        mean, spread = map(torch.from_numpy, self._moments[1:])
        self._keep(Run(self._network_of(mean, spread), None))
        self.errors_ = {}
