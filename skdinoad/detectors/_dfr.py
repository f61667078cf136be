"""DFR: reconstruction of features by a small autoencoder."""

from numbers import Integral, Real
from typing import Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.optim.swa_utils import update_bn

from skdinoad._compat.caller import warn
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._training.loop import warm_cosine
from skdinoad._typing import Aggregate, ExtractorLike, FeaturesLike, RandomState
from skdinoad.detectors._rows import EXTRACTORS, PRESETS, RowDetector
from skdinoad.networks import row_errors
from skdinoad.training import Training

__all__ = ["DFR"]


class DFR(RowDetector):
    r"""Reconstruct the features of each patch; the error is the anomaly score.

    Features z of several levels of a CNN, or of several blocks of a ViT, lie side by
    side at each place. One small autoencoder for all places, trained on good images
    alone, minimises

    .. math:: L = \frac{1}{c} \lVert z - \hat z \rVert^2,

    and that is a place's score as well. The code is as wide as the number of principal
    components that hold 90 % of the variance.

    Parameters
    ----------
    features : CNNFeatures, DinoFeatures, "passthrough" or None, default=None
        Extractor of the features; None stands for the preset's. Feature grids are
        taken as they are.
    preset : {"fast", "vit", "paper"}, default="fast"
        What ``features``, ``training``, ``standardize`` and ``score_smoothing`` are
        where they are None. "fast":
        EfficientNet-Lite0, levels of strides 4 to 32, 224 pixels, 28 x 28 places.
        "vit": blocks 2, 5 and 8 of DINOv2 ViT-S, 224 pixels, 16 x 16 places. "paper",
        for a GPU: the first 12 ReLUs of VGG19, 256 pixels, 64 x 64 places, 36 400
        iterations.
    latent_dim : int or None, default=None
        Width of the code, less than the number of channels in any case: as many would
        rebuild everything. None takes it from ``variance``.
    variance : float, default=0.9
        Share of the variance that the code's principal components hold.
    standardize : bool or None, default=None
        Whether each channel is brought to mean 0 and variance 1 over the training
        images first. None: all presets but the paper's.
    cos_weight : float, default=0
        Adds this many times 1 - cos to loss and scores, as ULSAD does with 0.5.
    max_rows : int or None, default=100_000
        Rows kept to learn from, the same number from each image; None keeps all.
    training : Training or None, default=None
        Iterations, batches, learning rate, time limit and precision of training; None
        means ``Training()``, the preset's values. ``training__n_iter`` and the like can
        be searched either way.
    holdout : int, float or None, default=3
        Where thresholds and display limits come from. An int is a number of folds: as
        many further networks, each trained without one fold and asked about it. A
        float is a share of images that no network learns from. None: no threshold.
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
        Where the autoencoder runs; "auto" takes a GPU if there is one.
    random_state : int, RandomState instance or None, default=0
        Draws rows, weights, batches and folds, by what images show and not by their
        order; of feature grids the order counts.
    verbose : bool, default=False
        Show progress bars, with the loss and the time left.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that become 0 and 255, learned from training images of more than 8 bits;
        None = they have 8.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : CNNFeatures, DinoFeatures or None
        The fitted extractor; it knows the digest of the weights.
    autoencoder_ : dict of str to ndarray
        Weights, channel means and scales, principal components.
    latent_dim_ : int
        Width of the code.
    explained_variance_ : ndarray of shape (c,)
        Variance along each principal component, falling.
    n_iter_ : int
        Iterations done.
    loss_curve_ : list of float
        The loss in each.
    errors_ : dict of str to (float, float)
        Mean error of places "learned" and "held out", by the autoencoder and by the
        projection on as many principal components.
    holdout_scores_ : ndarray of shape (n,)
        ``score_samples`` of training images by a network that has not seen them.
    holdout_rows_ : ndarray of shape (n,), int
        Row of X in ``fit`` that each of these scores is of.
    suspects_ : list of Bunch
        Training images that look odd among the others, the most anomalous first:
        ``row`` and ``path`` (None for arrays) say which, ``ratio`` how many times the
        median anomaly score theirs is. They are part of the model, but not of the
        threshold's estimate.
    offset_ : float
        Threshold on ``score_samples``, see ``target_fpr``; NaN without held-out images.
    pixel_threshold_ : float
        Threshold on heat maps: good images exceed it anywhere as rarely as their
        scores fall below ``offset_``. NaN without held-out images.
    map_limits_ : (float, float)
        Display range for heat maps, from held-out normal maps.

    See Also
    --------
    LinearDFR : Rebuilds from principal components; nothing is trained.
    CNNFeatures : The features.
    DMAD : Trains a decoder that sees the whole image.

    Notes
    -----
    **Differences from the official code** of ``preset="paper"``. The autoencoder, the
    loss, the optimiser and the arithmetic of a patch's error are the same; the image
    score is the maximum of the enlarged map, as there.

    - Features are resampled to the grid of patches at once. The official code enlarges
      them to the size of the image and then averages windows of 4 x 4 pixels.
    - Principal components come from all training images, officially from the first ten.
    - A batch holds rows of any images, and ``max_rows`` rows are kept; officially a
      batch is all rows of 4 images.
    - The statistics of BatchNorm are computed again from all rows with the final
      weights; officially they are running means.
    - Thresholds come from held-out images, officially from training images.

    The presets "fast" and "vit" also standardise channels, use other networks and
    smooth the map.

    Invalid patches are neither learned nor scored. Images may differ in size. Rounding
    during training depends on the number of threads, and so do scores, slightly.

    References
    ----------
    Shi, Yang, Qi, "Unsupervised anomaly segmentation via deep feature reconstruction",
    Neurocomputing 424, 2021, arXiv 2012.07122; official code github.com/YoungGod/DFR.
    ``cos_weight``: ULSAD, arXiv 2410.16255.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DFR, Training
    >>> rng = np.random.default_rng(0)
    >>> t = rng.uniform(0, 2, size=(8, 6, 6, 1))  # 8 feature grids of 6 x 6 patches
    >>> F = np.sin(t + np.arange(16))  # a curve in 16 dimensions
    >>> training = Training(n_iter=100, batch_size=64, learning_rate=0.01)
    >>> detector = DFR(latent_dim=1, training=training).fit(F)
    >>> odd = F[:1].copy()
    >>> odd[0, 4, 1] += rng.normal(size=16)
    >>> heat = detector.predict_map(odd)[0]
    >>> detector.predict(odd), np.argwhere(heat == heat.max())
    (array([-1]), array([[4, 1]]))
    """

    _parameter_constraints = {
        **RowDetector._parameter_constraints,
        "preset": [StrOptions(set(PRESETS))],
        "training": [Training, None],
        "latent_dim": [None, Interval(Integral, 1, None, closed="left")],
        "variance": [Interval(Real, 0, 1, closed="right")],
        "standardize": [None, "boolean"],
        "cos_weight": [Interval(Real, 0, None, closed="left")],
        "max_rows": [None, Interval(Integral, 1, None, closed="left")],
        "score_smoothing": [None, Interval(Real, 0, 1, closed="both")],
    }

    _presets = PRESETS
    _default_parts = {"training": Training}

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        preset: Literal["fast", "vit", "paper"] = "fast",
        latent_dim: int | None = None,
        variance: float = 0.9,
        standardize: bool | None = None,
        cos_weight: float = 0,
        max_rows: int | None = 100_000,
        training: Training | None = None,
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
        self.cos_weight = cos_weight
        self.max_rows = max_rows
        self.training = training
        self.holdout = holdout
        self.aggregate = aggregate
        self.score_smoothing = score_smoothing
        self.target_fpr = target_fpr
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def default_features(self) -> ExtractorLike:
        return EXTRACTORS[self.preset]()

    # -- private: training ------------------------------------------------------------

    def _optimizer(self, network):
        decay = self._setting("weight_decay")
        return torch.optim.Adam(network.parameters(), weight_decay=decay)

    def _rate(self, i):
        n_iter, peak = self._setting("n_iter"), self._setting("learning_rate")
        if self._setting("schedule") == "constant":
            return peak
        return warm_cosine(
            i, n_iter, warm_up=self._warm_up_iterations(), peak=peak, final=0
        )

    def _loss(self, network, data, rows):
        """Return the function of an iteration to its loss."""
        device = next(network.parameters()).device
        low, weight = self._low(device), self.cos_weight

        def loss(i):
            batch = self._batch(rows, i, least=2)  # BatchNorm wants two
            z = network.standardised(data.rows[batch].to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                rebuilt = network(z).float()
            return row_errors(z, rebuilt, weight).mean()

        return loss

    def _settle(self, network, data, rows):
        """Take BatchNorm's statistics from all rows, with the final weights."""
        rows = torch.as_tensor(np.resize(rows, max(2, len(rows))))
        parts = rows.tensor_split(-(-len(rows) // 8192))  # BatchNorm wants two in each
        device = network.mean.device
        z = (network.standardised(data.rows[part].to(device)) for part in parts)
        update_bn(z, network)

    def _conclude(self, network, data):
        """Warn if training ended worse than the projection that needs none."""
        super()._conclude(network, data)
        ours, linear = self.errors_["learned"]
        if ours > linear * 1.001:
            warn(
                f"Under-trained: the autoencoder rebuilds the places it learned from "
                f"with a mean error of {ours:.3g}, the projection on "
                f"{self.latent_dim_} principal components with {linear:.3g}. Raise "
                "n_iter, or use LinearDFR.",
                ConvergenceWarning,
            )
