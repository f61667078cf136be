"""Reverse distillation: a student reconstructs the features of its teacher."""

from numbers import Integral, Real
from typing import Literal

from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._typing import Aggregate, ExtractorLike, RandomState
from skdinoad.detectors._teacher_student import PRESETS, StudentDetector
from skdinoad.training import Training

__all__ = ["ReverseDistillation"]


class ReverseDistillation(StudentDetector):
    r"""Reconstruct a teacher's features by a student; the error is the anomaly score.

    A student receives the feature levels of a frozen teacher through a bottleneck and
    reconstructs them, deepest first. Trained on good images alone, it minimises

    .. math:: \sum_l 1 - \cos(E_l(x), D_l).

    A patch's score is the sum over levels of :math:`1 - \cos` at its location.

    Parameters
    ----------
    features : CNNFeatures, DinoFeatures or None, default=None
        The teacher: its network, weights, layers and ``image_size``, which must be
        (height, width) where images differ in shape. None stands for the preset's. The
        layers of a ViT, all of one size, become a pyramid. Feature grids are not
        accepted.
    preset : {"fast", "vit", "paper"}, default="fast"
        What parameters are that are None. "fast": EfficientNet-Lite0, levels of
        strides 4, 8 and 16, 224 pixels, 300 iterations. "vit": DINOv2 ViT-S, blocks 2,
        5 and 8, 224 pixels. "paper", for a GPU: WideResNet50-2, 256 pixels, 10 450
        iterations, a student as wide as the teacher.
    loss : {"global", "local"}, default="global"
        Whether the cosine in the loss is that of a whole level, all its locations in
        one vector, as in the official code, or the mean over locations.
    student_width : int or None, default=None
        Most channels of the student at any level; 0 is the teacher's number.
    training : Training or None, default=None
        Iterations, batches, learning rate, time limit and precision of training; None
        means ``Training()``, the preset's values. ``training__n_iter`` and the like can
        be searched either way.
    holdout : int, float or None, default=3
        Where threshold and display limits come from. An int is a number of folds: as
        many further networks, each trained without one fold and asked about it. A
        float is a share of images that no network learns from. None: no threshold.
    aggregate : float, "max", "mean" or "p99", default="max"
        How the map becomes the image score. A share in (0, 1] takes the mean of this
        share of its pixels, the largest ones, at least one.
    score_smoothing : float, default=4 / 256
        Standard deviation of a Gaussian over the map, as a share of the image's height.
        Image scores and heat maps are made from the smoothed map.
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
    device : str, default="auto"
        Where the student runs; "auto" takes a GPU if there is one.
    random_state : int, RandomState instance or None, default=0
        Draws weights, batches and folds.
    verbose : bool, default=False
        Show progress bars, with the loss and the time left.

    Attributes
    ----------
    features_ : CNNFeatures or DinoFeatures
        The fitted teacher; it knows the digest of the weights.
    student_ : dict of str to ndarray
        Weights of all that is trained, and the channels' scales.
    n_iter_ : int
        Iterations done.
    loss_curve_ : list of float
        The loss in each.
    holdout_scores_, holdout_rows_, suspects_, offset_, pixel_threshold_, map_limits_
        As of :class:`~skdinoad.DMAD`.

    See Also
    --------
    DMAD : Adds a measurable deformation and prototypes.
    Dinomaly : The same idea with a transformer's decoder.

    Notes
    -----
    **Differences from the official code.** Bottleneck, student, loss and score are
    those of the official code of reverse distillation. Training follows the official
    code of DMAD, of which this method is the baseline: a cosine learning rate, and
    10,450 iterations of 8 images in place of 200 epochs of 16 images with a constant
    rate.

    Batches and folds are drawn by row: the order of training images is part of the
    seed. Invalid pixels have the mean colour and count neither in the loss nor in
    scores.

    References
    ----------
    Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding",
    CVPR 2022, arXiv 2201.10703; the student is that of DMAD, arXiv 2303.05047, official
    code github.com/FlappyPeggy/DMAD.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import CNNFeatures, ReverseDistillation, Training
    >>> cnn = CNNFeatures(
    ...     model="test_efficientnet",
    ...     weights="random:0",
    ...     image_size=64,
    ...     standardize=False,
    ... )
    >>> X = np.random.default_rng(0).integers(90, 110, (6, 64, 64, 3), dtype=np.uint8)
    >>> training = Training(n_iter=5)
    >>> detector = ReverseDistillation(features=cnn, training=training, holdout=None)
    >>> detector.fit(X).predict_map(X).shape
    (6, 64, 64)
    """

    _parameter_constraints = {
        **StudentDetector._parameter_constraints,
        "preset": [StrOptions(set(PRESETS))],
        "training": [Training, None],
        "loss": [StrOptions({"global", "local"})],
        "student_width": [None, Interval(Integral, 0, None, closed="left")],
        "score_smoothing": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        *,
        features: ExtractorLike | None = None,
        preset: Literal["fast", "vit", "paper"] = "fast",
        loss: Literal["global", "local"] = "global",
        student_width: int | None = None,
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
        self.loss = loss
        self.student_width = student_width
        self.training = training
        self.holdout = holdout
        self.aggregate = aggregate
        self.score_smoothing = score_smoothing
        self.target_fpr = target_fpr
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
