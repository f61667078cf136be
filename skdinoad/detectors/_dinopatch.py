"""DinoPatch: the nearest nominal vector at the same place."""

from numbers import Integral, Real

import numpy as np

from skdinoad._images import take
from skdinoad._labels import normal_rows
from skdinoad._maps import clean, smooth
from skdinoad._neighbors import nearest_local, squared_norms
from skdinoad._sklearn import Interval, StrOptions
from skdinoad.base import BaseDetector
from skdinoad.features import DinoFeatures

__all__ = ["DinoPatch"]


class DinoPatch(BaseDetector):
    r"""Compare every patch with the nominal patches at its own location.

    ``fit`` keeps, for each location of the patch grid, the feature vectors of all
    normal images: the memory bank. A patch's score is its distance to the nearest of
    them,

    .. math:: D_{yx} = \min_{k,\,|dy| \le r,\,|dx| \le r}
              d(F_{yx},\, B_{y+dy,\,x+dx,\,k})

    with *r* = ``neighborhood``. A normal thing in a wrong place is thus found, which a
    bank without locations cannot see; in exchange the images must show the part in
    one pose: put a :class:`~skdinoad.PCAAligner` in front, or allow a larger *r*.

    Parameters
    ----------
    features : DinoFeatures, "passthrough" or None, default=None
        Extractor of the patch features. None means ``DinoFeatures()`` for images,
        and takes feature grids as they are. ``features__image_size`` and the like
        can be searched either way.
    metric : {"euclidean", "cosine"}, default="euclidean"
        Distance d; cosine is 1 - cos. Scores of the two are not comparable.
    neighborhood : int, default=1
        Radius r in patches. 0 compares with the same location only; the grid's size
        or more compares with all locations.
    baseline : {None, "subtract", "divide"}, default=None
        Discount locations that vary among normal images, by the mean distance there
        between each normal image and the others.
    smoothing_sigma : float, default=0
        Standard deviation, in patches, of a Gaussian over the valid scores.
    threshold_quantile : float or None, default=None
        Scores below this quantile of the held-out normal scores are set to 0.
    opening, closing : int, default=0
        With a threshold: diameter in patches of the ellipse that removes specks
        from, and fills holes in, the area above it.
    aggregate : {"top", "max", "mean", "p99"}, default="top"
        How patch scores become the image score; "top" averages the largest.
    top_fraction : float, default=0.01
        Share of patches that "top" averages, at least one patch.
    contamination : "auto" or float, default="auto"
        Share of good images that may be flagged. "auto" puts the threshold at the
        least normal held-out training image.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    features_ : DinoFeatures or None
        The fitted extractor; it knows the digest of the weights.
    bank_ : ndarray of shape (h, w, m, c), float32
        The nominal vectors of each location, m images.
    bank_valid_ : ndarray of shape (h, w, m), bool
        False where an image's patch was invalid.
    holdout_scores_ : ndarray of shape (m,)
        ``score_samples`` of each training image by a bank without it.
    offset_ : float
        Threshold on ``score_samples``; NaN after a fit on one image.
    baseline_ : ndarray of shape (h, w), float32
        Mean held-out distance at each location.
    threshold_ : float or None
        Patch score that ``threshold_quantile`` stands for.
    map_limits_ : (float, float)
        Display range for heat maps, from held-out normal maps.

    See Also
    --------
    PCAAligner : Brings parts into one pose.

    Notes
    -----
    A patch is not scored (NaN) where it is invalid, or where no normal image has a
    valid patch within reach. Post-processing happens on the patch grid, the map is
    its bilinear enlargement: what is shown is what is scored.

    The bank takes h * w * c * 4 bytes per image: 1.6 MB at 448 pixels with ViT-S.

    References
    ----------
    The method: kroezem, "DinoPatch", github.com/kroezem/DinoPatch, whose README is
    its only description: per-location bank, Euclidean distance, max, mean or 99th
    percentile. Ancestor: Roth et al., "Towards Total Recall in Industrial Anomaly
    Detection", CVPR 2022, arXiv 2106.08265.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoPatch
    >>> F = np.zeros((3, 2, 2, 8), dtype=np.float32)   # features of 3 good images
    >>> F[:, 0, 0, 0] = [0.0, 0.1, 0.2]
    >>> detector = DinoPatch(neighborhood=0).fit(F)
    >>> defect = F[:1].copy()
    >>> defect[0, 1, 1, :2] = [3.0, 4.0]
    >>> detector.predict_map(defect)
    array([[[0., 0.],
            [0., 5.]]], dtype=float32)
    >>> detector.predict(defect)
    array([-1])
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "metric": [StrOptions({"euclidean", "cosine"})],
        "neighborhood": [Interval(Integral, 0, None, closed="left")],
        "baseline": [None, StrOptions({"subtract", "divide"})],
        "smoothing_sigma": [Interval(Real, 0, None, closed="left")],
        "threshold_quantile": [None, Interval(Real, 0, 1, closed="both")],
        "opening": [Interval(Integral, 0, None, closed="left")],
        "closing": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        features=None,
        metric="euclidean",
        neighborhood=1,
        baseline=None,
        smoothing_sigma=0,
        threshold_quantile=None,
        opening=0,
        closing=0,
        aggregate="top",
        top_fraction=0.01,
        contamination="auto",
        verbose=False,
    ):
        self.features = features
        self.metric = metric
        self.neighborhood = neighborhood
        self.baseline = baseline
        self.smoothing_sigma = smoothing_sigma
        self.threshold_quantile = threshold_quantile
        self.opening = opening
        self.closing = closing
        self.aggregate = aggregate
        self.top_fraction = top_fraction
        self.contamination = contamination
        self.verbose = verbose

    def partial_fit(self, X, y=None):
        """Add more good images to the bank.

        Scores and threshold then equal those of one fit on all images.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            As in ``fit``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            Rows labelled anomalous are left out.

        Returns
        -------
        self
        """
        if not hasattr(self, "bank_"):
            return self.fit(X, y)
        self._validate_params()
        if self.metric != self._metric:
            raise ValueError(
                f"metric={self.metric!r}, but the bank was fitted with "
                f"{self._metric!r}: fit again."
            )
        X = self._check_input(X)
        F = self._collect(take(X, normal_rows(y, len(X))))
        self._check_shape(F.shape[1:], self._grid_shape(), "X")
        bank, valid = self._prepare(F)
        self._learn(
            np.concatenate([self.bank_, bank], axis=2),
            np.concatenate([self.bank_valid_, valid], axis=2),
        )
        self._set_offset()
        return self

    # -- the three parts of a detector ------------------------------------------------

    def _default_features(self):
        return DinoFeatures()

    def _fit_grid(self, F):
        self._learn(*self._prepare(F))

    def _score_grid(self, F):
        return self._finish(self._nearest(self._scaled(F)), self.baseline_)

    def _holdout_grids(self):
        return self._holdout

    # -- private ----------------------------------------------------------------------

    def _prepare(self, F):
        """Return features (n, h, w, c) as a bank (h, w, n, c) and its valid entries."""
        bank = np.ascontiguousarray(self._scaled(F).transpose(1, 2, 0, 3))
        valid = np.isfinite(bank).all(-1)
        bank[~valid] = 0
        return bank, valid

    def _learn(self, bank, valid):
        self.bank_, self.bank_valid_, self._metric = bank, valid, self.metric
        self._squares = squared_norms(bank, valid)
        self.threshold_, self._holdout = None, None
        self.baseline_ = np.zeros(bank.shape[:2], np.float32)
        if bank.shape[2] > 1:
            self._learn_from_holdout()

    def _learn_from_holdout(self):
        """Score each training image by a bank without it; learn what is usual."""
        images = np.arange(self.bank_.shape[2])
        # A few at a time: all at once would be a second bank in memory.
        chunks = np.array_split(images, np.ceil(len(images) / 32))
        D = np.concatenate([self._nearest(self._stored(i), own=i) for i in chunks])
        self.baseline_, own = _leave_one_out_means(D)
        D = self._finish(D, own)
        if self.threshold_quantile is not None:
            self.threshold_ = float(np.nanquantile(D, self.threshold_quantile))
            D = self._clean(D)
        self._holdout = D

    def _stored(self, images):
        """Return features of training images from the bank, (n, h, w, c)."""
        F = np.ascontiguousarray(self.bank_[:, :, images].transpose(2, 0, 1, 3))
        F[~self.bank_valid_[:, :, images].transpose(2, 0, 1)] = np.nan
        return F

    def _grid_shape(self):
        return (*self.bank_.shape[:2], self.bank_.shape[3])

    def _scaled(self, F):
        """Unit vectors for the cosine metric: then 1 - cos is half the squared norm."""
        if self.metric == "euclidean":
            return F
        length = np.linalg.norm(F, axis=-1, keepdims=True)
        return F / np.maximum(length, np.finfo(np.float32).tiny)

    def _nearest(self, F, own=None):
        D = nearest_local(
            np.ascontiguousarray(F),
            self.bank_,
            self._squares,
            radius=self.neighborhood,
            own=own,
        )
        return D if self.metric == "euclidean" else D**2 / 2

    def _finish(self, D, baseline):
        """Discount, smooth and clean the raw distances."""
        if self.baseline == "subtract":
            D = np.maximum(D - baseline, 0)
        elif self.baseline == "divide":
            D = D / np.maximum(baseline, np.finfo(np.float32).eps)
        D = smooth(D, self.smoothing_sigma)
        return D if self.threshold_ is None else self._clean(D)

    def _clean(self, D):
        return clean(D, self.threshold_, self.opening, self.closing)


def _leave_one_out_means(D):
    """Return the mean of (n, h, w) over images, and for each image over the others.

    NaN is left out; where nothing is left the mean is 0.
    """
    valid = np.isfinite(D)
    total, count = np.where(valid, D, 0).sum(axis=0), valid.sum(axis=0)
    others = (total - np.where(valid, D, 0)) / np.maximum(count - valid, 1)
    return (total / np.maximum(count, 1)).astype(np.float32), others.astype(np.float32)
