"""DinoPatch: the nearest nominal vector at the same place."""

from numbers import Integral, Real

import numpy as np

from skdinoad._arrays.maps import clean, smooth, unit
from skdinoad._arrays.projection import fit_projection, project
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import resolve_device, undisturbed
from skdinoad._neighbors import (
    k_centre_images,
    k_centre_local,
    nearest,
    nearest_local,
    squared_norms,
)
from skdinoad.base import BaseDetector
from skdinoad.features import DinoFeatures

__all__ = ["DinoPatch"]

#: Parameters that shape what the bank holds.
_FIXED = ("metric", "n_components", "pca", "bank_dtype")


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
    global_weight : float, default=0
        Weight *w* of the distance to the nearest vector of all locations: D becomes
        (1 - w) times the local distance plus w times the global one.
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
    max_images : int or None, default=None
        Most images that the bank keeps: those that greedy k-centre chooses.
    n_prototypes : int or None, default=None
        Most vectors that the bank keeps at each location, by greedy k-centre there; 2
        at least, or nothing would be left for a training image held out.
    n_components : int or None, default=None
        Principal components to which features are reduced; one more number keeps how
        far a vector lies beside them.
    pca : {"shared", "local"}, default="shared"
        One basis for all locations, or one for each; "local" allows
        ``neighborhood=0`` only.
    bank_dtype : {"float32", "float16"}, default="float32"
        Storage of the bank; distances are computed in float32 from it.
    contamination : "auto" or float, default="auto"
        Share of good images that may be flagged. "auto" puts the threshold at the
        least normal held-out training image.
    device : str, default="auto"
        Where distances are computed; "auto" takes a GPU if there is one.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    features_ : DinoFeatures or None
        The fitted extractor; it knows the digest of the weights.
    bank_ : ndarray of shape (h, w, m, c), float32 or float16
        The m nominal vectors of each location.
    bank_valid_ : ndarray of shape (h, w, m), bool
        False where an image's patch was invalid.
    bank_image_ : ndarray of shape (h, w, m), int
        The training image that each vector comes from; of exact copies, the first.
    holdout_scores_ : ndarray of shape (n,)
        ``score_samples`` of each training image by a bank without it; exact copies
        are left out together and count once. A reduced bank is not chosen anew for
        each.
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

    The bank takes h * w * c * 4 bytes per image: 1.6 MB at 448 pixels with ViT-S. What
    each way of making it smaller costs in accuracy stands in the benchmarks.

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
        "global_weight": [Interval(Real, 0, 1, closed="both")],
        "max_images": [None, Interval(Integral, 1, None, closed="left")],
        "n_prototypes": [None, Interval(Integral, 2, None, closed="left")],
        "n_components": [None, Interval(Integral, 1, None, closed="left")],
        "pca": [StrOptions({"shared", "local"})],
        "bank_dtype": [StrOptions({"float32", "float16"})],
        "device": [str],
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
        global_weight=0,
        baseline=None,
        smoothing_sigma=0,
        threshold_quantile=None,
        opening=0,
        closing=0,
        aggregate="top",
        top_fraction=0.01,
        max_images=None,
        n_prototypes=None,
        n_components=None,
        pca="shared",
        bank_dtype="float32",
        contamination="auto",
        device="auto",
        verbose=False,
    ):
        self.features = features
        self.metric = metric
        self.neighborhood = neighborhood
        self.global_weight = global_weight
        self.baseline = baseline
        self.smoothing_sigma = smoothing_sigma
        self.threshold_quantile = threshold_quantile
        self.opening = opening
        self.closing = closing
        self.aggregate = aggregate
        self.top_fraction = top_fraction
        self.max_images = max_images
        self.n_prototypes = n_prototypes
        self.n_components = n_components
        self.pca = pca
        self.bank_dtype = bank_dtype
        self.contamination = contamination
        self.device = device
        self.verbose = verbose

    @undisturbed()
    def partial_fit(self, X, y=None):
        """Add more good images to the bank.

        Scores and threshold then equal those of one fit on all images. If the bank is
        reduced it is reduced again: the basis and the held-out distances of the
        earlier images stay as they were.

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
        with self._adding():
            X = self._normals_to_add(X, y)
            if self._has_local_basis():
                raise ValueError("pca='local' cannot learn more images: fit again.")
            F = self._collect(X)
            self._check_shape(F.shape[1:], self._grid_shape(), "X")
            self._extend(F)
            self._set_offset()
        return self

    # -- the three parts of a detector ------------------------------------------------

    def _default_features(self):
        return DinoFeatures()

    def _fit_grid(self, F):
        if self._has_local_basis() and (self.neighborhood or self.global_weight):
            raise ValueError(
                "pca='local' gives each location coordinates of its own: "
                f"neighborhood={self.neighborhood} and global_weight="
                f"{self.global_weight} must both be 0."
            )
        self._fitted = {name: getattr(self, name) for name in _FIXED}
        self._channels, self._basis = F.shape[-1], None
        if self.n_components is not None:
            self._basis = fit_projection(self._scaled(F), self.pca, self.n_components)
        self.bank_, self._held = None, np.empty((0, *F.shape[1:3]), np.float32)
        self._extend(F)

    def _score_grid(self, F):
        return self._finish(self._nearest(self._prepared(F)), self.baseline_)

    def _holdout_grids(self):
        return self._holdout

    # -- private: the bank ------------------------------------------------------------

    def _extend(self, F):
        """Add images (n, h, w, c) to the bank, and score each by a bank without it."""
        known, P = len(self._held), self._prepared(F)
        bank, valid = _as_bank(P)
        image = np.broadcast_to(self._first[known:], valid.shape)
        parts = bank.astype(self.bank_dtype, copy=False), valid, image
        if known:
            old = self.bank_, self.bank_valid_, self.bank_image_
            parts = [np.concatenate(pair, axis=2) for pair in zip(old, parts)]
        self.bank_, self.bank_valid_, self.bank_image_ = self._reduced(*parts)
        self._squares = squared_norms(self.bank_, self.bank_valid_)
        # The bank may be P itself, seen otherwise, whose invalid patches are 0 by now.
        new = np.where(np.moveaxis(valid, 2, 0), self._hold_out(F, P, known), np.nan)
        self._held = np.concatenate([self._held_again(known), new])
        self._learn_from_holdout()

    def _reduced(self, bank, valid, image):
        """Keep the images, then the vectors of each location, that are wanted."""
        m = bank.shape[2]
        if self.max_images is not None and self.max_images < m:
            keep = k_centre_images(bank, self.max_images)
            bank, valid, image = (part[:, :, keep] for part in (bank, valid, image))
            m = self.max_images
        if self.n_prototypes is not None and self.n_prototypes < m:
            index = k_centre_local(bank, valid, self.n_prototypes)
            bank = np.take_along_axis(bank, index[..., None], 2)
            valid = np.take_along_axis(valid, index, 2)
            image = np.take_along_axis(image, index, 2)
        return [np.ascontiguousarray(part) for part in (bank, valid, image)]

    def _hold_out(self, F, P, known):
        """Return the distances of new images to a bank without them, (n, h, w)."""
        if len(self._distinct()) == 1:
            return np.full(P.shape[:3], np.nan, np.float32)
        if self._has_local_basis():
            return np.concatenate([self._refit_without(F, i) for i in range(len(F))])
        # A few at a time: all at once would be a second bank in memory.
        chunks = np.array_split(np.arange(len(P)), np.ceil(len(P) / 32))
        return np.concatenate(
            [self._nearest(P[i], own=self._first[known + i]) for i in chunks]
        )

    def _held_again(self, known):
        """Return the same for the images known before, now that others came."""
        reduced = self.max_images is not None or self.n_prototypes is not None
        if reduced or not known:
            return self._held
        grids = (self._stored(i) for i in range(known))
        return np.concatenate(
            [self._nearest(P, own=self._first[[i]]) for i, P in enumerate(grids)]
        )

    def _stored(self, i):
        """Return the features of training image i from the bank, (1, h, w, c)."""
        P = self.bank_[:, :, i].astype(np.float32)
        P[~self.bank_valid_[:, :, i]] = np.nan
        return P[np.newaxis]

    def _refit_without(self, F, i):
        """Distances of image i when its like took no part in the local bases either."""
        copies = self._first == self._first[i]
        n = min(self.n_components, len(F) - copies.sum() - 1)
        if n < 1:
            return np.full((1, *F.shape[1:3]), np.nan, np.float32)
        F = self._scaled(F)
        others = F[~copies]
        basis = fit_projection(others, "local", n)
        bank, valid = _as_bank(project(others, *basis))
        query, squares = project(F[i : i + 1], *basis), squared_norms(bank, valid)
        return self._in_metric(nearest_local(query, bank, squares))

    def _learn_from_holdout(self):
        """Learn from the held-out distances what is usual where."""
        D = self._held[self._distinct()]
        self.threshold_ = self._holdout = None
        self.baseline_, own = _leave_one_out_means(D)
        if not np.isfinite(D).any():
            return
        D = self._finish(D, own)
        if self.threshold_quantile is not None:
            self.threshold_ = float(np.nanquantile(D, self.threshold_quantile))
            D = self._clean(D)
        self._holdout = D

    # -- private: distances -----------------------------------------------------------

    def _grid_shape(self):
        return (*self.bank_.shape[:2], self._channels)

    def _has_local_basis(self):
        return self.n_components is not None and self.pca == "local"

    def _scaled(self, F):
        """Return unit vectors for the cosine metric."""
        return F if self.metric == "euclidean" else unit(F)

    def _prepared(self, F):
        F = self._scaled(F)
        return F if self._basis is None else project(F, *self._basis)

    def _nearest(self, P, own=None):
        """Return each patch's distance to the bank, near its place and anywhere."""
        own = None if own is None else np.asarray(own)
        weight = self.global_weight
        D = self._global(P, own) if weight else 0
        if weight < 1:
            local = nearest_local(
                np.ascontiguousarray(P, np.float32),
                self.bank_,
                self._squares,
                radius=self.neighborhood,
                own=own,
                owner=self.bank_image_,
                device=resolve_device(self.device),
            )
            D = (1 - weight) * self._in_metric(local) + weight * D
        return D

    def _in_metric(self, D):
        """Between unit vectors 1 - cos is half the squared distance."""
        return D if self.metric == "euclidean" else D**2 / 2

    def _global(self, P, own):
        """Return the distance of each patch to the nearest vector of all locations."""
        bank, image = self.bank_.reshape(-1, P.shape[-1]), self.bank_image_.ravel()
        D = np.full(P.shape[:3], np.nan, np.float32)
        for i, valid in enumerate(np.isfinite(P).all(-1)):
            squares = self._squares.ravel()
            if own is not None:
                squares = np.where(image == own[i], np.float32(np.inf), squares)
            device = resolve_device(self.device)
            squared, _ = nearest(P[i][valid], bank, squares, device=device)
            D[i][valid] = np.sqrt(squared[:, 0])
        D[np.isinf(D)] = np.nan
        return self._in_metric(D)

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


def _as_bank(P):
    """Return features (n, h, w, c) as a bank (h, w, n, c) and its valid entries.

    Invalid ones become 0, in the features too where they lie in memory as the bank.
    """
    bank = np.ascontiguousarray(P.transpose(1, 2, 0, 3))
    valid = np.isfinite(bank).all(-1)
    bank[~valid] = 0
    return bank, valid


def _leave_one_out_means(D):
    """Return the mean of (n, h, w) over images, and for each image over the others.

    NaN is left out; where nothing is left the mean is 0.
    """
    valid = np.isfinite(D)
    total, count = np.where(valid, D, 0).sum(axis=0), valid.sum(axis=0)
    others = (total - np.where(valid, D, 0)) / np.maximum(count - valid, 1)
    return (total / np.maximum(count, 1)).astype(np.float32), others.astype(np.float32)
