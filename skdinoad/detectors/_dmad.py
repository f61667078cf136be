"""DMAD: reconstruction through prototypes and a measurable deformation."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.geometry import field_in_pixels
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.grids import name_of, nothing_valid
from skdinoad._typing import Aggregate, ExtractorLike, ImagesLike, RandomState
from skdinoad.detectors._teacher_student import PRESETS, StudentDetector, as_tensors
from skdinoad.training import Training

__all__ = ["DMAD"]


class DMAD(StudentDetector):
    r"""Deform an image towards prototypes and reconstruct its features.

    Good parts vary, for example by a small shift or stretch. A small network predicts
    coarse and fine offset fields from the image and moves its pixels; a student
    reconstructs the feature levels of a frozen teacher from a bottleneck, in which the
    deepest level is replaced by its nearest prototypes. Trained on good images only,
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
        smaller side, and the pixels per offset. () = no deformation.
    n_codes : int or None, default=None
        Number of prototypes, at most a quarter of the training images' patches; 0 =
        none.
    loss : {"global", "local"}, default="global"
        Whether the cosine in the loss is that of a whole level, all its places in one
        vector, as in the official code, or the mean over places, as in the paper.
    student_width : int or None, default=None
        Most channels of the student at any level; 0 is the teacher's number.
    alpha : float, default=0.05
        Weight of the deformation in scores and maps, once both terms have the same
        spread over good images. It is a weak term; 0 leaves the reconstruction alone.
        A search trains anew for each: compare values by ``score_parts`` instead.
    training : Training or None, default=None
        Iterations, batches, learning rate, time limit and precision of training; None
        means ``Training()``, the preset's values. ``training__n_iter`` and the like can
        be searched either way.
    holdout : int, float or None, default=3
        Where threshold and display limits come from. An int is a number of folds: as
        many further networks, each trained without one fold and asked about it. A
        float is a share of images that no network learns from. None: no threshold.
    aggregate : float, "max", "mean" or "p99", default="max"
        How patch scores become the image score. A share in (0, 1] takes the mean of
        this share of them, the largest ones, at least one.
    score_smoothing : float, default=4 / 256
        Standard deviation of a Gaussian over both maps, as a share of the image's
        height. Image scores and heat maps are made from the smoothed maps.
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
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
    ReverseDistillation : The same without deformation and prototypes; try it first.
    DFR : Trains in seconds, and sees single places.
    Dinomaly : The same idea with a transformer's decoder.

    Notes
    -----
    **Differences from the official code** of ``preset="paper"``. The network, the
    losses and checkpoints are the same.

    - Both terms of the score are scaled by held-out good images, and ``alpha`` is one
      number. The official code scales them by the test set and chooses ``alpha`` for
      each category, so it cannot score a single image.
    - One model gives image and pixel scores; officially there are two, with and without
      prototypes.
    - The learning rate falls along a cosine with each iteration, officially with each
      epoch.
    - 10,450 iterations: 400 epochs of a category of 209 images in batches of 8. The
      official code rounds an epoch up to 27 whole batches, which gives 10,800.
    - Prototypes start from features of good images, and unused ones are moved.
    - The roughness of a field is the mean over x and y, half of the official sum, and
      the border is repeated.
    - Maps of several levels are enlarged with half-pixel centres.

    Invalid pixels have the mean colour. No prototype learns from them, and they count
    neither in scores nor in the loss, except for the length and roughness of fields.

    Batches, folds and first prototypes are drawn by row, as in the official code: the
    order of training images is part of the seed. Sort paths, and keep the number of
    threads, if a second fit must give equal scores.

    References
    ----------
    Liu, Chang, Zhang, Shan, Chen, "Diversity-Measurable Anomaly Detection", CVPR 2023,
    arXiv 2303.05047; official code github.com/FlappyPeggy/DMAD. Bottleneck and student:
    Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding",
    CVPR 2022, arXiv 2201.10703.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DMAD, CNNFeatures, Training
    >>> cnn = CNNFeatures(
    ...     model="test_efficientnet",
    ...     weights="random:0",
    ...     image_size=64,
    ...     standardize=False,
    ... )
    >>> X = np.random.default_rng(0).integers(90, 110, (6, 64, 64, 3), dtype=np.uint8)
    >>> detector = DMAD(features=cnn, training=Training(n_iter=5), holdout=None).fit(X)
    >>> detector.predict_map(X).shape, detector.predict_deformation(X).shape
    ((6, 64, 64), (6, 2, 64, 64, 2))
    """

    _parameter_constraints = {
        **StudentDetector._parameter_constraints,
        "preset": [StrOptions(set(PRESETS))],
        "training": [Training, None],
        "variant": [None, StrOptions({"ppdm", "pdm"})],
        "scales": ["array-like"],
        "n_codes": [None, Interval(Integral, 0, None, closed="left")],
        "loss": [StrOptions({"global", "local"})],
        "student_width": [None, Interval(Integral, 0, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "score_smoothing": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        *,
        features: ExtractorLike | None = None,
        preset: Literal["fast", "vit", "paper"] = "fast",
        variant: Literal["ppdm", "pdm"] | None = None,
        scales: Sequence[tuple[float, int]] = ((8 / 256, 8), (3 / 256, 2)),
        n_codes: int | None = None,
        loss: Literal["global", "local"] = "global",
        student_width: int | None = None,
        alpha: float = 0.05,
        training: Training | None = None,
        holdout: float | None = 3,
        aggregate: Aggregate = "max",
        score_smoothing: float = 4 / 256,
        target_fpr: float = 0.05,
        device: str = "auto",
        random_state: RandomState = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.preset = preset
        self.variant = variant
        self.scales = scales
        self.n_codes = n_codes
        self.loss = loss
        self.student_width = student_width
        self.alpha = alpha
        self.training = training
        self.holdout = holdout
        self.aggregate = aggregate
        self.score_smoothing = score_smoothing
        self.target_fpr = target_fpr
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- the parts of a detector ------------------------------------------------------

    def _aggregate(self, D):
        peaks = np.array([self._peaks(grid) for grid in D])
        return peaks[:, 0] + self.deformation_weight_ * peaks[:, 1]

    def _shown(self, D):
        return [grid[0] + np.float32(self.deformation_weight_) * grid[1] for grid in D]

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
        batches = self._iter_score_grids(X)
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
                self._check_shape(grid.shape, self.grid_shape_, name_of(X, i))
                if not np.isfinite(grid).any():
                    raise nothing_valid(X, i)
            with torch.inference_mode():
                x = as_tensors(F)[0].to(next(network.parameters()).device)
                fields = torch.stack(network.deformer(x)[0], dim=1).cpu().numpy()
            out += [
                field_in_pixels(f, X.size(len(out) + i)) for i, f in enumerate(fields)
            ]
        self._warn_of_input(X)
        return np.stack(out) if len({f.shape for f in out}) == 1 else out

    # -- private ----------------------------------------------------------------------

    def _conclude(self, network, data):
        """Learn the spread of both terms, on held-out images if any; count codes."""
        rows = range(len(data.image))
        parts = self._held or [(i, self._score_row(network, data, i)) for i in rows]
        highest = np.array([self._peaks(grid) for _, grid in parts])
        spread = np.subtract(*np.nanquantile(highest, [0.95, 0.05], axis=0))
        # A few images may agree by chance: not below a twentieth of the median.
        floor = 0.05 * np.nanmedian(highest, axis=0)
        self.part_scales_ = np.maximum(spread, np.maximum(floor, 1e-12))
        ratio = self.part_scales_[0] / self.part_scales_[1]
        self.deformation_weight_ = float(self.alpha * ratio)
        codes = network.distiller.usage(data.maps[-1], data.masks and data.masks[-1])
        self.code_usage_ = codes.cpu().numpy()
