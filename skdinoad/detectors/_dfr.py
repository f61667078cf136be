"""DFR: features that a small autoencoder cannot rebuild are odd."""

import hashlib
from numbers import Integral, Real
from typing import Literal

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch
from sklearn.utils.metaestimators import available_if
from torch.optim.swa_utils import update_bn

from skdinoad._arrays.maps import smooth
from skdinoad._arrays.thresholds import normals_needed
from skdinoad._compat.caller import warn
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import as_tensor
from skdinoad._inputs.copies import in_order
from skdinoad._inputs.grids import name_of
from skdinoad._training.detector import TrainedDetector
from skdinoad._training.loop import Run, batch_rows, warm_cosine
from skdinoad._typing import (
    Aggregate,
    FeaturesLike,
    Precision,
    RandomState,
)
from skdinoad.features import CNNFeatures, DinoFeatures
from skdinoad.networks import (
    RowAutoencoder,
    code_width,
    covariance,
    pooled,
    principal_axes,
    row_errors,
)

__all__ = ["DFR"]

#: What ``preset`` stands for; each can be given as a parameter of its own.
_OF_PRESETS = (
    "n_iter",
    "batch_size",
    "learning_rate",
    "schedule",
    "standardize",
    "smoothing_sigma",
)
PRESETS = {
    "fast": dict(zip(_OF_PRESETS, (1000, 1024, 5e-3, "cosine", True, 4.0))),
    "vit": dict(zip(_OF_PRESETS, (1000, 1024, 5e-3, "cosine", True, 4.0))),
    # 700 epochs of 209 images in batches of 4, 64 x 64 rows each
    "paper": dict(zip(_OF_PRESETS, (36_400, 16_384, 1e-4, "constant", False, 0.0))),
}

#: The extractors of the presets; standardising is left to DFR.
_EXTRACTORS = {
    "fast": lambda: CNNFeatures(layers=(1, 2, 3, 4), standardize=False),
    "vit": lambda: DinoFeatures(layers=(2, 5, 8), norm=False, image_size=224),
    "paper": lambda: CNNFeatures(
        model="vgg19.tv_in1k",
        layers=tuple(range(12)),
        stride=4,
        standardize=False,
        padding="reflect",
        image_size=(256, 256),
        interpolation="nearest",
    ),
}


def _adds_up(detector):
    """Whether all that is learned are moments of all rows."""
    linear = detector.autoencoder == "linear"
    return linear and detector.holdout is None and detector.max_rows is None


