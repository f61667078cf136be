"""SubspaceAD: how far a patch lies beside the subspace of nominal patches."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal
from zlib import crc32

import numpy as np
from tqdm.auto import tqdm

from skdinoad._arrays.geometry import rotated
from skdinoad._arrays.maps import aggregate, pixel_map, unit
from skdinoad._arrays.subspace import (
    Moments,
    mean_residual,
    principal_subspace,
    residuals,
)
from skdinoad._compat.caller import warn
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._inputs.copies import content, in_order
from skdinoad._inputs.grids import check_channels, name_of
from skdinoad._typing import Aggregate, ExtractorLike, FeaturesLike, Self
from skdinoad.base import BaseDetector
from skdinoad.detectors._fusion import LayerFusion
from skdinoad.detectors._rotations import chosen_angles
from skdinoad.features import DinoFeatures

__all__ = ["SubspaceAD"]

#: Groups of training images, each held out once.
_FOLDS = 5

#: Rotated copies of each image in the official code, and their largest angle.
_PAPER_COPIES, _PAPER_LARGEST = 30, 345

#: Blocks (counted from 0) and image size of the official scripts, by a part of timm's
#: names. There, ViT-g has registers, and the others, of an ablation, have none.
_PAPER_NETWORKS = {
    "vit_small": ((7, 8), 448),
    "vit_base": ((7, 8), 448),
    "vit_large": ((13, 14, 15, 16, 17), 448),
    "vit_giant": ((22, 23, 24, 25, 26, 27, 28), 672),
}


class SubspaceAD(BaseDetector):
    r"""Compare every patch with the linear subspace that nominal patches span.

    ``fit`` finds, for each layer, the mean :math:`\mu` and the principal directions
    *C* of the patch features of all normal images. A patch's score is the squared
    length of what they leave of it (the paper's reconstruction residual),

    .. math:: D = \lVert (x - \mu) - C^\top C\,(x - \mu) \rVert^2

    There is no bank: size and cost of a model are the same for one image and for
    thousands. In exchange a patch is called normal if it is a *mixture* of normal
    ones, and where it lies does not matter.

    Parameters
    ----------
    features : DinoFeatures, "passthrough" or None, default=None
        Extractor of the patch features. None means ``DinoFeatures()`` for images,
        and takes feature grids as they are.
    n_components : float or int, default=0.99
        Directions that count as normal: the share of the variance that they explain
        (below 1), or their number.
    normalize : bool, default=True
        Whether patch features are scaled to unit length first, so that scores lie in
        0..1 and loud patches do not govern the subspace.
    rotations : str or sequence of float, default="auto"
        Angles in degrees at which rotated copies of the training images are learned,
        too, or one of "auto", "agnostic", "paper", "none". "auto" rotates up to 8
        images by multiples of 45 degrees, "agnostic" any number. "paper" rotates each
        image by 30 random angles from 0 to 345 degrees, with black corners, as the
        official code does.
    map_smoothing : float, default=0.006
        Standard deviation of a Gaussian over the heat map, as a share of the image's
        height. Image scores do not depend on it. Maps of feature grids are not
        smoothed.
    aggregate : float, "max", "mean", "p99" or "pixels", default=0.01
        How patch scores become the image score. A share in (0, 1] takes the mean of
        this share of them, the largest ones, at least one. "pixels" takes the mean of
        the largest 1 % of the pixels of the map, enlarged to the size of the network's
        input and smoothed with 3 x 3 pixels, as the official code does.
    map_layers : "auto" or sequence of int, default="auto"
        Layers whose distances heat maps show, of those that ``features`` takes; the
        image's score is the mean over all.
    target_fpr : float, default=0.05
        Wanted rate of false alarms: the share of good images that ``predict`` may
        flag. ``offset_`` is an estimate of this quantile from the held-out scores;
        :class:`~skdinoad.ThresholdTunerCV` gives a threshold with a guarantee.
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
    mean_ : list of l arrays of shape (c,), float32
        Mean of the nominal patches in each layer.
    components_ : list of l arrays of shape (k, c), float32
        Orthonormal directions of each layer, the one of largest variance first.
    layer_scales_ : ndarray of shape (l,), float32
        Mean residual of held-out good images in each layer, by which it is divided; 1
        if there is one layer.
    angles_ : tuple of float, or "paper"
        Angles at which training images were learned, 0 first.
    holdout_scores_ : ndarray of shape (n,)
        ``score_samples`` of each training image by a subspace without its fold, one of
        five, dealt by what images show and not by their order (of feature grids it
        counts); exact copies share a fold and count once.
    holdout_rows_ : ndarray of shape (n,), int
        Row of X in ``fit`` that each of these scores is of.
    suspects_ : list of Bunch
        Training images that look odd among the others, the most anomalous first:
        ``row`` and ``path`` (None for arrays) say which, ``ratio`` how many times the
        median anomaly score theirs is. They are part of the model, but not of the
        threshold's estimate.
    offset_ : float
        Threshold on ``score_samples``, see ``target_fpr``; NaN after a fit on one
        image.
    map_limits_ : (float, float)
        Display range for heat maps, from held-out normal maps.
    pixel_threshold_ : float
        Threshold on heat maps: good images exceed it anywhere as rarely as their
        scores fall below ``offset_``. NaN without held-out images.

    See Also
    --------
    AnomalyDINO : The nearest nominal patch in place of the subspace.
    LinearDFR : The same residual for features of a CNN.

    Notes
    -----
    ``fit`` looks at each image twice: for the subspace, then for the held-out scores.
    With the features' cache (the default) the network runs once. Memory does not grow
    with the number of images.

    **Differences from the official code.** :meth:`from_paper` does what the official
    scripts do: the mean of the same blocks, not normalised, at the same size; randomly
    rotated copies with black corners; the score from the enlarged map. Only the random
    angles differ: here they depend on the image alone, so that a second fit gives the
    same result. The official code draws new ones for the mean and for the covariance.
    The plain constructor differs from the paper as follows.

    - Each layer has a subspace of its own, and residuals are divided by those of
      held-out images; the paper averages the layers' features first.
    - Features have unit length; the paper's are not normalised.
    - Rotated copies are made at multiples of 45 degrees, mirrored at the edges, and for
      up to 8 images only.
    - The image score is the mean of the largest 1 % of the patches, not of the pixels.

    References
    ----------
    Lendering, Akdag, Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection
    via Subspace Modeling", CVPR 2026, arXiv 2602.23013;
    github.com/CLendering/SubspaceAD.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import SubspaceAD
    >>> rng = np.random.default_rng(0)
    >>> F = np.zeros((3, 4, 4, 8), dtype=np.float32)
    >>> F[..., :2] = rng.normal(size=(3, 4, 4, 2))      # nominal patches lie in a plane
    >>> detector = SubspaceAD(normalize=False).fit(F)
    >>> detector.components_[0].shape
    (2, 8)
    >>> defect = F[:1].copy()
    >>> defect[0, 1, 2, 5] = 3.0                                # 3 beside it
    >>> detector.predict_map(defect)[0].round(3)[1]
    array([0., 0., 9., 0.], dtype=float32)
    """

    _layers_apart = True

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "aggregate": [
            *BaseDetector._parameter_constraints["aggregate"],
            StrOptions({"pixels"}),
        ],
        "map_layers": [StrOptions({"auto"}), "array-like"],
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "normalize": ["boolean"],
        "rotations": [StrOptions({"auto", "agnostic", "none", "paper"}), "array-like"],
        "map_smoothing": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        n_components: float = 0.99,
        normalize: bool = True,
        rotations: (
            Literal["auto", "agnostic", "none", "paper"] | Sequence[float]
        ) = "auto",
        map_smoothing: float = 0.006,
        aggregate: Aggregate | Literal["pixels"] = 0.01,
        map_layers: Literal["auto"] | Sequence[int] = "auto",
        target_fpr: float = 0.05,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.n_components = n_components
        self.normalize = normalize
        self.rotations = rotations
        self.map_smoothing = map_smoothing
        self.aggregate = aggregate
        self.map_layers = map_layers
        self.target_fpr = target_fpr
        self.verbose = verbose

    @classmethod
    def from_paper(
        cls, *, model: str = "vit_giant_patch14_reg4_dinov2.lvd142m", **parameters: Any
    ) -> Self:
        """Return the configuration of the paper's few-shot experiments.

        The features are the mean of several middle blocks before the final norm, not
        normalised: blocks 22 to 28 (counted from 0) of the 40 of ViT-g with registers
        at 672 x 672 pixels, 13 to 17 of ViT-L, 7 and 8 of ViT-B and ViT-S at 448 x 448
        pixels. Each training image is joined by 30 randomly rotated copies. ViT-g has
        1.1 billion weights, which come from the hub or a file.

        Parameters
        ----------
        model : str
            A DINOv2 of timm with 12, 24 or 40 blocks.
        **parameters
            Override any parameter. The official scripts make no rotated copies of the
            category "transistor" of MVTec AD, nor where all training images are used:
            pass ``rotations="none"`` there.

        Returns
        -------
        SubspaceAD

        Raises
        ------
        ValueError
            If the paper has no configuration for this model.

        Examples
        --------
        >>> from skdinoad import SubspaceAD
        >>> SubspaceAD.from_paper().features.layers
        (22, 23, 24, 25, 26, 27, 28)
        """
        known = [known for name, known in _PAPER_NETWORKS.items() if name in model]
        if not known:
            raise ValueError(f"model={model!r}: expected one of {[*_PAPER_NETWORKS]}.")
        layers, size = known[0]
        features = DinoFeatures(
            model=model, image_size=(size, size), layers=layers, groups=1, norm=False
        )
        official = {
            "features": features,
            "normalize": False,
            "rotations": "paper",
            "aggregate": "pixels",
        }
        return cls(**{**official, **parameters})

    # -- the parts of a detector ------------------------------------------------------

    def default_features(self) -> ExtractorLike:
        return DinoFeatures()

    def _fit_images(self, X):
        self.angles_ = None
        if self.features_ is None:
            check_channels(X)
        ordered, rows, known = in_order(X)
        folds, kept, number = self._moments(X, ordered, rows, known)
        self._register_images(X, kept, known)
        whole = self._moments_of_all = _sum_of(folds)
        self.mean_, self.components_ = self._subspaces(whole)
        # A single image leaves nothing to hold out: then its own residuals tell how
        # layers compare.
        without = [self._without(whole, fold) for fold in folds]
        held = self._residuals_of(X, [without[k] for k in number])
        self._held = held if len(folds) > 1 else None
        self._fuse([held[i] for i in self._register.distinct])

    def score_grids(self, F: np.ndarray) -> np.ndarray:
        subspaces = self.mean_, self.components_
        return np.stack([self._fusion(self._residuals(grid, *subspaces)) for grid in F])

    def holdout_grids(self) -> Sequence[np.ndarray] | np.ndarray | None:
        if self._held is None:
            return None
        return [self._fusion(self._held[i]) for i in self._register.distinct]

    def _aggregate(self, D):
        if self.aggregate != "pixels":
            return super()._aggregate(D)
        patch = getattr(self.features_, "patch_size_", 14)
        return aggregate([pixel_map(grid[0], patch) for grid in D], 0.01)

    # -- private: merging -------------------------------------------------------------

    def _join(self, parts):
        """Add moments up; without images nothing is held out, and layers compare by
        what is left of all patches learned.
        """
        wanted = self._chosen_angles(len(self._register.distinct))
        for i, part in enumerate(parts):
            _check_joinable(f"detectors[{i}]", part, parts[0], wanted)
        self.angles_ = wanted
        whole = self._moments_of_all = _sum_of([p._moments_of_all for p in parts])
        self.mean_, self.components_ = self._subspaces(whole)
        left = np.array([*map(mean_residual, whole, self.components_)], np.float32)
        self._fuse([left[:, None, None]])

    def _set_merged_offset(self):
        warn(
            "A merged SubspaceAD has no threshold, because no image is there to be "
            "held out: score_samples and predict_map work; for predict, set offset_ "
            "from scores of good images that none has learned from.",
            UserWarning,
        )
        self._set_no_offset()

    # -- private ----------------------------------------------------------------------

    def _fuse(self, held):
        """Learn how layers compare, from residuals (l, h, w) of held-out images."""
        fusion = LayerFusion(self.features_, self.map_layers, len(self.mean_))
        self._fusion = fusion.learn(held, None, squared=True)
        self.layer_scales_ = fusion.scales

    def _moments(self, X, ordered, rows, contents):
        """Return the moments of each fold and layer, rows of use, and their folds.

        Folds are dealt, and moments summed, in that order. Copies share a fold.
        """
        folds, kept, number, known = [], [], [], {}
        rows = iter(rows)
        for F, _ in self._batches(ordered, "fit"):
            for grid, row in zip(F, rows):
                self._check_features(grid)
                if not np.isfinite(grid).any():
                    continue
                shown = contents[row] if contents else content(X, row)
                n = known.setdefault(shown, len(known))
                if n == len(folds) < _FOLDS:
                    folds.append([Moments(grid.shape[3]) for _ in range(grid.shape[2])])
                kept.append(row)
                number.append(n % _FOLDS)
                self._add(grid, folds[n % _FOLDS], name_of(X, row))
        if kept:
            self._add_turned(X, folds, kept, number, len(known))
        rising = np.argsort(kept)
        return folds, [kept[i] for i in rising], [number[i] for i in rising]

    def _add(self, grid, moments, name):
        _check_layers(name, grid.shape[2:], (len(moments), len(moments[0].total)))
        grid = self._scaled(grid)
        vectors = grid[np.isfinite(grid).all((-1, -2))]
        for j, moment in enumerate(moments):
            moment.update(vectors[:, j])

    def _add_turned(self, X, folds, kept, number, n):
        self.angles_ = self._chosen_angles(n)
        if self.angles_ == (0,):
            return
        black = self.angles_ == "paper"
        pairs = list(zip(kept, number))
        for row, fold in tqdm(pairs, "rotate", disable=not self.verbose):
            image = X[row]
            angles = _random_angles(image) if black else self.angles_[1:]
            F, _ = self._read_batch([rotated(image, a, black=black) for a in angles])
            for grid in F:
                self._add(np.asarray(grid), folds[fold], name_of(X, row))

    def _chosen_angles(self, n):
        """Return ``angles_`` for n different images."""
        can_turn = self.features_ is not None
        if isinstance(self.rotations, str) and self.rotations == "paper":
            return "paper" if can_turn else (0,)
        return chosen_angles(self.rotations, n, can_turn)

    def _scaled(self, grid):
        grid = np.asarray(grid, np.float32)
        return unit(grid) if self.normalize else grid

    def _subspaces(self, moments):
        """Return the means and components of all layers."""
        means = [m.mean().astype(np.float32) for m in moments]
        return means, [principal_subspace(m, self.n_components) for m in moments]

    def _without(self, whole, fold):
        """Return the subspaces of all images but those of a fold."""
        if whole is fold:  # there is no other
            return self.mean_, self.components_
        return self._subspaces([a - b for a, b in zip(whole, fold)])

    def _residuals_of(self, X, subspaces):
        """Return the residuals (l, h, w) of each image of use by its subspaces."""
        grids = (grid for F, _ in self._batches(X, "hold out") for grid in F)
        grids = (grid for grid in grids if np.isfinite(grid).any())
        return [self._residuals(grid, *pair) for grid, pair in zip(grids, subspaces)]

    def _residuals(self, grid, means, components):
        """Return the squared residuals (l, h, w) of a grid; NaN where invalid."""
        _check_layers("An image", grid.shape[2:], (len(means), len(means[0])))
        grid = self._scaled(grid)
        valid = np.isfinite(grid).all((-1, -2))
        D = np.full((grid.shape[2], *valid.shape), np.nan, np.float32)
        for j, subspace in enumerate(zip(means, components)):
            D[j, valid] = residuals(grid[valid, j], *subspace)
        return D


def _random_angles(image):
    """Return the random angles of an image in degrees; equal images have equal ones."""
    random = np.random.default_rng(crc32(np.ascontiguousarray(image)))
    return random.uniform(0, _PAPER_LARGEST, _PAPER_COPIES)


def _check_layers(name, shape, expected):
    if tuple(shape) != expected:
        raise ValueError(
            f"{name} has features of {shape[0]} layers with {shape[1]} channels, the "
            f"subspaces of {expected[0]} with {expected[1]}: use one extractor for all."
        )


def _check_joinable(name, part, first, angles):
    shapes = [(len(p.mean_), len(p.mean_[0])) for p in (part, first)]
    _check_layers(name, *shapes)
    if part.angles_ != angles:
        raise ValueError(
            f"{name} has learned from copies turned by {part.angles_}, one fit on all "
            f"images would from {angles}: fit with rotations='agnostic' or 'none'."
        )


def _sum_of(folds):
    """Return the moments of all folds together, layer by layer."""
    total = folds[0]
    for fold in folds[1:]:
        total = [a + b for a, b in zip(total, fold)]
    return total
