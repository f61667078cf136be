"""Dinomaly: a decoder that reconstructs the features of good images only."""

import hashlib
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch

from skdinoad._arrays.maps import aggregate, enlarged
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._inputs.grids import name_of
from skdinoad._training.augment import Copies
from skdinoad._training.detector import TrainedDetector
from skdinoad._training.loop import iterations, warm_cosine
from skdinoad._training.stable_adamw import StableAdamW
from skdinoad._training.tokens import TokenGrids, check_like, gather, pack
from skdinoad._typing import (
    Aggregate,
    ExtractorLike,
    FeaturesLike,
    RandomState,
)
from skdinoad.detectors._checkpoints import LoadsOfficial
from skdinoad.features import DinoFeatures
from skdinoad.networks import (
    Reconstructor,
    cosine_distance,
    dinomaly_weights,
    rebuild,
    reconstruction_loss,
)
from skdinoad.training import Training

__all__ = ["Dinomaly"]

#: What ``preset`` stands for; most can be given as a parameter of their own.
_PAPER = {
    "depth": 8,
    "n_iter": 5000,
    "batch_size": 16,
    "warm_up": 100,
    "mining_ramp": 1000,
    "learning_rate": 2e-3,
    "weight_decay": 1e-4,
    "dropout": 0.2,
    "neck": 0,
    "recenter": False,
}
PRESETS = {
    "fast": {
        **_PAPER,
        "depth": 2,
        "n_iter": 600,
        "batch_size": 4,
        "warm_up": 0.1,
        "mining_ramp": 0.1,
    },
    "paper": _PAPER,
    "dinomaly2": {
        **_PAPER,
        "n_iter": 40_000,
        "dropout": 0.4,
        "neck": 256,
        "recenter": True,
    },
}

#: What the optimiser of a preset has; the rate ends at this share of its peak.
#: ``attention_eps`` prevents division by zero in linear attention.
_OFFICIAL = {"amsgrad": True, "eps": 1e-8, "last": 0.1, "attention_eps": 1e-6}
_OPTIMIZERS = {
    "fast": _OFFICIAL,
    "paper": _OFFICIAL,
    "dinomaly2": {"amsgrad": False, "eps": 1e-10, "last": 1.0, "attention_eps": 1e-8},
}

#: Share of patches, those rebuilt best, whose gradient is damped, and by which factor.
_MINED, _MINING_FACTOR = 0.9, 0.1

#: The neck learns at this share of the rate, or large networks break down.
_NECK_RATE = 0.1

#: The extractors of the presets.
_OFFICIAL_EXTRACTOR = {
    "model": "vit_base_patch14_reg4_dinov2.lvd142m",
    "image_size": (448, 448),
    "cropping": 392,
    "interpolation": "bilinear",
}
_EXTRACTORS: dict[str, dict[str, Any]] = {
    "fast": {"image_size": (224, 224)},
    "paper": _OFFICIAL_EXTRACTOR,
    "dinomaly2": _OFFICIAL_EXTRACTOR,
}