class DFR(TrainedDetector):
    r"""Rebuild each place's features through a narrow code; the rest is odd.

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
        What ``features``, ``n_iter``, ``batch_size``, ``learning_rate``, ``schedule``,
        ``standardize`` and ``smoothing_sigma`` are where they are None. "fast":
        EfficientNet-Lite0, levels of strides 4 to 32, 224 pixels, 28 x 28 places.
        "vit": blocks 2, 5 and 8 of DINOv2 ViT-S, 224 pixels, 16 x 16 places. "paper",
        for a GPU: the first 12 ReLUs of VGG19, 256 pixels, 64 x 64 places, 36 400
        iterations.
    autoencoder : {"mlp", "linear"}, default="mlp"
        "linear" rebuilds from the principal components themselves: nothing is trained,
        and the result is exact.
    latent_dim : int or None, default=None
        Width of the code, less than the number of channels in any case: as many would
        rebuild everything. None takes it from ``variance``.
    variance : float, default=0.9
        Share of the variance that the code's principal components hold.
    standardize : bool or None, default=None
        Whether each channel is brought to mean 0 and variance 1 over the training
        images first. None: all presets but the paper's.
    batch_norm : bool, default=True
        Whether the autoencoder has BatchNorm.
    loss : {"mse", "mse+cos"}, default="mse"
        "mse+cos" adds ``cos_weight`` times 1 - cos, to loss and scores.
    cos_weight : float, default=0.5
    n_iter : int or None, default=None
        Iterations of training.
    batch_size : int or None, default=None
        Rows, places of any images, in one iteration.
    learning_rate : float or None, default=None
        Of Adam; its highest value.
    schedule : {"cosine", "constant"} or None, default=None
        "cosine" rises for a tenth of ``n_iter`` and falls to 0.
    weight_decay : float, default=0
    max_rows : int or None, default=100_000
        Rows kept to learn from, the same number from each image; None keeps all.
    holdout : int, float or None, default=3
        Where thresholds and display limits come from. An int is a number of folds: as
        many further networks, each trained without one fold and asked about it. A
        float is a share of images that no network learns from. None: no threshold.
    expected_fpr : float, default=0.005
        Share of held-out normal places above ``pixel_threshold_``.
    aggregate : {"top", "max", "mean", "p99"}, default="max"
        How place scores become the image score.
    top_fraction : float, default=0.01
        Share of places that "top" averages.
    smoothing_sigma : float or None, default=None
        Standard deviation of a Gaussian, in units of 1/256 of the image's height, over
        the place scores enlarged to the image; image score and heat map both see it. 0:
        none, and image scores are those of the places.
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
    max_time : float or None, default=None
        Seconds of training, the folds' networks included, after which it stops with
        what is learned; the features' time is not counted.
    warm_start : bool, default=False
        Whether ``fit`` goes on with the training of the last ``fit``, on the same
        images, until ``n_iter`` iterations are done altogether.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the matrix products in training; scores are always computed in float32.
        "auto" is bfloat16 on a CPU that multiplies it by itself.
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
        projection on as many principal components; empty after a merge.
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
        Threshold on heat maps: a place is odd where its score is greater.
    map_limits_ : (float, float)
        Display range for heat maps, from held-out normal maps.

    See Also
    --------
    CNNFeatures : The features.
    DMAD : Trains a decoder that sees the whole image.

    Notes
    -----
    Against the paper: features meet on the grid of places and are never brought to the
    size of the image; principal components come from all training images, not from the
    first ten; the rows of one batch come from any images, and of the paper preset's
    places ``max_rows`` are kept, all others never learned; thresholds come from images
    held out, not from those learned. The image score is that of the enlarged map, which
    lowers a single loud place to 2/3 on a ViT's grid; the official code takes none. The
    inner layer has 2d channels, but never more than the rows; BatchNorm's statistics
    are taken anew from all rows, with the final weights, where the official code keeps
    running means of the last batches. A place that is invalid is neither learned nor
    scored. Images may differ in size. Training carries rounding on, so that another
    number of threads gives other scores.

    References
    ----------
    Shi, Yang, Qi, "Unsupervised anomaly segmentation via deep feature reconstruction",
    Neurocomputing 424, 2021, arXiv 2012.07122; official code github.com/YoungGod/DFR.
    "mse+cos": ULSAD, arXiv 2410.16255.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DFR
    >>> rng = np.random.default_rng(0)
    >>> F = rng.normal(size=(8, 6, 6, 2)) @ rng.normal(size=(2, 16))  # a plane in 16-d
    >>> detector = DFR(autoencoder="linear", latent_dim=2, expected_fpr=0.01).fit(F)
    >>> odd = F[:1].copy()
    >>> odd[0, 4, 1] += rng.normal(size=16)
    >>> heat = detector.predict_map(odd)[0]
    >>> detector.predict(odd), np.argwhere(heat == heat.max())
    (array([-1]), array([[4, 1]]))
    """

    _parameter_constraints = {
        **TrainedDetector._parameter_constraints,
        "preset": [StrOptions(set(PRESETS))],
        "autoencoder": [StrOptions({"mlp", "linear"})],
        "latent_dim": [None, Interval(Integral, 1, None, closed="left")],
        "variance": [Interval(Real, 0, 1, closed="right")],
        "standardize": [None, "boolean"],
        "batch_norm": ["boolean"],
        "loss": [StrOptions({"mse", "mse+cos"})],
        "cos_weight": [Interval(Real, 0, None, closed="left")],
        "schedule": [None, StrOptions({"cosine", "constant"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_rows": [None, Interval(Integral, 1, None, closed="left")],
        "expected_fpr": [Interval(Real, 0, 1, closed="neither")],
        "smoothing_sigma": [None, Interval(Real, 0, 1000, closed="both")],
    }

    _presets = PRESETS
    _weights_name = "autoencoder_"

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        preset: Literal["fast", "vit", "paper"] = "fast",
        autoencoder: Literal["mlp", "linear"] = "mlp",
        latent_dim: int | None = None,
        variance: float = 0.9,
        standardize: bool | None = None,
        batch_norm: bool = True,
        loss: Literal["mse", "mse+cos"] = "mse",
        cos_weight: float = 0.5,
        n_iter: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        schedule: Literal["cosine", "constant"] | None = None,
        weight_decay: float = 0.0,
        max_rows: int | None = 100_000,
        holdout: float | None = 3,
        expected_fpr: float = 0.005,
        aggregate: Aggregate = "max",
        top_fraction: float = 0.01,
        smoothing_sigma: float | None = None,
        target_fpr: float = 0.05,
        max_time: float | None = None,
        warm_start: bool = False,
        precision: Precision = "auto",
        device: str = "auto",
        random_state: RandomState = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.preset = preset
        self.autoencoder = autoencoder
        self.latent_dim = latent_dim
        self.variance = variance
        self.standardize = standardize
        self.batch_norm = batch_norm
        self.loss = loss
        self.cos_weight = cos_weight
        self.n_iter = n_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.max_rows = max_rows
        self.holdout = holdout
        self.expected_fpr = expected_fpr
        self.aggregate = aggregate
        self.top_fraction = top_fraction
        self.smoothing_sigma = smoothing_sigma
        self.target_fpr = target_fpr
        self.max_time = max_time
        self.warm_start = warm_start
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- the parts of a detector ------------------------------------------------------

    def _default_features(self):
        return _EXTRACTORS[self.preset]()

    def _aggregate(self, D):
        """Return image scores, of grids enlarged to the image and smoothed there.

        Enlarging spreads a cell linearly over its neighbours, with a variance of 1/6.
        """
        return super()._aggregate(self._smoothed(D, spread=1 / 6))

    def _shown(self, D):
        return self._smoothed(D)  # enlarging comes when maps go back to the image

    def _map(self, grid, frame, size):
        return super()._map(self._smoothed([grid])[0], frame, size)

    def _score_grid(self, F):
        n_channels = self.autoencoder_["components"].shape[1]
        if F.shape[-1] != n_channels:
            raise ValueError(
                f"Features of {F.shape[-1]} channels; fitted on {n_channels}. Use one "
                "extractor for all."
            )
        return self._errors(self._network(), F, compare=False)[0]

    # -- private: rows ----------------------------------------------------------------

    def _gather(self, X):
        """Return rows of all images, the same number from each, as float32.

        Rows, folds and batches are drawn by the place in this order.
        """
        rows, image, start = [], [], 0
        ordered, order, known = in_order(X)
        self._errors_of = {"learned": [], "held out": []}
        most = np.inf if self.max_rows is None else max(1, self.max_rows // len(X))
        for F, _ in self._batches(ordered, "fit"):
            for grid in F:
                self._check_features(grid)
                cells = grid.reshape(-1, grid.shape[-1])
                cells = cells[np.isfinite(cells).all(-1)]
                if len(cells) > most:
                    rng = np.random.default_rng([self._seed, start])
                    cells = cells[np.sort(rng.permutation(len(cells))[:most])]
                self._check_channels(cells, rows, name_of(X, order[start]))
                rows.append(as_tensor(np.ascontiguousarray(cells, np.float32)))
                image.append(np.full(len(cells), order[start]))
                start += 1
        image = self._numbered(X, np.concatenate(image), known)
        if len(image) < 2 and self.autoencoder == "mlp":
            raise ValueError(
                "There is one valid place to learn from, and an autoencoder needs "
                "more: more images, larger ones, or autoencoder='linear'."
            )
        return Bunch(rows=torch.cat(rows), image=image, pictures=X)

    def _check_channels(self, cells, rows, name):
        if rows and cells.shape[1] != rows[0].shape[1]:
            raise ValueError(
                f"{name} gives features of {cells.shape[1]} channels, expected "
                f"{rows[0].shape[1]}."
            )

    # -- private: training ------------------------------------------------------------

    def _identity(self, data):
        content = hashlib.sha1(data.rows.numpy(), usedforsecurity=False).hexdigest()
        code = (self.latent_dim, self.variance, self._setting("standardize"))
        loss = (self.autoencoder, self.batch_norm, self._cos_weight())
        return (content, *code, *loss)

    def _new_network(self, data, rows):
        """Return a network with the principal components of these rows."""
        mean, spread = covariance(data.rows, rows)
        self._moments = None
        if _adds_up(self):
            self._moments = len(rows), mean.numpy(), spread.numpy()
        return self._network_of(mean, spread)

    def _network_of(self, mean, spread):
        """Return a network with the principal components of a covariance (c, c)."""
        centre, scale = mean, torch.ones_like(mean)
        if self._setting("standardize"):
            scale = spread.diagonal().sqrt()
            scale = torch.where(scale < 1e-6, 1, scale)  # constant ones stay quiet
            spread = spread / torch.outer(scale, scale)
            centre = torch.zeros_like(mean)
        variances, axes = principal_axes(spread)
        code = self.latent_dim or code_width(variances, self.variance)
        if len(mean) < 2:
            raise ValueError("DFR needs features of 2 channels at least; they have 1.")
        code = max(1, min(code, len(mean) - 1))
        learned = self.autoencoder == "mlp"
        network = RowAutoencoder(
            len(mean), code, learned=learned, batch_norm=self.batch_norm
        )
        network.mean.copy_(mean - centre)
        network.scale.copy_(scale)
        network.centre.copy_(centre)
        network.variances.copy_(variances)
        network.components.copy_(axes[:code])
        return network

    def _from_weights(self, weights):
        return RowAutoencoder.like(weights)

    def _optimizer(self, network):
        parameters = list(network.parameters())
        if not parameters:
            return None  # linear: nothing to train
        return torch.optim.Adam(parameters, weight_decay=self.weight_decay)

    def _rate(self, i):
        n_iter, peak = self._setting("n_iter"), self._setting("learning_rate")
        if self._setting("schedule") == "constant":
            return peak
        return warm_cosine(i, n_iter, warm_up=self._risen(), peak=peak, final=0)

    def _loss(self, network, data, rows):
        """Return the function of an iteration to its loss."""
        device = next(network.parameters()).device
        low, weight = self._low(device), self._cos_weight()

        def loss(i):
            batch = self._batch(rows, i, least=2)  # BatchNorm wants two
            z = network.standardised(data.rows[batch].to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                rebuilt = network(z).float()
            return row_errors(z, rebuilt, weight).mean()

        return loss

    def _cos_weight(self):
        return self.cos_weight if self.loss == "mse+cos" else 0.0

    def _train(self, run, data, rows, seconds, name):
        if run.optimizer is not None:
            super()._train(run, data, rows, seconds, name)
            self._settle(run.network, data, rows)
        run.network.eval()
        some = rows[batch_rows(len(rows), 8192, 0, self._seed)]
        learned = data.rows[some].numpy()[None, None]
        self._note("learned", self._errors(run.network, learned))

    def _check_network(self, network, data, rows):
        some = data.rows[rows[:8]].numpy()[None, None]  # judging would take notes
        self._refuse_broken(self._errors(network, some, compare=False)[0])

    def _settle(self, network, data, rows):
        """Take BatchNorm's statistics from all rows, with the final weights."""
        rows = torch.as_tensor(np.resize(rows, max(2, len(rows))))
        parts = rows.tensor_split(-(-len(rows) // 8192))  # BatchNorm wants two in each
        device = network.mean.device
        z = (network.standardised(data.rows[part].to(device)) for part in parts)
        update_bn(z, network)

    def _judge(self, network, data, row):
        i = data.image[row]
        F, _ = self._read_batch(data.pictures[i : i + 1])
        grids = self._errors(network, np.asarray(F[0], np.float32)[None])
        self._note("held out", grids)
        return grids[0][0]

    def _note(self, which, grids):
        self._errors_of[which].append([float(np.nanmean(D)) for D in grids])

    def _conclude(self, network, data):
        """Warn if training ended worse than the projection that needs none."""
        self.errors_ = {
            which: tuple(np.mean(pairs, axis=0).tolist())
            for which, pairs in self._errors_of.items()
            if pairs
        }
        del self._errors_of
        ours, linear = self.errors_["learned"]
        if ours > linear * 1.001:
            warn(
                f"Under-trained: the autoencoder rebuilds the places it learned from "
                f"with a mean error of {ours:.3g}, the projection on "
                f"{self.latent_dim_} principal components with {linear:.3g}. Raise "
                "n_iter, or use autoencoder='linear'.",
                ConvergenceWarning,
            )

    def _keep(self, run):
        super()._keep(run)
        self.latent_dim_ = len(self.autoencoder_["components"])
        self.explained_variance_ = self.autoencoder_["variances"]

    # -- private: merging -------------------------------------------------------------

    @available_if(_adds_up)
    def _keeping_all(self):
        """Return an unfitted copy: moments are of all rows as it is."""
        return clone(self)

    @available_if(_adds_up)
    def _join(self, parts):
        """Add up the moments of all rows."""
        if any(getattr(part, "_moments", None) is None for part in parts):
            raise ValueError("A detector of an earlier version: fit it again.")
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

    # -- private: scores --------------------------------------------------------------

    @torch.inference_mode()
    def _errors(self, network, F, compare=True):
        """Return the errors (n, h, w) by the network, and by the projection."""
        valid = np.isfinite(F).all(-1)
        rows = as_tensor(F[valid]).to(network.mean.device)
        ways = (network, network.projected) if compare else (network,)
        grids = np.full((len(ways), *valid.shape), np.nan, np.float32)
        z, weight = network.standardised(rows), self._cos_weight()
        for grid, way in zip(grids, ways):
            grid[valid] = row_errors(z, way(z), weight).cpu().numpy()
        return grids

    def _smoothed(self, grids, spread=0):
        """Return grids smoothed by a Gaussian that grows with them."""
        share = self._setting("smoothing_sigma") / 256
        if not share:
            return grids
        return [
            smooth(D[None], np.sqrt((share * len(D)) ** 2 + spread))[0] for D in grids
        ]

    def _pixel_threshold(self, grids):
        """Return the lowest score that a share of normal places does not exceed."""
        scores = np.concatenate([grid[np.isfinite(grid)] for grid in grids])
        if len(scores) * self.expected_fpr < 1:
            warn(
                f"expected_fpr={self.expected_fpr} needs "
                f"{normals_needed(self.expected_fpr) + 1} held-out places, there are "
                f"{len(scores)}: pixel_threshold_ is their largest score.",
                UserWarning,
            )
        share = 1 - self.expected_fpr
        return float(np.quantile(scores, share, method="higher"))
