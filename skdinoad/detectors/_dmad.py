"""DMAD: what neither prototypes nor a measurable deformation can rebuild is odd."""

import hashlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.geometry import field_in_pixels, warp_back
from skdinoad._arrays.maps import aggregate, smooth_inside
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import as_tensor, isolated_torch_state, resolve_device
from skdinoad._inputs.grids import name_of, nothing_valid
from skdinoad._inputs.images import Images
from skdinoad._training.detector import TrainedDetector
from skdinoad._training.loop import warm_cosine
from skdinoad._typing import Aggregate, ExtractorLike, ImagesLike
from skdinoad.detectors._checkpoints import LoadsOfficial
from skdinoad.features import CNNFeatures, DinoFeatures
from skdinoad.features._levels import on_grid
from skdinoad.networks import (
    MovingStudent,
    check_depth,
    check_scales,
    dmad_weights,
    on_levels,
    pyramid,
)

__all__ = ["DMAD"]

#: What ``preset`` stands for; each can be given as a parameter of its own.
_TRAINING = ("variant", "n_iter", "batch_size", "learning_rate", "n_codes")
_STUDENT = ("student_width", "student_depth")
_OFFSETS = ("offset_width", "offset_stem")
_OF_PRESETS = (*_TRAINING, *_STUDENT, *_OFFSETS, "scale_channels")
_VALUES = {
    "fast": ("ppdm", 300, 8, 2e-3, 50, 128, 1, 16, 2, True),
    "vit": ("pdm", 300, 8, 2e-3, 50, 96, 1, 16, 2, True),
    # 400 epochs of 209 images
    "paper": ("ppdm", 10_450, 8, 5e-3, 200, 0, (6, 4, 3), 64, 1, False),
}
PRESETS = {name: dict(zip(_OF_PRESETS, values)) for name, values in _VALUES.items()}

#: The extractors of the presets; scaling is left to DMAD.
_EXTRACTORS = {
    "fast": lambda: CNNFeatures(
        layers=(1, 2, 3), image_size=(224, 224), standardize=False
    ),
    "vit": lambda: DinoFeatures(layers=(2, 5, 8), norm=False, image_size=(224, 224)),
    "paper": lambda: CNNFeatures(
        model="wide_resnet50_2.tv_in1k",
        layers=(1, 2, 3),
        image_size=(256, 256),
        interpolation="bilinear",
        standardize=False,
    ),
}