class Dinomaly(LoadsOfficial, TrainedDetector):
    r"""Reconstruct features of the network's middle; the error is the anomaly score.

    The mean of eight blocks' tokens passes a noisy bottleneck, an MLP with dropout,
    and a decoder of linear-attention blocks, whose outputs must match the blocks'
    features in two groups. Trained on good images alone, it minimises

    .. math:: L = \frac{1}{2} \sum_{g} 1 - \cos(f_g, \hat f_g),

    each :math:`f_g` being all of an image's features in one vector, with the gradient
    of the patches that are rebuilt well damped. A patch's score is the mean over
    groups of :math:`1 - \cos` at its place, from 0 to 2. One model serves several
    products at once: fit it on all their images.

    Parameters
    ----------
    features : DinoFeatures, "passthrough" or None, default=None
        Extractor of the features. None stands for the preset's, with the layers
        "middle" in two groups; feature grids are taken as they are, and then without
        the class token.
    preset : {"fast", "paper", "dinomaly2"}, default="fast"
        What ``features``, ``training``, ``depth``, ``dropout`` and ``recenter`` are
        where they are None. "fast", for a CPU: ViT-S at 224 x 224 pixels, 2 decoder
        blocks, 600 iterations of 4 images. "paper", for a GPU: ViT-B with registers,
        448 pixels of which the central 392 are seen, 8 blocks, 5000 iterations of 16
        images (for one product; the paper has 10 000 for several). "dinomaly2", for a
        GPU and several products: as "paper" with recentred targets, a neck of 256
        channels, dropout 0.4 and 40 000 iterations of an optimiser without AMSGrad,
        whose rate stays up.
    groups : int, default=1
        Groups of layers that lie side by side in the channels of feature grids. An
        extractor tells by itself.
    depth : int or None, default=None
        Decoder blocks, a multiple of the number of groups.
    dropout : float or None, default=None
        Rate in the bottleneck. None: the preset's, 0.2; 0.4 in the paper for the most
        varied data.
    recenter : bool or None, default=None
        Subtract the class token from the features to rebuild and normalise them, as
        Dinomaly2 does; needs an extractor that gives class tokens. None: the preset's,
        False.
    augmentation : {None, "dihedral", "crops"}, default=None
        Copies of each image to learn from: the eight right-angled poses, or seven
        random crops. They pass the network once. For few images, and only where
        turned or cut parts are normal.
    training : Training or None, default=None
        Iterations, batches, learning rate, time limit and precision of training; None
        means ``Training()``, the preset's values. ``training__n_iter`` and the like can
        be searched either way.
    holdout : int, float or None, default=3
        Where threshold and display limits come from. An int is a number of folds: as
        many further networks, each trained without one fold and asked about it. A
        float is a share of images that no network learns from. None: no threshold;
        enough for ranking by ``score_samples``, and a quarter of the time.
    map_size : int or None, default=256
        Side of the map over which patch scores are reduced to the image's; None
        reduces the patch grid itself.
    aggregate : float, "max", "mean" or "p99", default=0.01
        How patch scores become the image score. A share in (0, 1] takes the mean of
        this share of them, the largest ones, at least one.
    map_smoothing : float, default=0.0054
        Standard deviation of a Gaussian over the heat map, as a share of the image's
        height; that of the official kernel of 5 x 5 pixels on 256 x 256. Image scores
        do not depend on it. Maps of feature grids are not smoothed.
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
    device : str, default="auto"
        Where the decoder runs; "auto" takes a GPU if there is one.
    random_state : int, RandomState instance or None, default=0
        Draws weights, batches, dropout, folds and crops.
    verbose : bool, default=False
        Show progress bars, with the loss and the time left.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that become 0 and 255, learned from training images of more than 8 bits;
        None = they have 8.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : DinoFeatures or None
        The fitted extractor; it knows the digest of the weights.
    decoder_ : dict of str to ndarray
        Weights of bottleneck and decoder, float32.
    n_groups_ : int
        Groups of features rebuilt.
    n_iter_ : int
        Iterations done.
    loss_curve_ : list of float
        The loss in each. A lower loss is not a better detector: never choose by it.
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
    map_limits_ : (float, float)
        Display range for heat maps, from held-out normal maps.
    pixel_threshold_ : float
        Threshold on heat maps: good images exceed it anywhere as rarely as their
        scores fall below ``offset_``. NaN without held-out images.

    See Also
    --------
    AnomalyDINO : Nothing to train; better with few images on a CPU.

    Notes
    -----
    The image score comes from a map of 256 x 256 pixels, as in the official code. The
    heat map shows each patch at its place in the image, and is 0 where an extractor
    with ``cropping`` does not look. Scores of different ``map_size`` have different
    scales.

    **Differences from the official code** of ``preset="paper"``:

    - The map of the image score is mirrored at its border before it is smoothed. The
      official code pads it with zeros, which darkens two pixels at each edge.
    - Linear attention divides by its sum plus 1e-6; the official code adds nothing,
      and the sum is some hundreds.
    - 5,000 iterations, as the official scripts for one product have; those for several
      products have 10,000.
    - Batches are drawn as here, not as by torch's data loader, and an image without
      valid patches is left out.

    ``preset="dinomaly2"`` follows the description and the preview of the code of
    Dinomaly2, for whole images. A gradient that is not finite is an error here, and
    that code skips the step. The default encoder here is ViT-B, and ViT-S in its
    script.

    Invalid patches are neither learned nor scored, and other patches do not attend to
    them.

    As in the official code, batches and folds are drawn by row: the order of training
    images is part of the seed. Sort paths where a second fit is to give equal scores.

    References
    ----------
    Guo, Lu, Zhang, Chen, Li, Liao, "Dinomaly: The Less Is More Philosophy in
    Multi-Class Unsupervised Anomaly Detection", CVPR 2025, arXiv 2405.14325; official
    code github.com/guojiajeremy/Dinomaly. Recentering and neck: "Dinomaly2", arXiv
    2510.17611.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import Dinomaly, Training
    >>> rng = np.random.default_rng(0)
    >>> F = 1 + rng.normal(size=(8, 4, 4, 64), scale=0.1)   # features of 8 good images
    >>> detector = Dinomaly(depth=1, training=Training(n_iter=60)).fit(F)
    >>> defect = F[:1].copy()
    >>> defect[0, 1, 2, :32] = -1
    >>> detector.predict(defect)
    array([-1])
    """

    _parameter_constraints = {
        **TrainedDetector._parameter_constraints,
        "preset": [StrOptions(set(PRESETS))],
        "training": [Training, None],
        "groups": [Interval(Integral, 1, None, closed="left")],
        "depth": [None, Interval(Integral, 1, None, closed="left")],
        "dropout": [None, Interval(Real, 0, 1, closed="left")],
        "recenter": [None, "boolean"],
        "augmentation": [None, StrOptions({"dihedral", "crops"})],
        "map_size": [None, Interval(Integral, 3, None, closed="left")],
        "map_smoothing": [Interval(Real, 0, 1, closed="both")],
    }

    grad_clip = 0.1

    _presets = PRESETS
    _weights_name = "decoder_"
    _official_weights = staticmethod(dinomaly_weights)

    @classmethod
    def _official_preset(cls, weights):
        return "dinomaly2" if "bottleneck.neck.weight" in weights else "paper"

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        preset: Literal["fast", "paper", "dinomaly2"] = "fast",
        groups: int = 1,
        depth: int | None = None,
        dropout: float | None = None,
        recenter: bool | None = None,
        augmentation: Literal["dihedral", "crops"] | None = None,
        training: Training | None = None,
        holdout: float | None = 3,
        map_size: int | None = 256,
        aggregate: Aggregate = 0.01,
        map_smoothing: float = 0.0054,
        target_fpr: float = 0.05,
        device: str = "auto",
        random_state: RandomState = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.preset = preset
        self.groups = groups
        self.depth = depth
        self.dropout = dropout
        self.recenter = recenter
        self.augmentation = augmentation
        self.training = training
        self.holdout = holdout
        self.map_size = map_size
        self.aggregate = aggregate
        self.map_smoothing = map_smoothing
        self.target_fpr = target_fpr
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- the parts of a detector ------------------------------------------------------

    def default_features(self) -> ExtractorLike:
        how = _EXTRACTORS[self.preset]
        return DinoFeatures(layers="middle", groups=2, norm=False, **how)

    def _score(self, F):
        if len({grid.shape for grid in F}) > 1:
            return [self._score(F.one(i))[0] for i in range(len(F))]
        check_like(F, self._shape[-1], self._n_prefix)
        tokens, valid = pack(F, self.n_groups_)
        D = self._distances(self._network(), tokens, valid)
        return D.reshape(-1, *F[0].shape[:2])

    def _aggregate(self, D):
        if self.map_size is not None:
            patch = getattr(self.features_, "patch_size_", 14)
            D = [enlarged(grid, self.map_size, patch) for grid in D]
        return aggregate(D, self.aggregate)

    # -- private: features ------------------------------------------------------------

    def _read_batch(self, batch):
        """Return a batch's grids, which know the tokens before them, and affines."""
        if not hasattr(self.features_, "transform_tokens"):
            F, affines = super()._read_batch(batch)
            return TokenGrids(F), affines
        grids, prefix, affines = self.features_.transform_tokens(batch)
        return TokenGrids(grids, prefix), affines

    def _gather(self, X):
        """Return the tokens of all training images and their copies, as float16."""
        self.n_groups_ = getattr(self.features_, "n_groups_", self.groups)
        self._check_recentring()
        n_copies = 1 if self.augmentation is None else Copies.each
        pictures = X if n_copies == 1 else Copies.of(X, self.augmentation, self._seed)
        data = gather(self._rows(X, pictures, n_copies), len(pictures))
        data.image = self._numbered(X, data.image)
        self._n_prefix = data.valid.shape[1] - self._shape[0] * self._shape[1]
        return data

    def _check_recentring(self):
        """Refuse to recentre without class tokens; a register is none."""
        if self._setting("recenter") and not getattr(
            self.features_, "has_class_token_", False
        ):
            model = getattr(self.features_, "model", None)
            who = f"model={model!r} has" if model else "feature grids have"
            raise ValueError(
                f"recenter=True needs class tokens, and {who} none: pass "
                "recenter=False, or images and a model with a class token."
            )

    def _rows(self, X, pictures, n_copies):
        """Yield (tokens, valid, image) of each picture that has a valid patch."""
        row, self._shape = 0, None
        for F, _ in self._batches(pictures, "fit"):
            for i, grid in enumerate(F):
                image, copy = divmod(row, n_copies)
                self._check_features(grid)
                self._shape = self._shape or grid.shape
                self._check_size(grid.shape, name_of(X, image), copy)
                if np.isfinite(grid).all(-1).any():
                    yield *pack(F.one(i), self.n_groups_), image
                row += 1

    # -- private: training ------------------------------------------------------------

    def _check_size(self, shape, name, copy):
        if not copy:
            return self._check_shape(shape, self._shape, name)
        try:
            self._check_shape(shape, self._shape, f"A copy of {name}")
        except ValueError as error:
            made = f"Such copies come of augmentation={self.augmentation!r}."
            raise ValueError(f"{error} {made}") from error

    def _span(self, name, most):
        """Return a number of iterations; the preset's is a share of them at most."""
        n_iter = self._setting("n_iter")
        span = iterations(self._setting(name), n_iter)
        given = self._given_setting(name) is not None
        return span if given else min(span, int(most * n_iter))

    def _identity(self, data):
        content = hashlib.sha1(data.tokens.numpy(), usedforsecurity=False).hexdigest()
        names = ("depth", "neck", "recenter")
        return (content, self.n_groups_, *map(self._setting, names))

    def _new_network(self, data, rows):
        depth, channels = self._setting("depth"), data.tokens.shape[-1]
        eps = _OPTIMIZERS[self.preset]["attention_eps"]
        kind = {"neck": self._setting("neck"), "eps": eps}
        return Reconstructor(channels, self.n_groups_, depth, **kind)

    def _from_weights(self, weights):
        eps = _OPTIMIZERS[self.preset]["attention_eps"]
        return Reconstructor.like(weights, self.n_groups_, eps)

    def _optimizer(self, network):
        own = [w for n, w in network.named_parameters() if ".neck." in n]
        rest = [w for n, w in network.named_parameters() if ".neck." not in n]
        groups = [{"params": rest}, {"params": own, "factor": _NECK_RATE}]
        how = {k: _OPTIMIZERS[self.preset][k] for k in ("amsgrad", "eps")}
        return StableAdamW(groups[: 1 + bool(own)], **how)

    def _warm_up_iterations(self):
        return self._span("warm_up", most=0.1)

    def _rate(self, i):
        n_iter, peak = self._setting("n_iter"), self._setting("learning_rate")
        warm_up = self._warm_up_iterations()
        if self.preset == "dinomaly2" and i < warm_up:
            return peak * i / warm_up  # the others reach the peak an iteration sooner
        final = peak * _OPTIMIZERS[self.preset]["last"]
        return warm_cosine(i, n_iter, warm_up=warm_up, peak=peak, final=final)

    def _loss(self, network, data, rows):
        """Return the function of an iteration to its loss."""
        device = next(network.parameters()).device
        whole, p = bool(data.valid.all()), self._n_prefix
        low = self._low(device)
        ramp = self._span("mining_ramp", most=0.2)
        network.bottleneck.rate = self._setting("dropout")

        def loss(i):
            batch = self._batch(rows, i)
            tokens = data.tokens[batch].to(device).float()
            valid = None if whole else data.valid[batch].to(device)
            target, rebuilt = self._rebuild(network, tokens, valid, low)
            valid = None if whole else valid[:, p:]
            share = _MINED * min(1, i / max(1, ramp))
            return reconstruction_loss(target, rebuilt, valid, share, _MINING_FACTOR)

        return loss

    def _rebuild(self, network, tokens, valid, low=False):
        """Return the patches' features and what the network makes of them."""
        kind = {"prefix": self._n_prefix, "recenter": self._setting("recenter")}
        return rebuild(network, tokens, valid, low=low, **kind)

    # -- private: distances -----------------------------------------------------------

    @torch.inference_mode()
    def _distances(self, network, tokens, valid):
        """Return the distances (n, h * w) of all patches, NaN where invalid."""
        device = next(network.parameters()).device
        tokens, valid = tokens.to(device), valid.to(device)
        used = None if bool(valid.all()) else valid
        D = cosine_distance(*self._rebuild(network, tokens, used)).mean(dim=1)
        D = D.clamp(min=0).masked_fill(~valid[:, self._n_prefix :], torch.nan)
        return D.cpu().numpy()

    def _score_row(self, network, data, row):
        """Return the distances (h, w) of one training image by a network."""
        tokens, valid = data.tokens[row : row + 1].float(), data.valid[row : row + 1]
        return self._distances(network, tokens, valid).reshape(self._shape[:2])
