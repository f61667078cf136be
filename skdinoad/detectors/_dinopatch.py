"""DinoPatch: the nearest nominal vector at the same place."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Literal

import numpy as np
from sklearn.base import clone

from skdinoad._arrays.maps import clean, smooth, unit
from skdinoad._arrays.projection import fit_projection, project
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state, resolve_device
from skdinoad._inputs.grids import empty_grids
from skdinoad._neighbors import (
    k_centre_images,
    k_centre_local,
    nearest,
    nearest_local,
    squared_norms,
)
from skdinoad._typing import (
    Aggregate,
    FeaturesLike,
    ImagesLike,
    LabelsLike,
    Self,
    TextureLike,
)
from skdinoad.detectors._layered import LayeredDetector
from skdinoad.features import DinoFeatures

__all__ = ["DinoPatch"]

#: Parameters that shape what the bank holds.
_FIXED = ("metric", "n_components", "pca", "bank_dtype")


class DinoPatch(LayeredDetector):
    r"""Compare every patch with the nominal patches at its own location.

    ``fit`` keeps, for each location of the patch grid, the feature vectors of all
    normal images: the memory bank. A patch's score is its distance to the nearest of
    them,

    .. math:: D_{yx} = \min_{k,\,|dy| \le r,\,|dx| \le r}
              d(F_{yx},\, B_{y+dy,\,x+dx,\,k})

    with *r* = ``neighborhood``. Each layer of the network has its own bank, and
    distances are divided by what is usual in that layer before they are averaged.
    A normal thing in a wrong place is thus found, which a
    bank without locations cannot see; in exchange the images must show the part in
    one pose: put a :class:`~skdinoad.PCAAligner` in front, or allow a larger *r*.

    Parameters
    ----------
    features : DinoFeatures, "passthrough" or None, default=None
        Extractor of the patch features. None means ``DinoFeatures()`` for images,
        and takes feature grids as they are. ``features__image_size`` and the like
        can be searched either way.
    texture : "auto", CNNFeatures or None, default="auto"
        Features of a CNN that are compared too, as one more layer that counts as much
        as all others together. "auto" is ``CNNFeatures(standardize="levels")`` beside
        the weights of ``skdinoad[offline]``, where it was measured to find more
        defects, and None beside all others. ``texture__...`` can be searched if an
        extractor is given.
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
    top_fraction : float, default=0.02
        Share of patches that "top" averages, at least one patch.
    map_layers : "auto" or sequence of int, default="auto"
        Layers whose distances heat maps show, of those that ``features`` takes; the
        image's score is the mean over all. "auto" follows what is known of the
        weights (``features_.map_layers_``).
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
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
    device : str, default="auto"
        Where distances are computed; "auto" takes a GPU if there is one.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that become 0 and 255, learned from training images of more than 8 bits;
        None = they have 8.
    hidden_pixels_ : bool
        Whether alpha hides pixels of training images.
    features_ : DinoFeatures or None
        The fitted extractor; it knows the digest of the weights.
    bank_ : ndarray of shape (l, h, w, m, c), float32 or float16
        The m nominal vectors of each location, for each of l layers.
    layer_scales_ : ndarray of shape (l,), float32
        Mean distance of held-out good images in each layer, by which it is divided; 1
        if there is one layer.
    bank_valid_ : ndarray of shape (h, w, m), bool
        False where an image's patch was invalid.
    bank_image_ : ndarray of shape (h, w, m), int
        The training image that each vector comes from; of exact copies, the first.
    holdout_scores_ : ndarray of shape (n,)
        ``score_samples`` of each training image by a bank without it; exact copies
        are left out together and count once. A reduced bank is not chosen anew for
        each.
    holdout_rows_ : ndarray of shape (n,), int
        Row of X in ``fit`` that each of these scores is of; rows of later calls of
        ``partial_fit`` and of further shards are counted on.
    suspects_ : list of Bunch
        Training images that look odd among the others, the most anomalous first:
        ``row`` and ``path`` (None for arrays) say which, ``ratio`` how many times the
        median anomaly score theirs is. They are part of the model, but not of the
        threshold's estimate.
    offset_ : float
        Threshold on ``score_samples``, see ``target_fpr``; NaN after a fit on one
        image.
    baseline_ : ndarray of shape (2, h, w), float32
        Mean held-out distance at each location, as the score sees it and as maps do.
    threshold_ : ndarray of shape (2,), or None
        Patch scores that ``threshold_quantile`` stands for, likewise.
    map_limits_ : (float, float)
        Display range for heat maps, from held-out normal maps.
    pixel_threshold_ : float
        Threshold on heat maps: good images exceed it anywhere as rarely as their
        scores fall below ``offset_``. NaN without held-out images.

    See Also
    --------
    PCAAligner : Brings parts into one pose.

    Notes
    -----
    A patch is not scored (NaN) where it is invalid, or where no normal image has a
    valid patch within reach. Post-processing happens on the patch grid, the map is
    its bilinear enlargement: what is shown is what is scored.

    The bank takes l * h * w * c * 4 bytes per image: 0.4 MB for each layer at 224
    pixels with ViT-S. What each way of making it smaller costs in accuracy stands in
    the benchmarks.

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
        **LayeredDetector._parameter_constraints,
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
        "smoothing_sigma": [Interval(Real, 0, 1000, closed="both")],
        "threshold_quantile": [None, Interval(Real, 0, 1, closed="both")],
        "opening": [Interval(Integral, 0, 999, closed="both")],
        "closing": [Interval(Integral, 0, 999, closed="both")],
    }

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        texture: TextureLike = "auto",
        metric: Literal["euclidean", "cosine"] = "euclidean",
        neighborhood: int = 1,
        global_weight: float = 0,
        baseline: Literal["subtract", "divide"] | None = None,
        smoothing_sigma: float = 0,
        threshold_quantile: float | None = None,
        opening: int = 0,
        closing: int = 0,
        aggregate: Aggregate = "top",
        top_fraction: float = 0.02,
        map_layers: Literal["auto"] | Sequence[int] = "auto",
        max_images: int | None = None,
        n_prototypes: int | None = None,
        n_components: int | None = None,
        pca: Literal["shared", "local"] = "shared",
        bank_dtype: Literal["float32", "float16"] = "float32",
        target_fpr: float = 0.05,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.texture = texture
        self.map_layers = map_layers
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
        self.target_fpr = target_fpr
        self.device = device
        self.verbose = verbose

    @isolated_torch_state()
    def partial_fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
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
            self._learn_more_seen(X)
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
        self._shape, self._bases = F.shape[1:], None
        if self.n_components is not None:
            self._bases = _bases(self._scaled(F), self.pca, self.n_components)
        h, w, n_layers, _ = self._shape
        self.bank_, self._held = None, np.empty((0, n_layers, h, w), np.float32)
        self._extend(F)

    def _score_grid(self, F):
        D = self._fused(self._nearest(self._prepared(F)))
        return self._finish(D, self.baseline_)

    def _holdout_grids(self):
        return self._holdout

    # -- private: merging -------------------------------------------------------------

    def _keeping_all(self):
        """Return an unfitted copy that keeps features as they are, and little else."""
        kept = {"metric": "euclidean", "bank_dtype": "float32", "neighborhood": 0}
        none = dict.fromkeys(("max_images", "n_prototypes", "n_components"))
        return clone(self).set_params(global_weight=0, **kept, **none)

    def _join(self, parts):
        """Learn from the features that whole banks hold."""
        for i, part in enumerate(parts):
            self._check_shape(part._shape, parts[0]._shape, f"detectors[{i}]")
            if part._bases is not None or part.bank_.shape[3] < len(part._held):
                raise ValueError(
                    f"detectors[{i}] keeps a reduced bank (max_images, n_prototypes, "
                    "n_components), from which features cannot be had: use fit_sharded."
                )
        grids = (part._stored(i) for part in parts for i in range(len(part._held)))
        F = empty_grids(len(self._first), parts[0]._shape)
        for row, grid in enumerate(grids):
            F[row] = grid[0]
        self._fit_grid(F)

    # -- private: the bank ------------------------------------------------------------

    def _in_dtype(self, bank):
        """Return a bank in its dtype, which must hold every number."""
        most = np.finfo(self.bank_dtype).max
        if self.bank_dtype != "float32" and (np.abs(bank) > most).any():
            raise ValueError(
                f"bank_dtype={self.bank_dtype!r} holds no features beyond {most:.0f}: "
                "pass bank_dtype='float32'."
            )
        return bank.astype(self.bank_dtype, copy=False)

    def _extend(self, F):
        """Add images (n, h, w, l, c) to the bank, score each by one without it."""
        known, P = len(self._held), self._prepared(F)
        bank, valid = _as_bank(P)
        image = np.broadcast_to(self._first[known:], valid.shape)
        parts = self._in_dtype(bank), valid, image
        if known:
            old = self.bank_, self.bank_valid_, self.bank_image_
            parts = [np.concatenate(p, axis=a) for *p, a in zip(old, parts, (3, 2, 2))]
        self.bank_, self.bank_valid_, self.bank_image_ = self._reduced(*parts)
        self._squares = squared_norms(self.bank_, self.bank_valid_)
        # The bank may be P itself, seen otherwise, whose invalid patches are 0 by now.
        seen = np.moveaxis(valid, 2, 0)[:, None]
        new = np.where(seen, self._hold_out(F, P, known), np.float32(np.nan))
        self._held = np.concatenate([self._held_again(known), new])
        self._learn_from_holdout()

    def _reduced(self, bank, valid, image):
        """Keep the images, then the vectors of each location, that are wanted.

        One choice serves all layers.
        """
        m = bank.shape[3]
        if self.max_images is not None and self.max_images < m:
            keep = k_centre_images(_side_by_side(bank), self.max_images)
            bank, valid, image = (
                bank[:, :, :, keep],
                valid[:, :, keep],
                image[:, :, keep],
            )
            m = self.max_images
        if self.n_prototypes is not None and self.n_prototypes < m:
            index = k_centre_local(_side_by_side(bank), valid, self.n_prototypes)
            bank = np.take_along_axis(bank, index[None, ..., None], 3)
            valid = np.take_along_axis(valid, index, 2)
            image = np.take_along_axis(image, index, 2)
        return [np.ascontiguousarray(part) for part in (bank, valid, image)]

    def _hold_out(self, F, P, known):
        """Return the distances of new images to a bank without them, (n, l, h, w)."""
        if len(self._distinct()) == 1:
            return np.full((len(P), *self._held.shape[1:]), np.nan, np.float32)
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
        """Return the features of training image i from the bank, (1, h, w, l, c)."""
        P = self.bank_[:, :, :, i].transpose(1, 2, 0, 3).astype(np.float32)
        P[~self.bank_valid_[:, :, i]] = np.nan
        return P[np.newaxis]

    def _refit_without(self, F, i):
        """Distances of image i when its like took no part in the local bases either."""
        copies = self._first == self._first[i]
        n = min(self.n_components, len(F) - copies.sum() - 1)
        if n < 1:
            return np.full((1, *self._held.shape[1:]), np.nan, np.float32)
        F = self._scaled(F)
        bases = _bases(F[~copies], "local", n)
        bank, valid = _as_bank(_projected(F[~copies], bases))
        query, squares = _projected(F[i : i + 1], bases), squared_norms(bank, valid)
        D = [
            nearest_local(np.ascontiguousarray(query[..., j, :]), bank[j], squares[j])
            for j in range(len(bank))
        ]
        return self._in_metric(np.stack(D, axis=1))

    def _learn_from_holdout(self):
        """Learn from the held-out distances what is usual where."""
        held = self._held[self._distinct()]
        self._learn_scales(
            held,
            lambda j: self.bank_[j, self.bank_valid_],
            len(self.bank_),
            squared=self.metric == "cosine",
        )
        D = self._fused(held)
        self.threshold_ = self._holdout = None
        self.baseline_, own = _leave_one_out_means(D)
        if not np.isfinite(D).any():
            return
        D = self._finish(D, own)
        if self.threshold_quantile is not None:
            q = self.threshold_quantile
            self.threshold_ = np.nanquantile(D, q, axis=(0, 2, 3))
            D = self._clean(D)
        self._holdout = D

    # -- private: distances -----------------------------------------------------------

    def _grid_shape(self):
        return self._shape

    def _has_local_basis(self):
        return self.n_components is not None and self.pca == "local"

    def _scaled(self, F):
        """Return unit vectors for the cosine metric."""
        return F if self.metric == "euclidean" else unit(F)

    def _prepared(self, F):
        F = self._scaled(F)
        return F if self._bases is None else _projected(F, self._bases)

    def _nearest(self, P, own=None):
        """Return the distances (n, l, h, w) to the bank, near and anywhere."""
        own = None if own is None else np.asarray(own)
        layers = np.moveaxis(np.asarray(P, np.float32), 3, 0)
        layers = [np.ascontiguousarray(layer) for layer in layers]
        return np.stack([self._of_layer(j, P, own) for j, P in enumerate(layers)], 1)

    def _of_layer(self, j, P, own):
        """Return the distances (n, h, w) of features (n, h, w, c) of one layer."""
        weight = self.global_weight
        D = self._global(j, P, own) if weight else 0
        if weight < 1:
            local = nearest_local(
                P,
                self.bank_[j],
                self._squares[j],
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

    def _global(self, j, P, own):
        """Return the distance of each patch to the nearest vector of all locations."""
        bank, image = self.bank_[j].reshape(-1, P.shape[-1]), self.bank_image_.ravel()
        D = np.full(P.shape[:3], np.nan, np.float32)
        for i, valid in enumerate(np.isfinite(P).all(-1)):
            squares = self._squares[j].ravel()
            if own is not None:
                squares = np.where(image == own[i], np.float32(np.inf), squares)
            device = resolve_device(self.device)
            squared, _ = nearest(P[i][valid], bank, squares, device=device)
            D[i][valid] = np.sqrt(squared[:, 0])
        D[np.isinf(D)] = np.nan
        return self._in_metric(D)

    def _finish(self, D, baseline):
        """Discount, smooth and clean distances (n, 2, h, w)."""
        if self.baseline == "subtract":
            D = np.maximum(D - baseline, 0)
        elif self.baseline == "divide":
            D = D / np.maximum(baseline, np.finfo(np.float32).eps)
        D = smooth(D.reshape(-1, *D.shape[2:]), self.smoothing_sigma).reshape(D.shape)
        return D if self.threshold_ is None else self._clean(D)

    def _clean(self, D):
        how = self.opening, self.closing
        parts = zip(D.swapaxes(0, 1), self.threshold_)
        return np.stack([clean(part, limit, *how) for part, limit in parts], axis=1)


def _as_bank(P):
    """Return features (n, h, w, l, c) as a bank (l, h, w, n, c), and what is valid.

    Invalid ones become 0, in the features too where they lie in memory as the bank.
    """
    bank = np.ascontiguousarray(P.transpose(3, 1, 2, 0, 4))
    valid = np.isfinite(bank).all((0, -1))
    bank[:, ~valid] = 0
    return bank, valid


def _side_by_side(bank):
    """Return a bank (l, h, w, m, c) as one layer of l * c channels."""
    return bank[0] if len(bank) == 1 else np.concatenate(list(bank), axis=-1)


def _bases(F, pca, n):
    """Return the principal directions of each layer of (n, h, w, l, c)."""
    return [fit_projection(F[..., j, :], pca, n) for j in range(F.shape[3])]


def _projected(F, bases):
    """Return coordinates (n, h, w, l, k) along the directions of each layer."""
    parts = [project(F[..., j, :], *basis) for j, basis in enumerate(bases)]
    return np.stack(parts, axis=3)


def _leave_one_out_means(D):
    """Return the mean of (n, ...) over images, and for each image over the others.

    NaN is left out; where nothing is left the mean is 0.
    """
    valid = np.isfinite(D)
    total, count = np.where(valid, D, 0).sum(axis=0), valid.sum(axis=0)
    others = (total - np.where(valid, D, 0)) / np.maximum(count - valid, 1)
    return (total / np.maximum(count, 1)).astype(np.float32), others.astype(np.float32)