class DMAD(LoadsOfficial, TrainedDetector):
    r"""Move an image towards prototypes, rebuild its features; what is left is odd.

    Good parts differ in harmless ways, such as a little shift or stretch. A small
    network reads offset fields from the image, coarse and fine, and moves its pixels;
    a student rebuilds the levels of a frozen teacher from a bottleneck in which the
    deepest level is replaced by its nearest prototypes. Trained on good images alone,
    "ppdm" minimises

    .. math:: \sum_l 1 - \cos(E_l(y), D_l) + \sum_k \overline{|O_k|}
       + \sum_k S(O_k) + \sum_k S(O_k^T) + \overline{(x - y \circ O^T)^2} + L_{vq},

    where y is the image x moved by the fields :math:`O_k`, fields :math:`O_k^T` move it
    back, S is roughness and :math:`L_{vq}` pulls prototypes and features
    together. A place's score is the sum over levels of :math:`1 - \cos` there, moved
    back, plus ``alpha`` times the size of the deformation.

    Parameters
    ----------
    features : CNNFeatures, DinoFeatures or None, default=None
        The teacher: its network, weights, layers and ``image_size``, which must be
        (height, width) where images differ in shape. None stands for the preset's. The
        layers of a ViT, all of one size, become a pyramid. No feature grids: pixels
        move here.
    preset : {"fast", "vit", "paper"}, default="fast"
        What parameters are that are None. "fast": EfficientNet-Lite0, levels of
        strides 4, 8 and 16, 224 pixels, 300 iterations. "vit": DINOv2 ViT-S, blocks 2,
        5 and 8, 224 pixels, "pdm". "paper", for a GPU: WideResNet50-2, 256 pixels,
        10 450 iterations, a student as wide as the teacher.
    variant : {"ppdm", "pdm"} or None, default=None
        "ppdm", the paper's for images, moves pixels before the teacher sees them.
        "pdm" moves the student's features instead, so that the teacher's are computed
        once: a third of the time. It is the paper's variant for video, brought from
        pixels to features here.
    scales : sequence of (float, int), default=((8 / 256, 8), (3 / 256, 2))
        For each field, coarse to fine: the largest offset, as a share of the image's
        smaller side, and the pixels per offset. ``()`` switches deformation off.
    vq : bool, default=True
        Whether there are prototypes. ``scales=(), vq=False`` is plain reverse
        distillation, the baseline to compare with.
    n_codes : int or None, default=None
        Number of prototypes; at most a quarter of the training images' places.
    loss : {"global", "local"}, default="global"
        Whether the cosine in the loss is that of a whole level, all its places in one
        vector, as in the official code, or the mean over places, as in the paper.
    vq_weight, strength_weight, smooth_weight, cycle_weight : float, default=1
        Of the terms of the loss.
    scale_channels : bool or None, default=None
        Whether the teacher's channels are divided by their root mean square over the
        training images, so that no few of them rule the cosine. Their means stay: a
        plain ground has no direction without. None: all presets but the paper's.
    student_width : int or None, default=None
        Most channels of the student at any level; 0 is the teacher's number.
    student_depth : int, sequence of int or None, default=None
        The student's residual blocks at each level, shallow to deep.
    offset_width : int or None, default=None
        Channels of the network that reads offsets.
    offset_stem : int or None, default=None
        Factor by which that network shrinks the image first.
    n_iter : int or None, default=None
        Iterations of training.
    batch_size : int or None, default=None
        Images in one iteration.
    learning_rate : float or None, default=None
        At the start; it falls to 0 in a cosine.
    weight_decay : float, default=1e-2
        Of AdamW, whose betas are 0.5 and 0.999.
    alpha : float, default=0.05
        Weight of the deformation in scores and maps, once both terms have the same
        spread over good images. It is a weak term; 0 leaves the reconstruction alone.
        A search trains anew for each: compare values by ``score_parts`` instead.
    holdout : int, float or None, default=3
        Where threshold and display limits come from. An int is a number of folds: as
        many further networks, each trained without one fold and asked about it. A
        float is a share of images that no network learns from. None: no threshold.
    aggregate : {"top", "max", "mean", "p99"}, default="max"
        How each of the two maps becomes a number.
    top_fraction : float, default=0.01
        Share of the map that "top" averages.
    smoothing_sigma : float, default=4
        Standard deviation of a Gaussian over both maps, in units of 1/256 of the
        image's height; scores and heat maps both see it.
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
    max_time : float or None, default=None
        Seconds of training, the folds' networks included, after which it stops with
        what is learned.
    warm_start : bool, default=False
        Whether ``fit`` goes on with the training of the last ``fit``, on the same
        images, until ``n_iter`` iterations are done altogether. With as many as are
        done, a new ``alpha`` gets its threshold without training.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the products in training; scores are always computed in float32. "auto" is
        bfloat16 on a CPU that multiplies it by itself.
    device : str, default="auto"
        Where the student runs; "auto" takes a GPU if there is one.
    random_state : int, RandomState instance or None, default=0
        Draws weights, prototypes, batches and folds.
    verbose : bool, default=False
        Show progress bars, with the loss and the time left.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that become 0 and 255, learned from training images of more than 8 bits;
        None = they have 8.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : CNNFeatures or DinoFeatures
        The fitted teacher; it knows the digest of the weights.
    student_ : dict of str to ndarray
        Weights of all that is trained, and the channels' scales.
    part_scales_ : ndarray of shape (2,)
        Spread over good images, held out if any are, of error and deformation.
    deformation_weight_ : float
        ``alpha * part_scales_[0] / part_scales_[1]``: what deformation counts in scores
        and maps. A new ``alpha`` needs a new ``fit``.
    code_usage_ : ndarray of shape (n_codes,), int
        How many places of the training images each prototype stands for.
    n_iter_ : int
        Iterations done.
    loss_curve_ : list of float
        The loss in each.
    loss_parts_ : dict of str to list of float
        Its terms, unweighted, in the iterations of this process.
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
    DFR : Trains in seconds, and sees single places.
    Dinomaly : The same idea with a transformer's decoder.

    Notes
    -----
    Against the official code: both terms are scaled by good images held out and not by
    the test set, and ``alpha`` is one number and not chosen by category, so a single
    image can be scored. One model serves image and pixel scores. The prototypes start
    from features of good images, and idle ones move. Roughness is the mean over x and y
    apart, half of their sum, and repeats the border. Maps of levels meet with
    half-pixel centres.

    Invalid pixels have the mean colour, no prototype learns from them, and they count
    neither in the loss, but for the fields' own length and roughness, nor in scores.

    As in the official code, batches, and folds and first prototypes too, are drawn by
    row: the order of training images is part of the seed. Sort paths, and keep the
    number of threads, where a second fit is to give equal scores: one thread adds in
    another order than two, and training carries rounding on.

    References
    ----------
    Liu, Chang, Zhang, Shan, Chen, "Diversity-Measurable Anomaly Detection", CVPR 2023,
    arXiv 2303.05047; official code github.com/FlappyPeggy/DMAD. Bottleneck and student:
    Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding",
    CVPR 2022, arXiv 2201.10703.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DMAD, CNNFeatures
    >>> cnn = CNNFeatures(
    ...     model="test_efficientnet",
    ...     weights="random:0",
    ...     image_size=64,
    ...     standardize=False,
    ... )
    >>> X = np.random.default_rng(0).integers(90, 110, (6, 64, 64, 3), dtype=np.uint8)
    >>> detector = DMAD(features=cnn, n_iter=5, holdout=None).fit(X)
    >>> detector.predict_map(X).shape, detector.predict_deformation(X).shape
    ((6, 64, 64), (6, 2, 64, 64, 2))
    """

    _presets = PRESETS
    _weights_name = "student_"
    _official_weights = staticmethod(dmad_weights)

    _parameter_constraints = {
        **TrainedDetector._parameter_constraints,
        "preset": [StrOptions(set(PRESETS))],
        "variant": [None, StrOptions({"ppdm", "pdm"})],
        "scales": ["array-like"],
        "vq": ["boolean"],
        "n_codes": [None, Interval(Integral, 1, None, closed="left")],
        "loss": [StrOptions({"global", "local"})],
        "vq_weight": [Interval(Real, 0, None, closed="left")],
        "strength_weight": [Interval(Real, 0, None, closed="left")],
        "smooth_weight": [Interval(Real, 0, None, closed="left")],
        "cycle_weight": [Interval(Real, 0, None, closed="left")],
        "scale_channels": [None, "boolean"],
        "student_width": [None, Interval(Integral, 0, None, closed="left")],
        "student_depth": [None, Integral, "array-like"],
        "offset_width": [None, Interval(Integral, 1, None, closed="left")],
        "offset_stem": [None, Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "smoothing_sigma": [Interval(Real, 0, 1000, closed="both")],
    }

    def __init__(
        self,
        *,
        features: ExtractorLike | None = None,
        preset: Literal["fast", "vit", "paper"] = "fast",
        variant: Literal["ppdm", "pdm"] | None = None,
        scales: Sequence[tuple[float, int]] = ((8 / 256, 8), (3 / 256, 2)),
        vq: bool = True,
        n_codes: int | None = None,
        loss: Literal["global", "local"] = "global",
        vq_weight: float = 1.0,
        strength_weight: float = 1.0,
        smooth_weight: float = 1.0,
        cycle_weight: float = 1.0,
        scale_channels: bool | None = None,
        student_width: int | None = None,
        student_depth: int | Sequence[int] | None = None,
        offset_width: int | None = None,
        offset_stem: int | None = None,
        n_iter: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float = 1e-2,
        alpha: float = 0.05,
        holdout: float | None = 3,
        aggregate: Aggregate = "max",
        top_fraction: float = 0.01,
        smoothing_sigma: float = 4.0,
        target_fpr: float = 0.05,
        max_time: float | None = None,
        warm_start: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.preset = preset
        self.variant = variant
        self.scales = scales
        self.vq = vq
        self.n_codes = n_codes
        self.loss = loss
        self.vq_weight = vq_weight
        self.strength_weight = strength_weight
        self.smooth_weight = smooth_weight
        self.cycle_weight = cycle_weight
        self.scale_channels = scale_channels
        self.student_width = student_width
        self.student_depth = student_depth
        self.offset_width = offset_width
        self.offset_stem = offset_stem
        self.n_iter = n_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.alpha = alpha
        self.holdout = holdout
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

    def _check_input(self, X):
        teacher = self.features
        if teacher is not None and not hasattr(teacher, "prepared"):
            raise TypeError(
                f"features={teacher!r} cannot teach: DMAD moves images, so it needs "
                "the network itself. Pass CNNFeatures(...), DinoFeatures(...) or None."
            )
        X = super()._check_input(X)
        if not isinstance(X, Images):
            raise ValueError(
                "DMAD deforms images, and X holds feature grids: pass images, behind "
                "aligners at most."
            )
        return X

    def _grid_shape(self):
        return self._shape

    def _score_grid(self, F):
        return self._parts(self._network(), *_tensors(F))

    def _aggregate(self, D):
        peaks = np.array([self._peaks(grid) for grid in D])
        return peaks[:, 0] + self.deformation_weight_ * peaks[:, 1]

    def _shown(self, D):
        return [grid[0] + np.float32(self.deformation_weight_) * grid[1] for grid in D]

    def _map(self, grid, frame, size):
        return warp_back(self._shown([grid])[0], frame, size)

    @isolated_torch_state()
    def score_parts(self, X: ImagesLike) -> np.ndarray:
        """Return what image scores are made of.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        parts : ndarray of shape (n, 2), float64
            Reconstruction error and size of deformation, higher = more anomalous:
            ``score_samples`` is their sum with its sign changed, the second one
            weighted by ``deformation_weight_``.
        """
        check_is_fitted(self)
        X = self._input_to_score(X)
        batches = self._score_grids(X)
        parts = np.array([self._peaks(grid) for D, _ in batches for grid in D])
        if np.isnan(parts).any():
            raise nothing_valid(X, int(np.flatnonzero(np.isnan(parts).any(1))[0]))
        self._warn_of_input(X)
        return parts

    @isolated_torch_state()
    def predict_deformation(self, X: ImagesLike) -> np.ndarray | Any:
        """Return where images, or with "pdm" what is rebuilt of them, are sampled.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        fields : ndarray of shape (n, k, H, W, 2), float32
            Offsets (x, y) in pixels of the images given, of each scale, coarse to fine.
            The pixel p of what comes out is that at p + offset: things move against
            their offsets. A list of arrays if the images differ in size.

        Raises
        ------
        ValueError
            As ``score_samples`` does, and with ``scales=()``.
        """
        check_is_fitted(self)
        X, network, out = self._input_to_score(X), self._network(), []
        if network.deformer is None:
            raise ValueError("There is no deformation with scales=().")
        for F, _ in self._batches(X, "deformation"):
            for i, grid in enumerate(F, start=len(out)):
                self._check_shape(grid.shape, self._grid_shape(), name_of(X, i))
                if not np.isfinite(grid).any():
                    raise nothing_valid(X, i)
            with torch.inference_mode():
                x = _tensors(F)[0].to(next(network.parameters()).device)
                fields = torch.stack(network.deformer(x)[0], dim=1).cpu().numpy()
            out += [
                field_in_pixels(f, X.size(len(out) + i)) for i, f in enumerate(fields)
            ]
        self._warn_of_input(X)
        return np.stack(out) if len({f.shape for f in out}) == 1 else out

    # -- private: images --------------------------------------------------------------

    def _read_batch(self, batch):
        """Return images as the network takes them, NaN = invalid, and frames."""
        return self.features_.prepared(batch)

    def _gather(self, X):
        """Return all training images, and what the teacher makes of them unmoved."""
        check_scales(self.scales)
        data = self._prepared(X)
        data.maps = self._known(data.x)
        whole = bool(data.valid.all())
        data.masks = None if whole else on_levels(data.valid, data.maps)
        self._spec = self._specification(data)
        return data

    def _prepared(self, X):
        """Return usable images, and the row of X that each is."""
        x, valid, image, row, self._shape = [], [], [], 0, None
        for F, _ in self._batches(X, "fit"):
            for grid in F:
                self._shape = self._shape or grid.shape
                self._check_shape(grid.shape, self._shape, name_of(X, row))
                if np.isfinite(grid).any():
                    part = _tensors(grid[None])
                    x.append(part[0]), valid.append(part[1]), image.append(row)
                row += 1
        image = self._numbered(X, image)
        return Bunch(x=torch.cat(x), valid=torch.cat(valid), image=image)

    @torch.inference_mode()
    def _known(self, x):
        """Return the teacher's levels of all images, as float16."""
        levels = [[t.half().cpu() for t in self._taught(part)] for part in x.split(8)]
        maps = [torch.cat(parts) for parts in zip(*levels)]
        if not all(torch.isfinite(level).all() for level in maps):
            raise ValueError(
                "The teacher's features exceed 65504 and cannot be kept as float16."
            )
        return maps

    def _taught(self, x):
        """Return the teacher's levels of images, as float32; gradients may pass."""
        maps = self.features_._maps(x)
        maps = pyramid([maps[i] for i in np.argsort(self.features_.layers_)])
        return [level.float().to(resolve_device(self.device)) for level in maps]

    # -- private: training ------------------------------------------------------------

    def _specification(self, data):
        """Return what the networks are built from."""
        places = data.maps[-1][:, 0].numel()
        if data.masks is not None:
            places = int(data.masks[-1].sum())
        codes = min(self._setting("n_codes"), max(1, places // 4)) if self.vq else 0
        if self._given is not None:
            codes = len(self._given.get("distiller.codebook.codes", ()))
        distiller = {
            "channels": [level.shape[1] for level in data.maps],
            "width": self._setting("student_width") or None,
            "depth": check_depth(self._setting("student_depth"), len(data.maps)),
            "codes": codes,
            "signed": any(bool((level < 0).any()) for level in data.maps),
        }
        deformer = {
            "scales": [(float(most), int(stride)) for most, stride in self.scales],
            "width": self._setting("offset_width"),
            "stem": self._setting("offset_stem"),
            "inverse": self._setting("variant") == "ppdm",
        }
        return {"distiller": distiller, "deformer": deformer}

    def _identity(self, data):
        digest = hashlib.sha1(data.x.numpy(), usedforsecurity=False)
        for level in data.maps:
            digest.update(level.numpy())
        weights = (self.vq_weight, self.strength_weight, self.smooth_weight)
        settings = (self._setting("variant"), self._setting("scale_channels"))
        others = (self.loss, self.cycle_weight, repr(self._spec))
        return (digest.hexdigest(), *weights, *settings, *others)

    def _new_network(self, data, rows):
        network = MovingStudent.of(**self._spec)
        distiller, maps = network.distiller, [level[rows] for level in data.maps]
        masks = data.masks and [mask[rows] for mask in data.masks]
        if self._setting("scale_channels"):
            distiller.learn_scales(maps, masks)
        if distiller.codebook is not None:
            places = distiller.places(maps[-1], masks and masks[-1])
            distiller.codebook.start_from(places)
        return network

    def _from_weights(self, weights):
        return MovingStudent.of(**self._spec)

    def _optimizer(self, network):
        how = {"betas": (0.5, 0.999), "weight_decay": self.weight_decay}
        return torch.optim.AdamW(network.parameters(), **how)

    def _rate(self, i):
        n_iter, peak = self._setting("n_iter"), self._setting("learning_rate")
        return warm_cosine(i, n_iter, warm_up=0, peak=peak, final=0)

    def _loss(self, network, data, rows):
        """Return the function of an iteration to its loss."""
        device = next(network.parameters()).device
        low = self._low(device)

        def loss(i):
            batch = self._batch(rows, i, least=2)  # BatchNorm wants two
            x = data.x[batch].to(device)
            valid = None if data.masks is None else data.valid[batch].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                losses = network.losses(
                    x,
                    self._taught,
                    valid=valid,
                    maps=lambda: [m[batch].to(device).float() for m in data.maps],
                    local=self.loss == "local",
                )
            network.history.append({k: float(v.detach()) for k, v in losses.items()})
            weights = {
                "reconstruction": 1,
                "strength": self.strength_weight,
                "roughness": self.smooth_weight,
                "cycle": self.cycle_weight,
                "codebook": self.vq_weight,
            }
            return sum(weights[name] * value for name, value in losses.items())

        return loss

    def _keep(self, run):
        super()._keep(run)
        history = run.network.history
        self.loss_parts_ = {
            name: [losses[name] for losses in history] for name in (history or [{}])[0]
        }

    def _conclude(self, network, data):
        """Learn what is usual, on images held out if there are any; count codes."""
        rows = range(len(data.image))
        parts = self._held or [(i, self._judge(network, data, i)) for i in rows]
        highest = np.array([self._peaks(grid) for _, grid in parts])
        spread = np.subtract(*np.nanquantile(highest, [0.95, 0.05], axis=0))
        # A few images may agree by chance: not below a twentieth of what is usual.
        floor = 0.05 * np.nanmedian(highest, axis=0)
        self.part_scales_ = np.maximum(spread, np.maximum(floor, 1e-12))
        ratio = self.part_scales_[0] / self.part_scales_[1]
        self.deformation_weight_ = float(self.alpha * ratio)
        codes = network.distiller.usage(data.maps[-1], data.masks and data.masks[-1])
        self.code_usage_ = codes.cpu().numpy()

    # -- private: scores --------------------------------------------------------------

    def _peaks(self, grid):
        """Return an image's reconstruction error and size of deformation."""
        return aggregate(grid, self.aggregate, self.top_fraction)

    def _judge(self, network, data, row):
        return self._parts(network, data.x[row : row + 1], data.valid[row : row + 1])[0]

    @torch.inference_mode()
    def _parts(self, network, x, valid):
        """Return error and deformation maps (n, 2, H, W), NaN where invalid."""
        device = next(network.parameters()).device
        x, inside = x.to(device), None if valid.all() else valid.to(device)
        parts = network.parts(x, self._taught, self._side_by_side, inside)
        parts = torch.cat(parts, dim=1).cpu().numpy()
        sigma = self.smoothing_sigma * x.shape[-2] / 256
        parts = zip(parts, valid.numpy())
        return np.stack([smooth_inside(part, v, sigma) for part, v in parts])

    def _side_by_side(self, levels, size):
        """Return levels (b, 1, h_l, w_l) at the size of the image, (b, l, h, w)."""
        shifts = np.array(getattr(self.features_, "shifts_", (0.0,) * len(levels)))
        order = np.argsort(self.features_.layers_)
        return on_grid(levels, size, shifts[order].tolist()).movedim(-1, 1)


def _tensors(F):
    """Return prepared images (n, 3, H, W), 0 where invalid, and what is valid."""
    x = as_tensor(np.ascontiguousarray(np.moveaxis(F, -1, 1), np.float32))
    valid = torch.isfinite(x).all(1)
    return torch.nan_to_num(x), valid
