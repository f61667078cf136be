"""DinoPatch: the nearest nominal vector at the same place."""

from collections.abc import Sequence
from numbers import Real
from typing import Literal

import numpy as np
from sklearn.base import clone

from skdinoad._arrays.maps import clean, smooth, unit
from skdinoad._arrays.projection import fit_projection, project
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state, resolve_device
from skdinoad._inputs.grids import empty_grids
from skdinoad._neighbors import LocatedVectors
from skdinoad._typing import (
    Aggregate,
    ExtractorLike,
    FeaturesLike,
    ImagesLike,
    LabelsLike,
    Self,
    TextureLike,
)
from skdinoad.banks import LocalBank
from skdinoad.base import BaseDetector
from skdinoad.detectors._cleaning import ScoreCleaning
from skdinoad.detectors._fusion import LayerFusion
from skdinoad.features import DinoFeatures
from skdinoad.features._textured import with_texture

__all__ = ["DinoPatch"]

#: Parameters that shape what the bank holds.
_FIXED = ("bank__metric", "bank__n_components", "bank__pca", "bank__dtype")


class DinoPatch(BaseDetector):
    r"""Compare every patch with the nominal patches at its own location.

    ``fit`` keeps, for each location of the patch grid, the feature vectors of all
    normal images: the memory bank. A patch's score is its distance to the nearest of
    them,

    .. math:: D_{yx} = \min_{k,\,|dy| \le r,\,|dx| \le r}
              d(F_{yx},\, B_{y+dy,\,x+dx,\,k})

    with *r* the bank's ``neighborhood``. Each layer of the network has its own bank;
    distances are divided by the mean held-out distance of the layer before they are
    averaged. A normal detail in a wrong place is found, which a bank without locations
    cannot see; in exchange the images must show the part in
    one pose: put a :class:`~skdinoad.PCAAligner` in front, or allow
    a larger *r*.

    Parameters
    ----------
    features : DinoFeatures, "passthrough" or None, default=None
        Extractor of the patch features. None means ``DinoFeatures()`` for images,
        and takes feature grids as they are. ``features__image_size`` and the like
        can be searched either way.
    texture : "auto", CNNFeatures or None, default="auto"
        Features of a CNN as an additional layer, with the same weight as all other
        layers together. "auto" is ``CNNFeatures(standardize="levels")`` for the weights
        of ``skdinoad[offline]``, where it detects more defects, and None for all other
        weights. ``texture__...`` can be searched if an
        extractor is given.
    bank : LocalBank or None, default=None
        Reach, distance, size and storage of the memory banks; None means
        ``LocalBank()``. ``bank__neighborhood`` and the like can be searched either way.
    baseline : {None, "subtract", "divide"}, default=None
        Discount locations that vary among normal images, by the mean distance there
        between each normal image and the others.
    score_smoothing : float, default=0
        Standard deviation of a Gaussian over the patch scores, as a share of the
        grid's height: image score and heat map are made from the smoothed ones.
    cleaning : ScoreCleaning or None, default=None
        Sets low patch scores, and small specks of high ones, to 0; None = nothing.
    aggregate : float, "max", "mean" or "p99", default=0.02
        How patch scores become the image score. A share in (0, 1] takes the mean of
        this share of them, the largest ones, at least one.
    map_layers : "auto" or sequence of int, default="auto"
        Layers whose distances heat maps show, of those that ``features`` takes; the
        image's score is the mean over all. "auto" follows what is known of the
        weights (``features_.map_layers_``).
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
    bank_ : LocatedVectors
        ``bank_.vectors`` (l, h, w, m, c) are the m nominal vectors of each location,
        for each of l layers; ``bank_.valid`` (h, w, m) is False where an image's patch
        was invalid; ``bank_.image`` (h, w, m) is the training image that each vector
        comes from, of exact copies the first.
    layer_scales_ : ndarray of shape (l,), float32
        Mean distance of held-out good images in each layer, by which it is divided; 1
        if there is one layer.
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
        Patch scores that the quantile of ``cleaning`` stands for, likewise.
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
    A patch has no score (NaN) where it is invalid, or where no normal image has a valid
    patch within reach. Post-processing takes place on the patch grid, and the heat map
    is its bilinear enlargement.

    **Differences from the official description.** The README of DinoPatch is the only
    description of the method. It compares patches at the same location only, of one
    layer, and takes the maximum, the mean or the 99th percentile of the patches. Here:

    - Patches up to 1 away are compared, too; ``LocalBank(neighborhood=0)`` is the
      README's rule.
    - The distances of several layers, and of a CNN's texture, are averaged;
      ``DinoFeatures(layers=-1)`` with ``texture=None`` gives one layer.
    - The image score is the mean of the largest 2 % of the patches;
      ``aggregate="max"``, ``"mean"`` and ``"p99"`` are the README's.
    - :class:`~skdinoad.PCAAligner` detects edges in colour; the README converts images
      to grey first.

    ``LocalBank(nearest_images=k, neighborhood=r, metric="cosine")`` with
    ``texture=None``, ``aggregate=0.01`` and the blocks 3, 6, 9 and 11 of DINOv3 ViT-B
    is RAD [1]_, with two differences: the most similar images are found by their mean
    patch here and by the class token there, and layers are divided by their held-out
    distance before they are averaged.

    References
    ----------
    The method: kroezem, "DinoPatch", github.com/kroezem/DinoPatch. Its ancestor: Roth
    et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv
    2106.08265.

    .. [1] Zhang, Li, Henderson, Aragon-Camarasa, Long, "Is Training Necessary for
       Anomaly Detection?", 2026, arXiv 2601.22763.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoPatch, LocalBank
    >>> F = np.zeros((3, 2, 2, 8), dtype=np.float32)   # features of 3 good images
    >>> F[:, 0, 0, 0] = [0.0, 0.1, 0.2]
    >>> detector = DinoPatch(bank=LocalBank(neighborhood=0)).fit(F)
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
        "texture": "no_validation",
        "map_layers": [StrOptions({"auto"}), "array-like"],
        "bank": [LocalBank, None],
        "baseline": [None, StrOptions({"subtract", "divide"})],
        "score_smoothing": [Interval(Real, 0, 1, closed="both")],
        "cleaning": [ScoreCleaning, None],
        "device": [str],
    }

    _default_parts = {"bank": LocalBank}
    _layers_apart = True

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        texture: TextureLike = "auto",
        bank: LocalBank | None = None,
        baseline: Literal["subtract", "divide"] | None = None,
        score_smoothing: float = 0,
        cleaning: ScoreCleaning | None = None,
        aggregate: Aggregate = 0.02,
        map_layers: Literal["auto"] | Sequence[int] = "auto",
        target_fpr: float = 0.05,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.texture = texture
        self.bank = bank
        self.baseline = baseline
        self.score_smoothing = score_smoothing
        self.cleaning = cleaning
        self.aggregate = aggregate
        self.map_layers = map_layers
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
            shape = self.grid_shape_
            F = self._collect(X)
            self._check_shape(F.shape[1:], shape, "X")
            self._extend(F)
            self._learn_more_seen(X)
            self._set_offset()
        return self

    # -- the three parts of a detector ------------------------------------------------

    def default_features(self) -> ExtractorLike:
        return DinoFeatures()

    def _fit_extractor(self, X):
        return with_texture(super()._fit_extractor(X), self.texture, X)

    def fit_grids(self, F: np.ndarray) -> None:
        wanted = self._part("bank")
        if self._has_local_basis() and (wanted.neighborhood or wanted.global_weight):
            raise ValueError(
                "pca='local' gives each location coordinates of its own: "
                f"neighborhood={wanted.neighborhood} and global_weight="
                f"{wanted.global_weight} must both be 0."
            )
        if wanted.nearest_images is not None and wanted.n_prototypes is not None:
            raise ValueError(
                f"nearest_images={wanted.nearest_images} with n_prototypes="
                f"{wanted.n_prototypes}: prototypes do not belong to whole images. "
                "Leave one of the two out, or use max_images."
            )
        self._fitted = self._settings(_FIXED)
        self._bases = None
        if wanted.n_components is not None:
            F_scaled = self._scaled(F)
            self._bases = _bases(F_scaled, wanted.pca, wanted.n_components)
        h, w, n_layers, _ = F.shape[1:]
        self.bank_, self._held = None, np.empty((0, n_layers, h, w), np.float32)
        self._extend(F)

    def score_grids(self, F: np.ndarray) -> np.ndarray:
        D = self._fusion(self._nearest(self._prepared(F)))
        return self._finish(D, self.baseline_)

    def holdout_grids(self) -> Sequence[np.ndarray] | np.ndarray | None:
        return self._holdout

    # -- private: merging -------------------------------------------------------------

    def _clone_for_merge(self):
        """Return an unfitted copy that keeps features as they are, and little else."""
        kept = {"metric": "euclidean", "dtype": "float32", "neighborhood": 0}
        kept |= dict.fromkeys(("max_images", "n_prototypes", "n_components"))
        return clone(self).set_params(bank=LocalBank(global_weight=0, **kept))

    def _join(self, parts):
        """Learn from the features that whole banks hold."""
        for i, part in enumerate(parts):
            self._check_shape(part.grid_shape_, parts[0].grid_shape_, f"detectors[{i}]")
            if part._bases is not None or part.bank_.n_images < len(part._held):
                raise ValueError(
                    f"detectors[{i}] keeps a reduced bank (max_images, n_prototypes, "
                    "n_components), from which features cannot be had: use fit_sharded."
                )
        grids = (part.bank_.of(i) for part in parts for i in range(len(part._held)))
        self.grid_shape_ = parts[0].grid_shape_
        F = empty_grids(len(self._register), self.grid_shape_)
        for row, grid in enumerate(grids):
            F[row] = grid[0]
        self.fit_grids(F)

    # -- private: the bank ------------------------------------------------------------

    def _extend(self, F):
        """Add images (n, h, w, l, c) to the bank, score each by one without it."""
        wanted, known, P = self._part("bank"), len(self._held), self._prepared(F)
        bank = LocatedVectors.of_grids(P, self._register.first[known:], wanted.dtype)
        valid = bank.valid
        bank = self.bank_.extend(bank) if known else bank
        self.bank_ = bank.reduced(wanted.max_images, wanted.n_prototypes)
        # The bank may be P itself, seen otherwise, whose invalid patches are 0 by now.
        seen = np.moveaxis(valid, 2, 0)[:, None]
        new = np.where(seen, self._hold_out(F, P, known), np.float32(np.nan))
        self._held = np.concatenate([self._held_again(known), new])
        self._learn_from_holdout()

    def _hold_out(self, F, P, known):
        """Return the distances of new images to a bank without them, (n, l, h, w)."""
        if len(self._register.distinct) == 1:
            return np.full((len(P), *self._held.shape[1:]), np.nan, np.float32)
        if self._has_local_basis():
            return np.concatenate([self._refit_without(F, i) for i in range(len(F))])
        # A few at a time: all at once would be a second bank in memory.
        chunks = np.array_split(np.arange(len(P)), np.ceil(len(P) / 32))
        return np.concatenate(
            [self._nearest(P[i], own=self._register.first[known + i]) for i in chunks]
        )

    def _held_again(self, known):
        """Return the same for the images known before, now that others came."""
        wanted = self._part("bank")
        reduced = wanted.max_images is not None or wanted.n_prototypes is not None
        if reduced or not known:
            return self._held
        grids = (self.bank_.of(i) for i in range(known))
        own = self._register.first
        return np.concatenate(
            [self._nearest(P, own=own[[i]]) for i, P in enumerate(grids)]
        )

    def _refit_without(self, F, i):
        """Distances of image i when its like took no part in the local bases either."""
        copies = self._register.first == self._register.first[i]
        n = min(self._part("bank").n_components, len(F) - copies.sum() - 1)
        if n < 1:
            return np.full((1, *self._held.shape[1:]), np.nan, np.float32)
        F = self._scaled(F)
        bases = _bases(F[~copies], "local", n)
        others = self._register.first[~copies]
        bank = LocatedVectors.of_grids(_projected(F[~copies], bases), others, "float32")
        return self._in_metric(bank.distances(_projected(F[i : i + 1], bases)))

    def _learn_from_holdout(self):
        """Set scales, baseline and threshold from held-out distances."""
        held = self._held[self._register.distinct]
        metric, bank = self._part("bank").metric, self.bank_
        usual = lambda j: bank.vectors[j, bank.valid]  # noqa: E731
        fusion = LayerFusion(self.features_, self.map_layers, len(bank.vectors))
        self._fusion = fusion.learn(held, usual, squared=metric == "cosine")
        self.layer_scales_ = fusion.scales
        D = self._fusion(held)
        self.threshold_ = self._holdout = None
        self.baseline_, own = _leave_one_out_means(D)
        if not np.isfinite(D).any():
            return
        D = self._finish(D, own)
        if self.cleaning is not None:
            quantile = self.cleaning.quantile
            self.threshold_ = np.nanquantile(D, quantile, axis=(0, 2, 3))
            D = self._clean(D)
        self._holdout = D

    # -- private: distances -----------------------------------------------------------

    def _has_local_basis(self):
        wanted = self._part("bank")
        return wanted.n_components is not None and wanted.pca == "local"

    def _scaled(self, F):
        """Return unit vectors for the cosine metric."""
        return F if self._part("bank").metric == "euclidean" else unit(F)

    def _prepared(self, F):
        F = self._scaled(F)
        return F if self._bases is None else _projected(F, self._bases)

    def _nearest(self, P, own=None):
        """Return the distances (n, l, h, w) to the bank, or to some of its images."""
        n = self._part("bank").nearest_images
        own = None if own is None else np.asarray(own)
        if n is None or n >= self.bank_.n_images:
            return self._distances(self.bank_, P, own)
        D = []
        for i, bank in enumerate(self.bank_.of_similar(P, n, own)):
            one = slice(i, i + 1)
            D.append(self._distances(bank, P[one], None if own is None else own[one]))
        return np.concatenate(D)

    def _distances(self, bank, P, own):
        """Return the distances (n, l, h, w) to a bank, near and anywhere."""
        wanted = self._part("bank")
        weight, device = wanted.global_weight, resolve_device(self.device)
        D = 0
        if weight < 1:
            how = {"radius": wanted.neighborhood, "own": own, "device": device}
            D = (1 - weight) * self._in_metric(bank.distances(P, **how))
        if weight:
            anywhere = bank.distances_anywhere(P, own=own, device=device)
            D = D + weight * self._in_metric(anywhere)
        return D

    def _in_metric(self, D):
        """Between unit vectors 1 - cos is half the squared distance."""
        return D if self._part("bank").metric == "euclidean" else D**2 / 2

    def _finish(self, D, baseline):
        """Discount, smooth and clean distances (n, 2, h, w)."""
        if self.baseline == "subtract":
            D = np.maximum(D - baseline, 0)
        elif self.baseline == "divide":
            D = D / np.maximum(baseline, np.finfo(np.float32).eps)
        sigma = self.score_smoothing * D.shape[2]
        D = smooth(D.reshape(-1, *D.shape[2:]), sigma).reshape(D.shape)
        return D if self.threshold_ is None else self._clean(D)

    def _clean(self, D):
        how = self.cleaning.opening, self.cleaning.closing
        parts = zip(D.swapaxes(0, 1), self.threshold_)
        return np.stack([clean(part, limit, *how) for part, limit in parts], axis=1)


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
