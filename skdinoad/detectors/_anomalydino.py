"""AnomalyDINO: the nearest nominal patch anywhere, from a handful of images."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch, check_random_state
from tqdm.auto import tqdm

from skdinoad._arrays.geometry import rotated
from skdinoad._arrays.maps import smooth_pixels, unit
from skdinoad._arrays.masks import (
    MASKED,
    UNMASKED,
    foreground,
    mask_statistics,
    masking_helps,
    median_of,
    warn_of_empty_masks,
    without_ground,
)
from skdinoad._compat.sklearn import Interval, Options, StrOptions
from skdinoad._compat.torch import resolve_device, undisturbed
from skdinoad._inputs.grids import name_of
from skdinoad._neighbors import MemoryBank, import_faiss
from skdinoad._typing import (
    Aggregate,
    Contamination,
    FeaturesLike,
    ImagesLike,
    LabelsLike,
    RandomState,
    Self,
)
from skdinoad.detectors._layered import LayeredDetector
from skdinoad.detectors._rotations import chosen_angles, merged_angles, worth_turning
from skdinoad.detectors._zero_shot import ScoresBatches
from skdinoad.features import DinoFeatures

__all__ = ["AnomalyDINO"]

#: What is kept of each training image beside its vectors.
_KEPT = ("valid", "mask", "statistics", "whole")

#: Parameters that shape what the bank holds.
_FIXED = ("rotations", "masking", "bank_dtype")


class AnomalyDINO(ScoresBatches, LayeredDetector):
    r"""Compare every patch with the nominal patches of all places.

    ``fit`` keeps the patch features of all normal images, and of turned copies of
    them, in one memory bank. A patch's score is its cosine distance to the nearest,

    .. math:: d_i = \min_{r \in M} (1 - \cos(t_i, r)),

    the image's score the mean of the largest 1 % (equations 3 and 4). Each layer of the
    network is compared by itself, and distances are divided by what is usual in that
    layer before they are averaged; with one layer they are the paper's. Nothing is
    trained and no pose is needed; one good image is enough to start. Images of any
    sizes may be mixed.

    Parameters
    ----------
    features : DinoFeatures, "passthrough" or None, default=None
        Extractor of the patch features. None means ``DinoFeatures()`` for images,
        and takes feature grids as they are.
    rotations : str or sequence of float, default="auto"
        Angles in degrees at which training images enter the bank, or one of "auto",
        "agnostic", "informed", "none". "agnostic" is every 45 degrees; feature grids
        cannot be turned, and are not. "informed" is "agnostic" if the training images
        are turned themselves: if the turned copies lower their median held-out score
        by a tenth. "auto" is "agnostic" for up to 8 images, beyond which they show the
        poses themselves and copies cost more than they give. Turn nothing where
        orientation is the defect. The images as they are, angle 0, are always there.
    masking : {"auto", True, False}, default="auto"
        Whether the ground of test images is left out: patches whose score on the first
        principal component of the image says background. "auto" decides once, in
        ``fit``: on if the masks of the training images look like one object with ground
        around it. The bank holds the ground either way.
    mask_threshold : float or "relative", default="relative"
        Score on the component above which a patch is foreground. "relative" is 0.24
        times the median length of the tokens: about 10 for genuine DINOv2 ViT-S.
    mask_morphology : {"grid", "raster"}, default="grid"
        How the mask is dilated and closed; "raster" is the official code's way, on the
        flattened mask.
    masked_score : {"skip", "zero"}, default="skip"
        What a masked patch contributes. "skip": nothing, if fewer patches are left than
        the top fraction asks for, the mean goes over those. "zero": a distance of 0,
        as in the official code.
    n_neighbors : int, default=1
        Distances to so many nearest vectors are averaged.
    bank_size : int, float or None, default=4000
        Most vectors that the bank keeps; a float is a share of them all, None keeps
        all. A coreset of a tenth costs no accuracy in the benchmarks.
    sampling : {"coreset", "random"}, default="coreset"
        How they are chosen: greedy k-centre or at random.
    bank_dtype : {"float32", "float16"}, default="float32"
        Storage of the bank; distances are computed in float32 from it.
    search : {"exact", "approximate"}, default="exact"
        "approximate" asks an index of faiss (``pip install 'skdinoad[faiss]'``).
    nearest_images : int or None, default=None
        An image is compared with the vectors of so many training images alone, those
        most like it as a whole: whose mean patch has the highest cosine similarity.
        For thousands of training images with ``bank_size=None``, of several products
        say: the cost of a score then does not grow with their number. None compares
        with all.
    smoothing_sigma : float, default=4
        Standard deviation, in pixels of the image given, of a Gaussian over the map.
        It is for the eye and for pixel metrics; the image score does not see it. Maps
        of feature grids are not smoothed.
    aggregate : {"top", "max", "mean", "p99"}, default="top"
        How patch scores become the image score; "top" averages the largest.
    top_fraction : float, default=0.01
        Share of all the image's patches, masked or not, that "top" averages: the
        largest one below 100 patches.
    map_layers : "auto" or sequence of int, default="auto"
        Layers whose distances heat maps show, of those that ``features`` takes; the
        image's score is the mean over all. "auto" follows what is known of the
        weights (``features_.map_layers_``).
    contamination : "auto" or float, default="auto"
        Share of good images that may be flagged. "auto" puts the threshold at the
        least normal held-out training image.
    device : str, default="auto"
        Where distances are computed; "auto" takes a GPU if there is one.
    random_state : int, RandomState instance or None, default=None
        Only ``sampling="random"`` and ``search="approximate"`` use it.
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
    bank_ : MemoryBank
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
    offset_ : float
        Threshold on ``score_samples``; NaN after a fit on one image.
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
    With ViT-S at 224 pixels an image and rotation gives 256 vectors, 0.4 MB for each
    layer. Searching 1000 vectors costs 0.2 GFLOP per image and layer, the network 12:
    ``bank_size`` is what keeps scoring fast with many images. One choice of vectors
    serves all layers.

    Looking at the nearest images first is RAD's idea [1]_. There the class tokens are
    compared; the mean patch needs none, does not see what alpha hides or the mask
    leaves out, and is there for feature grids too.

    References
    ----------
    Damm, Laszkiewicz, Lederer, Fischer, "AnomalyDINO: Boosting Patch-Based Few-Shot
    Anomaly Detection with DINOv2", WACV 2025, arXiv 2405.14529; official code
    github.com/dammsi/AnomalyDINO. Our defaults differ from it in the automatic verdict
    and relative threshold of the masks, two-dimensional morphology, and heat maps that
    land where the patches are; :meth:`from_paper` gives its configuration.

    .. [1] Zhang, Li, Henderson, Aragon-Camarasa, Long, "Is Training Necessary for
       Anomaly Detection?", 2026, arXiv 2601.22763: global context retrieval before
       patches are matched.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import AnomalyDINO
    >>> rng = np.random.default_rng(0)
    >>> F = rng.normal(size=(3, 4, 4, 8)).astype(np.float32)   # 3 good images
    >>> detector = AnomalyDINO(masking=False).fit(F)
    >>> bool(detector.score_samples(F[:, ::-1]).min() > -1e-6)   # upside down: known
    True
    >>> detector.predict(-F[:1])
    array([-1])
    """

    _parameter_constraints = {
        **LayeredDetector._parameter_constraints,
        "rotations": [
            StrOptions({"auto", "agnostic", "informed", "none"}),
            "array-like",
        ],
        "masking": [StrOptions({"auto"}), Options(bool, {True, False})],
        "mask_threshold": [
            StrOptions({"relative"}),
            Interval(Real, 0, None, closed="left"),
        ],
        "mask_morphology": [StrOptions({"grid", "raster"})],
        "masked_score": [StrOptions({"skip", "zero"})],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "bank_size": [
            None,
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "sampling": [StrOptions({"coreset", "random"})],
        "bank_dtype": [StrOptions({"float32", "float16"})],
        "search": [StrOptions({"exact", "approximate"})],
        "nearest_images": [None, Interval(Integral, 1, None, closed="left")],
        "smoothing_sigma": [Interval(Real, 0, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        features: FeaturesLike = None,
        rotations: Literal["auto", "informed", "agnostic", "none"]
        | Sequence[float] = "auto",
        masking: Literal["auto"] | bool = "auto",
        mask_threshold: Literal["relative"] | float = "relative",
        mask_morphology: Literal["grid", "raster"] = "grid",
        masked_score: Literal["skip", "zero"] = "skip",
        n_neighbors: int = 1,
        bank_size: float | None = 4000,
        sampling: Literal["coreset", "random"] = "coreset",
        bank_dtype: Literal["float32", "float16"] = "float32",
        search: Literal["exact", "approximate"] = "exact",
        nearest_images: int | None = None,
        smoothing_sigma: float = 4.0,
        aggregate: Aggregate = "top",
        top_fraction: float = 0.01,
        map_layers: Literal["auto"] | Sequence[int] = "auto",
        contamination: Contamination = "auto",
        device: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.map_layers = map_layers
        self.rotations = rotations
        self.masking = masking
        self.mask_threshold = mask_threshold
        self.mask_morphology = mask_morphology
        self.masked_score = masked_score
        self.n_neighbors = n_neighbors
        self.bank_size = bank_size
        self.sampling = sampling
        self.bank_dtype = bank_dtype
        self.search = search
        self.nearest_images = nearest_images
        self.smoothing_sigma = smoothing_sigma
        self.aggregate = aggregate
        self.top_fraction = top_fraction
        self.contamination = contamination
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

        Last block after the final LayerNorm, 448 pixels, cropped to whole patches,
        eight rotations, masks for the categories that its table masks (absolute
        threshold 10, raster morphology, zeros for masked patches). On equal weights
        the image scores are those of the official code, but where the first component
        of a mask points the other way: its sign is an accident of the solver there,
        and ours is the side that covers the image's centre (9 of 60 images tried).
        Maps differ in that ours land where the patches are. One small difference is
        left: position embeddings are resampled by timm, not by DINOv2's own code. With
        weights that are not genuine the scores are not the published ones.

        Parameters
        ----------
        shots : int
            Training images to be used, the first of the sorted files: they are yours to
            pass to ``fit``. 0 = the batched zero-shot variant: 672 pixels, no rotation;
            see :meth:`score_batch` with ``neighbor_fraction=0.001``.
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
        >>> detector.masking, detector.mask_threshold, detector.features.image_size
        (True, 10.0, 448)
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
                image_size=size, resize="crop", layers="last", norm=True
            ),
            "rotations": "agnostic" if shots else "none",
            "masking": category in MASKED,
            "mask_threshold": 10.0,
            "mask_morphology": "raster",
            "masked_score": "zero",
            "bank_size": None,
        }
        return cls(**{**official, **parameters})

    @undisturbed()
    def partial_fit(self, X: ImagesLike, y: LabelsLike | None = None) -> Self:
        """Add more good images to the bank.

        Verdicts on masking and rotation stay those of the first fit. If all images
        together would give the same, and as long as the bank keeps all vectors, scores
        and threshold then equal those of one fit on all images. Beyond ``bank_size``
        it is thinned again, and the held-out scores of the earlier images stay.

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
            self._images = [Bunch(**image) for image in self._images]
            self._extend(X, self._read(X))
            self._learn_more_seen(X)
            self._set_offset()
        return self

    # -- the parts of a detector ------------------------------------------------------

    def _default_features(self):
        return DinoFeatures()

    def _fit_images(self, X):
        self._check_search()
        images = self._read(X)
        self.masking_, self.mask_statistics_ = self._verdict(images)
        n, can_turn = len(self._distinct()), self.features_ is not None
        self.angles_ = chosen_angles(self.rotations, n, can_turn)
        self._images, self._seen, self.bank_ = [], 0, None
        self._begin()
        self._extend(X, images)

    def _check_search(self):
        if self.search == "exact":
            return
        import_faiss()  # its absence should not show after minutes of work
        if self.nearest_images is not None:
            raise ValueError(
                f"nearest_images={self.nearest_images} with search='approximate': an "
                "index holds the vectors of all images. Leave one of the two out."
            )

    def _begin(self):
        self.rotation_gain_ = None
        self._fitted = {name: getattr(self, name) for name in _FIXED}

    def _keeping_all(self):
        """Return an unfitted copy whose bank is all that one fit would see."""
        self._check_search()
        whole = {"bank_size": None, "bank_dtype": "float32", "search": "exact"}
        if np.array_equal(self.rotations, "informed"):
            whole["rotations"] = "agnostic"
        return clone(self).set_params(contamination="auto", **whole)

    def _join(self, parts):
        """Do what is left to do behind the network."""
        self._images = [Bunch(**image) for part in parts for image in part._images]
        if any("mask" not in image for image in self._images):
            raise ValueError("A detector of an earlier version: fit it again.")
        self.masking_, self.mask_statistics_ = self._verdict(self._images)
        for image in self._images:
            image.scored = self._to_score(image)
        self._begin()
        bank, can_turn = self._joined_bank(parts), self.features_ is not None
        wanted = chosen_angles(self.rotations, len(self._distinct()), can_turn)
        self.angles_ = merged_angles(wanted, [part.angles_ for part in parts])
        if self.angles_ == (0,):
            bank = self._without_turns(bank)
        grids = [grid for part in parts for grid in part._known_grids()]
        judge = not can_turn or bank.turned.any()
        self._settle(bank, grids, judge=judge and all(g is not None for g in grids))

    def _joined_bank(self, parts):
        banks, self._n_layers = [part.bank_ for part in parts], parts[0]._n_layers
        for bank in banks:
            expected = banks[0].vectors.shape[1]
            _check_channels("A detector", bank.vectors.shape[1], expected)
        self._seen = sum(part._seen for part in parts)
        firsts = np.cumsum([0] + [len(part._images) for part in parts])
        return MemoryBank.merge(banks, firsts, self.bank_dtype)

    def _score_grid(self, F):
        known = self.bank_.vectors.shape[1]
        _check_channels("An image", F.shape[-2] * F.shape[-1], known)
        D = [self._distances(_side_by_side(grid)) for grid in F]
        return np.stack([self._fused(self._fill(grid)) for grid in D])

    def _holdout_grids(self):
        held = [self._images[i].held for i in self._distinct()]
        return [self._fused(self._fill(D)) for D in held]

    def _aggregate(self, D):
        return super()._aggregate(D, whole=True)

    def _map(self, grid, frame, size):
        heat = super()._map(grid, frame, size)
        inside = None if self.masked_score == "zero" else heat > 0
        return smooth_pixels(heat, self._sigma(self.smoothing_sigma), inside=inside)

    def _batches(self, X, task):
        """Yield features with NaN for the ground; say once whose mask was empty."""
        batches = super()._batches(X, task)
        if task == "fit" or not self.masking_:
            yield from batches
            return
        empty, row = [], 0
        for F, frames in batches:
            masks = [self._mask(grid) for grid in F]
            empty += [name_of(X, row + i) for i, m in enumerate(masks) if not m.any()]
            row += len(masks)
            masked = [without_ground(grid, mask) for grid, mask in zip(F, masks)]
            yield (np.stack(masked) if isinstance(F, np.ndarray) else masked), frames
        warn_of_empty_masks(empty, row, stacklevel=7)

    # -- private: reading images ------------------------------------------------------

    def _read(self, X):
        """Return what is needed of each image; its raw features are dropped."""
        images, row = [], -1
        for F, frames in super()._batches(X, "fit"):
            for grid, frame in zip(F, frames):
                row += 1
                self._check_features(grid)
                if np.isfinite(grid).any():
                    images.append(self._record(row, grid, frame))
                    self._n_layers = grid.shape[2]
        known = getattr(self, "bank_", None)
        channels = None if known is None else known.vectors.shape[1]
        for image in images:
            channels = channels or image.grid.shape[-1]
            name = name_of(X, image.row)
            _check_channels(name, image.grid.shape[-1], channels)
        self._take_stock(X, [image.row for image in images])
        return images

    def _record(self, row, grid, frame):
        grid = np.asarray(grid, np.float32)
        wanted = self.masking or getattr(self, "masking_", False)
        mask = self._mask(grid) if wanted else None
        auto = self.masking == "auto"
        seen = mask_statistics(grid[:, :, -1], mask) if auto else None
        grid = _side_by_side(grid)
        about = {"valid": np.isfinite(grid).all(-1), "mask": mask, "statistics": seen}
        about["whole"] = _mean_patches(grid, about["valid"], mask)
        return Bunch(row=row, grid=grid, frame=frame, **about)

    def _mask(self, grid):
        """Return which patches show the object, as the last layer sees it."""
        self._check_features(grid)
        return foreground(grid[:, :, -1], self.mask_threshold, self.mask_morphology)

    def _to_score(self, image):
        """Return which patches of an image get a score."""
        use = self.masking_ and image.mask.any()
        return image.valid & image.mask if use else image.valid

    def _verdict(self, images):
        """Return whether to mask, and what speaks for it."""
        if self.masking != "auto":
            return self.masking, None
        statistics = median_of([image.statistics for image in images])
        return masking_helps(statistics), statistics

    # -- private: the bank ------------------------------------------------------------

    def _extend(self, X, images):
        """Add images to the bank, and score each of them by a bank without it."""
        grids = self._known_grids() + [image.grid for image in images]
        first = len(self._images)
        bank = MemoryBank.join(self._parts(X, images, first), self._n_layers)
        self._seen += len(bank)
        bank = self.bank_.extend(bank) if first else bank
        for image in images:
            about = {name: image[name] for name in _KEPT}
            scored = self._to_score(image)
            self._images.append(Bunch(scored=scored, held=None, **about))
        self._settle(bank, grids, judge=not first)

    def _settle(self, bank, grids, *, judge):
        """Keep what is wanted of a bank of all images, and hold out each of them.

        An image whose grid is None stays as it was held out before. ``judge``: whether
        to decide on turned copies, if that is asked for.
        """
        if judge and np.array_equal(self.rotations, "informed"):
            bank = self._keep_useful_turns(bank, grids)
        self.bank_ = self._thinned(bank)
        for i, grid in enumerate(grids):
            if grid is not None:
                self._images[i].held = self._hold_out(self.bank_, i, grid)
        held = [self._images[i].held for i in self._distinct()]
        self._learn_scales(held, self.bank_.layer, self._n_layers, squared=True)
        if self.search == "approximate":
            self.bank_.indexed(check_random_state(self.random_state).randint(2**31))

    def _known_grids(self):
        """Return the grids of the images in the bank; None where it has lost some."""
        grids = []
        for i, image in enumerate(self._images):
            grid = None
            if len(self.bank_) == self._seen:
                channels = self.bank_.vectors.shape[1]
                grid = np.full((*image.valid.shape, channels), np.nan, np.float32)
                grid[image.valid] = self.bank_.of(i)
            grids.append(grid)
        return grids

    def _parts(self, X, images, first):
        """Return (vectors, image, turned) of each picture, those as given first."""
        parts = [self._part(image.grid, first + i) for i, image in enumerate(images)]
        turns = [angle for angle in self.angles_ if angle]
        if turns:
            numbered = enumerate(images, start=first)
            quiet = not self.verbose
            for i, image in tqdm(numbered, "turn", len(images), disable=quiet):
                pixels = X[image.row]
                copies = [rotated(pixels, angle) for angle in turns]
                F, _ = self._read_batch(copies)
                parts += [self._part(_side_by_side(g), i, turned=True) for g in F]
        return parts

    def _part(self, grid, i, *, turned=False):
        vectors = grid[np.isfinite(grid).all(-1)]
        return vectors.astype(self.bank_dtype), i, turned

    def _thinned(self, bank):
        if self.bank_size is None:
            return bank
        share = isinstance(self.bank_size, Real) and self.bank_size < 1
        size = round(self.bank_size * self._seen) if share else self.bank_size
        state = check_random_state(self.random_state)
        return bank.thinned(max(1, size), self.sampling, state, verbose=self.verbose)

    def _keep_useful_turns(self, bank, grids):
        """Drop the turned copies unless they bring held-out images nearer."""
        if len(self._distinct()) == 1:
            return bank
        plain, turned = bank.select(~bank.turned), bank
        held = [self._hold_out(plain, *x) for x in enumerate(grids)]
        self._learn_scales(held, plain.layer, self._n_layers, squared=True)
        usual = [self._usual_score(b, grids) for b in (plain, turned)]
        self.rotation_gain_, useful = worth_turning(*usual)
        if useful:
            return bank
        self.angles_ = (0,)
        return self._without_turns(bank)

    def _without_turns(self, bank):
        self._seen = sum(int(image.valid.sum()) for image in self._images)
        return bank.select(~bank.turned) if bank.turned.any() else bank

    def _usual_score(self, bank, grids):
        """Return the median image score of training images held out."""
        held = [self._fused(self._hold_out(bank, *x)) for x in enumerate(grids)]
        return np.median(self._aggregate(held))

    # -- private: distances -----------------------------------------------------------

    def _hold_out(self, bank, i, grid):
        grid = np.where(self._images[i].scored[..., None], grid, np.float32(np.nan))
        copies = np.flatnonzero(self._first == self._first[i])
        return self._distances(grid, bank, without=copies)

    def _distances(self, grid, bank=None, without=None):
        """Return the cosine distances (l, h, w) of unit vectors, NaN where invalid."""
        bank = self.bank_ if bank is None else bank
        valid = np.isfinite(grid).all(-1)
        D = np.full((self._n_layers, *valid.shape), np.nan, np.float32)
        how = {"k": self.n_neighbors, "device": resolve_device(self.device)}
        if self.nearest_images is not None and valid.any():
            bank = self._nearest_images(bank, grid[valid], without)
        # Between unit vectors 1 - cos is half the squared distance.
        D[:, valid] = bank.squared_distances(grid[valid], without=without, **how) / 2
        return D

    def _nearest_images(self, bank, vectors, without):
        """Return the part of a bank that comes from the images most like this one."""
        images = np.setdiff1d(bank.image, [] if without is None else without)
        if len(images) <= self.nearest_images:
            return bank
        seen = int(self.masking_)
        wholes = np.stack([self._images[i].whole[seen] for i in images])
        order = np.argsort(-(wholes @ _mean_patch(vectors)), kind="stable")
        return bank.select(np.isin(bank.image, images[order[: self.nearest_images]]))

    def _fill(self, D):
        """Give masked patches the distance that masked_score asks for."""
        fill = self.masking_ and self.masked_score == "zero" and np.isfinite(D).any()
        return np.nan_to_num(D) if fill else D


def _side_by_side(grid):
    """Return features (h, w, l, c) of unit length as (h, w, l * c)."""
    return unit(np.asarray(grid, np.float32)).reshape(*grid.shape[:2], -1)


def _mean_patches(grid, valid, mask):
    """Return the mean directions (2, l * c) of an image, and of its object alone."""
    masked = mask is not None and (valid & mask).any()
    seen = valid & mask if masked else valid
    return np.stack([_mean_patch(grid[valid]), _mean_patch(grid[seen])])


def _mean_patch(vectors):
    """Return the mean direction (l * c,) of patches (m, l * c)."""
    return unit(vectors.mean(0, dtype=np.float32))


def _check_channels(name, channels, expected):
    if channels != expected:
        raise ValueError(
            f"{name} has features of {channels} channels, the bank of {expected}: use "
            "one extractor for all."
        )
