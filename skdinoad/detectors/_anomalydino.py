"""AnomalyDINO: the nearest nominal patch anywhere, from a handful of images."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch, check_random_state
from tqdm.auto import tqdm

from skdinoad._arrays.geometry import rotated
from skdinoad._arrays.maps import aggregate
from skdinoad._arrays.masks import MASKED, UNMASKED, warn_of_empty_masks
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state, resolve_device
from skdinoad._inputs.grids import name_of
from skdinoad._typing import (
    Aggregate,
    ExtractorLike,
    FeaturesLike,
    ImagesLike,
    LabelsLike,
    RandomState,
    Self,
    TextureLike,
)
from skdinoad.alignment import ForegroundMask
from skdinoad.banks import MemoryBank
from skdinoad.base import BaseDetector
from skdinoad.detectors._fusion import LayerFusion
from skdinoad.detectors._memory import (
    ImageBank,
    check_channels,
    check_search,
    concatenated_layers,
    mean_patches,
)
from skdinoad.detectors._object_masks import ObjectMasks, as_foreground_mask
from skdinoad.detectors._rotations import chosen_angles, merged_angles, worth_turning
from skdinoad.detectors._zero_shot import ScoresBatches
from skdinoad.features import DinoFeatures
from skdinoad.features._textured import with_texture

__all__ = ["AnomalyDINO"]

#: Parameters that partial_fit must find as fit has found them.
_FIXED = ("rotations", "masking", "bank__dtype")


class AnomalyDINO(ScoresBatches, BaseDetector):
    r"""Compare every patch with the nominal patches of all places.

    ``fit`` keeps the patch features of all normal images, and of turned copies of
    them, in one memory bank. A patch's score is its cosine distance to the nearest,

    .. math:: d_i = \min_{r \in M} (1 - \cos(t_i, r)),

    the image's score the mean of the largest 2 % (equations 3 and 4; 1 % in the
    paper). Each layer of the network has its own bank; distances are divided by the
    mean held-out distance of the layer before they are averaged. With one layer they
    are the paper's. Nothing is trained, and the pose of the part does not matter. One
    good image is enough to start. Images of different sizes may be mixed.

    Parameters
    ----------
    features : DinoFeatures, "passthrough" or None, default=None
        Extractor of the patch features. None means ``DinoFeatures()`` for images,
        and takes feature grids as they are.
    texture : "auto", CNNFeatures or None, default="auto"
        Features of a CNN as an additional layer, with the same weight as all other
        layers together. "auto" is ``CNNFeatures(standardize="levels")`` for the weights
        of ``skdinoad[offline]``, where it detects more defects, and None for all other
        weights. ``texture__...`` can be searched if an
        extractor is given.
    rotations : str or sequence of float, default="auto"
        Angles in degrees at which training images enter the bank, or one of "auto",
        "agnostic", "informed", "none". "agnostic" is every 45 degrees; feature grids
        cannot be turned, and are not. "informed" is "agnostic" if the training images
        are turned themselves: if the turned copies lower their median held-out score
        by a tenth. "auto" is "agnostic" for up to 8 images, beyond which they show the
        poses themselves and copies cost more than they give. Turn nothing where
        orientation is the defect. The images as they are, angle 0, are always there.
    masking : "auto", None, "official" or ForegroundMask, default="auto"
        Whether the background of test images is left out: patches whose score on the
        first principal component of the image says background. "auto" decides once, in
        ``fit``: yes if the masks of the training images look like one object on a
        background. None never masks. A :class:`~skdinoad.ForegroundMask` says threshold
        and morphology, and by its own ``masking`` whether to mask; its ``features`` are
        not used. "official" always masks, as the official code does, and stands for
        ``ForegroundMask(masking=True, threshold=10, morphology="raster")``. The bank
        holds the background in any case. A masked patch has no score; if fewer patches
        are left than ``aggregate`` asks for, the mean is over those. With the
        morphology "raster" it has a score of 0, as in the official code.
    bank : MemoryBank or None, default=None
        Size, sampling, storage and search of the memory bank; None means
        ``MemoryBank()``. ``bank__size`` and the like can be searched either way.
    map_smoothing : float, default=0.006
        Standard deviation of a Gaussian over the heat map, as a share of the image's
        height. Image scores do not depend on it. Maps of feature grids are not
        smoothed.
    aggregate : float, "max", "mean" or "p99", default=0.02
        How patch scores become the image score. A share in (0, 1] takes the mean of
        the largest ones: this share of all patches, masked or not, and at least one.
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
    random_state : int, RandomState instance or None, default=None
        Only a bank with ``sampling="random"`` or ``search="approximate"`` uses it.
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
    bank_ : PatchVectors
        ``bank_.vectors`` (m, l * c) are the nominal vectors, of unit length in each of
        l layers,
        ``bank_.image`` (m,) the training image that each comes from, and
        ``bank_.turned`` (m,) whether from a turned copy.
    angles_ : tuple of float
        The rotations in the bank.
    rotation_gain_ : float or None
        With "informed": by what share turned copies lower the held-out scores.
    layer_scales_ : ndarray of shape (l,), float32
        Mean distance of held-out good images in each layer, by which it is divided; 1
        if there is one layer.
    masking_ : bool
        The verdict on masking.
    mask_statistics_ : dict or None
        With "auto": medians over the training images, see :class:`ForegroundMask`.
    holdout_scores_ : ndarray of shape (n,)
        ``score_samples`` of each training image by a bank without any copy of it;
        exact copies count once, and images for which nothing is left to compare with
        are missing. A reduced bank is not chosen anew: its scores are slightly too low,
        never too high.
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
    map_limits_ : (float, float)
        Display range for heat maps, from held-out normal maps.
    pixel_threshold_ : float
        Threshold on heat maps: good images exceed it anywhere as rarely as their
        scores fall below ``offset_``. NaN without held-out images.

    See Also
    --------
    DinoPatch : Compares at the same location; for parts in one pose.
    ForegroundMask : The same masks for any detector.

    Notes
    -----
    The size of the bank (:class:`~skdinoad.MemoryBank`) keeps scoring fast with many
    training images. One choice of vectors serves all layers.

    **Differences from the official code.** :meth:`from_paper` is the official
    configuration, and scores equal the official code's. The plain constructor differs
    as follows.

    - Several layers and a CNN's texture are compared; officially the last block alone.
    - ``fit`` decides whether to mask the background, by a threshold relative to the
      length of the tokens, and masks grow in both directions; officially a list of
      categories decides, the threshold is 10, and masks grow along rows.
    - Up to 8 images are rotated, not all.
    - The image score is the mean of the largest 2 % of the patches; officially 1 %.
    - A heat map shows each patch at its place in the image; officially maps of cropped
      images are stretched.

    The idea of ``MemoryBank(nearest_images=...)`` is RAD's [1]_, which finds similar
    images by their class tokens. The mean patch, used here, excludes pixels that alpha
    or the mask hides, and feature grids have it, too. RAD also compares patches within
    a window only, as :class:`~skdinoad.DinoPatch` does with ``LocalBank``.

    References
    ----------
    Damm, Laszkiewicz, Lederer, Fischer, "AnomalyDINO: Boosting Patch-Based Few-Shot
    Anomaly Detection with DINOv2", WACV 2025, arXiv 2405.14529; official code
    github.com/dammsi/AnomalyDINO.

    .. [1] Zhang, Li, Henderson, Aragon-Camarasa, Long, "Is Training Necessary for
       Anomaly Detection?", 2026, arXiv 2601.22763: global context retrieval before
       patches are matched.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import AnomalyDINO
    >>> rng = np.random.default_rng(0)
    >>> F = rng.normal(1, 0.1, (3, 4, 4, 8)).astype(np.float32)   # 3 good images
    >>> detector = AnomalyDINO(masking=None).fit(F)
    >>> bool(detector.score_samples(F[:, ::-1]).min() > -1e-6)   # upside down: known
    True
    >>> detector.predict(-F[:1])
    array([-1])
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "texture": "no_validation",
        "map_layers": [StrOptions({"auto"}), "array-like"],
        "rotations": [
            StrOptions({"auto", "agnostic", "informed", "none"}),
            "array-like",
        ],
        "masking": [StrOptions({"auto", "official"}), ForegroundMask, None],
        "bank": [MemoryBank, None],
        "map_smoothing": [Interval(Real, 0, 1, closed="both")],
        "device": [str],
        "random_state": ["random_state"],
    }

    _default_parts = {"bank": MemoryBank}
    _layers_apart = True

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        texture: TextureLike = "auto",
        rotations: Literal["auto", "informed", "agnostic", "none"]
        | Sequence[float] = "auto",
        masking: Literal["auto", "official"] | ForegroundMask | None = "auto",
        bank: MemoryBank | None = None,
        map_smoothing: float = 0.006,
        aggregate: Aggregate = 0.02,
        map_layers: Literal["auto"] | Sequence[int] = "auto",
        target_fpr: float = 0.05,
        device: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.texture = texture
        self.map_layers = map_layers
        self.rotations = rotations
        self.masking = masking
        self.bank = bank
        self.map_smoothing = map_smoothing
        self.aggregate = aggregate
        self.target_fpr = target_fpr
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def from_paper(
        cls,
        shots: int,
        category: str | None = None,
        *,
        image_size: int | None = None,
        **parameters: Any,
    ) -> Self:
        """Return the configuration of the official code.

        It compares the last block after the final LayerNorm at 448 pixels, cropped to
        whole patches, with eight rotations, and masks the categories that the official
        table masks (threshold 10, morphology along rows, zeros for masked patches).

        With equal weights, image scores equal those of the official code, except where
        the first component of a mask has the opposite sign (9 of 60 images tried). The
        sign depends on the solver there; here the object is the side that covers the
        image's centre. Each map shows the patches at their place in the image. Position
        embeddings are resampled by timm, not by DINOv2's own code, which makes a small
        difference. Published scores need genuine weights.

        Parameters
        ----------
        shots : int
            Number of training images, which you pass to ``fit``; the official code
            takes the first of the sorted files. 0 is the batched zero-shot variant:
            672 pixels, no rotation; use :meth:`score_batch` with ``neighbors=0.001``.
        category : str or None, default=None
            Name of a category of MVTec AD or VisA, which decides on masking. None
            leaves masking out.
        image_size : int or None, default=None
            The smaller edge; the paper also has 672.
        **parameters
            Override any parameter.

        Returns
        -------
        AnomalyDINO

        Examples
        --------
        >>> from skdinoad import AnomalyDINO
        >>> detector = AnomalyDINO.from_paper(shots=1, category="screw")
        >>> detector.masking, detector.bank.size, detector.features.image_size
        ('official', None, 448)
        """
        if category is not None and category not in MASKED | UNMASKED:
            raise ValueError(
                f"category={category!r}: expected None or one of "
                f"{sorted(MASKED | UNMASKED)}. Otherwise pass masking=..."
            )
        if not isinstance(shots, Integral) or shots < 0:
            raise ValueError(
                f"shots={shots!r}: expected a number of images, 0 or more."
            )
        size = image_size or (448 if shots else 672)
        official = {
            "features": DinoFeatures(
                image_size=size, cropping="patches", layers="last", norm=True
            ),
            "texture": None,
            "rotations": "agnostic" if shots else "none",
            "masking": "official" if category in MASKED else None,
            "bank": MemoryBank(size=None),
            "aggregate": 0.01,
        }
        return cls(**{**official, **parameters})

    @isolated_torch_state()
    def partial_fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Add more good images to the bank.

        Verdicts on masking and rotation stay those of the first fit. If all images
        together would give the same, and as long as the bank keeps all vectors, scores
        and threshold then equal those of one fit on all images. Beyond the bank's
        ``size`` it is thinned again, and the held-out scores of the earlier images
        stay.

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
            self._extend(X, self._read(X))
            self._learn_more_seen(X)
            self._set_offset()
        return self

    # -- what a detector writes -------------------------------------------------------

    def _validate_params(self):
        super()._validate_params()
        as_foreground_mask(self.masking)._validate_params()

    def default_features(self) -> ExtractorLike:
        return DinoFeatures()

    def _fit_extractor(self, X):
        return with_texture(super()._fit_extractor(X), self.texture, X)

    def _fit_images(self, X):
        check_search(self._part("bank"))
        self._masks = ObjectMasks(self.masking)
        images = self._read(X)
        self._decide_on_masks(images)
        n, can_turn = len(self._register.distinct), self.features_ is not None
        self.angles_ = chosen_angles(self.rotations, n, can_turn)
        self._fitted, self.rotation_gain_ = self._settings(_FIXED), None
        self._memory = ImageBank()
        self._extend(X, images)

    def score_grids(self, F: np.ndarray) -> np.ndarray:
        known = self.bank_.vectors.shape[1]
        check_channels("An image", F.shape[-2] * F.shape[-1], known)
        D = [self._distances(concatenated_layers(grid)) for grid in F]
        return np.stack([self._fusion(self._masks.filled(grid)) for grid in D])

    def holdout_grids(self) -> Sequence[np.ndarray] | np.ndarray | None:
        held = [self._memory.images[i].held for i in self._register.distinct]
        return [self._fusion(self._masks.filled(D)) for D in held]

    def _aggregate(self, D):
        return aggregate([grid[0] for grid in D], self.aggregate, whole=True)

    def _scores_everywhere(self):
        return self._masks.scores_ground

    def _batches(self, X, task):
        """Yield features with NaN for the background; warn once of empty masks."""
        batches = super()._batches(X, task)
        if task == "fit" or not self._masks.used:
            yield from batches
            return
        empty, row = [], 0
        for F, affines in batches:
            for grid in F:
                self._check_features(grid)
            F, masks = self._masks.applied(F)
            empty += [name_of(X, row + i) for i, m in enumerate(masks) if not m.any()]
            row += len(masks)
            yield F, affines
        warn_of_empty_masks(empty, row)

    # -- private: reading images ------------------------------------------------------

    def _read(self, X, vectors_of=concatenated_layers):
        """Return a record of each image that has a valid patch, and register it.

        ``vectors_of`` makes vectors (h, w, l * c) of features (h, w, l, c).
        """
        images, row = [], -1
        for F, affines in super()._batches(X, "fit"):
            for grid, affine in zip(F, affines):
                row += 1
                self._check_features(grid)
                if np.isfinite(grid).any():
                    images.append(self._record(row, grid, affine, vectors_of))
        known = getattr(self, "bank_", None)
        channels = None if known is None else known.vectors.shape[1]
        for image in images:
            channels = channels or image.grid.shape[-1]
            check_channels(name_of(X, image.row), image.grid.shape[-1], channels)
        self._register_images(X, [image.row for image in images])
        return images

    def _record(self, row, grid, affine, vectors_of):
        """Return what is needed of an image; its raw features are dropped."""
        grid = np.asarray(grid, np.float32)
        mask, seen = self._masks.of_training(grid)
        self._n_layers = grid.shape[2]
        grid = vectors_of(grid)
        about = {"valid": np.isfinite(grid).all(-1), "mask": mask, "statistics": seen}
        about["whole"] = mean_patches(grid, about["valid"], mask)
        return Bunch(row=row, grid=grid, affine=affine, **about)

    def _decide_on_masks(self, images):
        """Decide whether masks are used, and which patches get a score by that."""
        self._masks.decide(images)
        self.masking_, self.mask_statistics_ = self._masks.used, self._masks.statistics

    # -- private: the bank ------------------------------------------------------------

    def _extend(self, X, images):
        """Add images to the bank, and score each of them by a bank without it."""
        first = len(self._memory.images)
        grids = self._memory.grids() if first else []
        for image in images:
            image.scored = self._masks.scored(image)
        pictures = self._pictures(X, images, first)
        self._memory = self._memory.extended(pictures, images, self._n_layers)
        grids += [image.grid for image in images]
        self._settle(grids, decide_rotations=not first)

    def _pictures(self, X, images, first):
        """Return (vectors, image, turned) of each picture, those as given first."""
        parts = [
            self._vectors_of(image.grid, first + i) for i, image in enumerate(images)
        ]
        turns = [angle for angle in self.angles_ if angle]
        if turns:
            numbered = enumerate(images, start=first)
            quiet = not self.verbose
            for i, image in tqdm(numbered, "turn", len(images), disable=quiet):
                pixels = X[image.row]
                copies = [rotated(pixels, angle) for angle in turns]
                F, _ = self._read_batch(copies)
                parts += [
                    self._vectors_of(concatenated_layers(g), i, turned=True) for g in F
                ]
        return parts

    def _vectors_of(self, grid, i, *, turned=False):
        vectors = grid[np.isfinite(grid).all(-1)]
        return vectors.astype(self._part("bank").dtype), i, turned

    def _settle(self, grids, *, decide_rotations):
        """Thin the bank of all images as wanted, and hold out each image.

        Parameters
        ----------
        grids : list of ndarray of shape (h, w, l * c), or None
            The vectors of all images. An image whose grid is None keeps its held-out
            distances.
        decide_rotations : bool
            Whether to decide on turned copies, with ``rotations="informed"``.
        """
        wanted, memory = self._part("bank"), self._memory
        if decide_rotations and np.array_equal(self.rotations, "informed"):
            memory = self._keep_useful_turns(memory, grids)
        if wanted.sampling == "random" or wanted.search == "approximate":
            # A random draw must not depend on the order of images.
            order = np.argsort(self._register.contents, kind="stable")
            memory = memory.in_order(np.argsort(order))
        memory = memory.thinned(wanted, self.random_state, self.verbose)
        self._memory, self.bank_ = memory, memory.vectors
        for i, grid in enumerate(grids):
            if grid is not None:
                memory.images[i].held = self._hold_out(memory, i, grid)
        held = [memory.images[i].held for i in self._register.distinct]
        self._fuse(held, self.bank_.layer)
        if wanted.search == "approximate":
            self.bank_.indexed(check_random_state(self.random_state).randint(2**31))

    def _keep_useful_turns(self, memory, grids):
        """Drop the turned copies unless they bring held-out images nearer."""
        distinct = self._register.distinct
        if len(distinct) == 1:
            return memory
        plain = memory.with_vectors(memory.vectors.select(~memory.vectors.turned))
        held = [self._hold_out(plain, *pair) for pair in enumerate(grids)]
        self._fuse(held, plain.vectors.layer)
        usual = [self._usual_score(bank, grids) for bank in (plain, memory)]
        self.rotation_gain_, useful = worth_turning(*usual)
        if useful:
            return memory
        self.angles_ = (0,)
        return memory.without_turns()

    def _usual_score(self, memory, grids):
        """Return the median image score of training images held out."""
        held = [self._hold_out(memory, *pair) for pair in enumerate(grids)]
        return np.median(self._aggregate([self._fusion(D) for D in held]))

    # -- private: distances -----------------------------------------------------------

    def _hold_out(self, memory, i, grid):
        """Return the distances (l, h, w) of image i to a bank without its copies."""
        scored = memory.images[i].scored[..., None]
        grid = np.where(scored, grid, np.float32(np.nan))
        return self._distances(grid, memory, without=self._register.copies_of(i))

    def _distances(self, grid, memory=None, without=None):
        """Return the cosine distances (l, h, w) of unit vectors, NaN where invalid."""
        memory = self._memory if memory is None else memory
        how = {"masked": self._masks.used, "device": resolve_device(self.device)}
        return memory.distances(grid, self._part("bank"), without=without, **how)

    def _fuse(self, held, vectors_of):
        """Learn how layers compare, from distances (l, h, w) of held-out images."""
        fusion = LayerFusion(self.features_, self.map_layers, self._n_layers)
        self._fusion = fusion.learn(held, vectors_of, squared=True)
        self.layer_scales_ = fusion.scales

    # -- private: merging -------------------------------------------------------------

    def _clone_for_merge(self):
        """Return an unfitted copy whose bank is all that one fit would see."""
        check_search(self._part("bank"))
        whole = {"bank__size": None, "bank__dtype": "float32", "bank__search": "exact"}
        if np.array_equal(self.rotations, "informed"):
            whole["rotations"] = "agnostic"
        return clone(self).set_params(**whole)

    def _join(self, parts):
        """Do what one fit does after the network: join banks, decide, hold out."""
        banks = [part._memory for part in parts]
        self._n_layers, self._masks = parts[0]._n_layers, ObjectMasks(self.masking)
        self._fitted, self.rotation_gain_ = self._settings(_FIXED), None
        self._memory = ImageBank.merged(banks, self._part("bank").dtype)
        self._decide_on_masks(self._memory.images)
        for image in self._memory.images:
            image.scored = self._masks.scored(image)
        n, can_turn = len(self._register.distinct), self.features_ is not None
        wanted = chosen_angles(self.rotations, n, can_turn)
        self.angles_ = merged_angles(wanted, [part.angles_ for part in parts])
        if self.angles_ == (0,):
            self._memory = self._memory.without_turns()
        grids = [grid for bank in banks for grid in bank.grids()]
        turned = not can_turn or self._memory.vectors.turned.any()
        whole = all(grid is not None for grid in grids)
        self._settle(grids, decide_rotations=turned and whole)
