"""Patch features of a frozen Vision Transformer."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from skdinoad._arrays.geometry import resize_affine
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state, resolve_device
from skdinoad._inputs.estimators import whole_numbers
from skdinoad._typing import ImagesLike, LabelsLike, Self, Size
from skdinoad.features._backbones import load_backbone
from skdinoad.features._blocks import (
    block_tokens,
    grid_problem,
    has_class_token,
    stacked_tokens,
)
from skdinoad.features._engines import (
    ON_CPU,
    check_installed,
    choose,
    engine_tokens,
)
from skdinoad.features._extractor import Extractor
from skdinoad.features._parts import CacheLike, Runtime, Tiles
from skdinoad.features._tiles import tiled_tokens

__all__ = ["DinoFeatures"]

#: Range of the number of whole patches for which an image keeps its size, relative to
#: that of a square image of the size that the weights call for.
_FEWEST, _MOST = 200 / 256, 400 / 256

#: The smaller edge of ``image_size="fast"``, in pixels.
_FAST = 224

#: Evidence for ``layers="middle"`` of weights without blocks of their own for it.
_MIDDLE = "published: Dinomaly (2 to 9 of 12), arXiv 2405.14325"

#: Number of images of ``fit`` on which an engine is compared with torch.
_COMPARED = 4


class DinoFeatures(Extractor):
    """Extract grids of DINOv2 patch features from images.

    Each image is resized so that both sides are multiples of the patch size. By
    default nothing is cropped, padded or shifted, and an affine gives the exact
    position of each patch in the image. ``fit`` does not train the network; it checks
    the parameters and records which weights are used.

    Parameters
    ----------
    model : str, default="vit_small_patch14_dinov2.lvd142m"
        Any Vision Transformer of timm, with its pretrained tag. A few (BEiT, CaiT,
        ConViT, relative positions) support one image size only; set ``image_size`` to
        this (height, width).
    weights : str or path, default="auto"
        "auto" uses a file in the folder of the environment variable
        ``SKDINOAD_WEIGHTS``, else the original weights from the local hub cache, else
        downloads them, else uses those in the package of ``skdinoad[offline]``. "hub"
        and "package" restrict it to one source. A path names a ``.safetensors``,
        ``.pt`` or ``.pth`` file; the last two are loaded with ``weights_only``.
        "random:SEED" draws random weights, for tests.
    layers : "auto", "last", "middle", int or sequence of int, default="auto"
        Blocks whose tokens are taken, 0-based, negative from the end. "auto" takes
        several blocks that suit the weights (``evidence_`` says which, and why);
        detectors compare each by itself. "middle" takes eight blocks from a sixth to
        three quarters of the depth, 2 to 9 of 12, as Dinomaly does; one block later for
        the packaged copy. The network stops at the last block needed.
    norm : "auto" or bool, default="auto"
        Whether the network's final LayerNorm is applied to every layer taken. "auto"
        does what suits the weights; with explicit layers it is on for the last block
        and off otherwise.
    groups : int or None, default=None
        Into how many groups the layers, in the order given, are averaged; None keeps
        them all. Groups lie side by side in the channels.
    image_size : "auto", "fast", int, (int, int) or None, default="auto"
        The smaller edge, the exact (height, width), or None for the image's own
        size. Rounded to whole patches; an int keeps the aspect ratio to within half
        a patch. "auto" takes the size that suits the weights: 224 for the packaged
        copy, 448 for genuine DINOv2 and DINOv3, the size of pretraining for others. It
        keeps the size of an image that consists of about as many whole patches, such as
        an aligned one. "fast" takes 224 likewise, with any weights. **A defect should
        be larger than 10 pixels at this size**: raise it for smaller ones.
    cropping : None, "patches", int or (int, int), default=None
        How an image comes to whole patches. None resizes each side to the nearest
        whole number of them. "patches" resizes to exactly ``image_size``, keeping the
        aspect ratio, and leaves out what is beyond the last whole patch on the right
        and at the bottom, as the code of the DINOv2 based papers does. A size keeps
        the central part of the resized image that is that large.
    tiles : Tiles or None, default=None
        For large images with small defects: the network sees one tile after the other.
        None: the image as a whole.
    interpolation : {"bicubic", "bilinear"}, default="bicubic"
        How pixels are resized, antialiased in either case.
    runtime : Runtime or None, default=None
        Engine, precision, device and batch size of the forward pass; None means
        ``Runtime()``. ``runtime__batch_size`` and the like can be searched either way.
    cache : None, False, path, joblib.Memory or DiskCache, default=None
        Where features are kept, per image and by content: None in this process (up
        to 1 GiB), False nowhere, else on disk; a :class:`~skdinoad.DiskCache` limits
        the size of its folder.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that map to 0 and 255, learned from training images of more than 8 bits;
        None for 8-bit images.
    weights_name_ : str
        Name and source of the weights.
    weights_digest_ : str
        sha256 of the network's weights.
    layers_ : tuple of int
        The blocks used, 0-based.
    map_layers_ : tuple of int
        The blocks of ``layers_`` to use for heat maps.
    image_size_ : int, (int, int) or None
        The ``image_size`` used.
    evidence_ : dict of str to str
        For each parameter that follows the weights, where its value comes from:
        "measured: command", "published: source" or "guess: reason".
    n_groups_ : int
        Number of layer groups concatenated in the channels.
    norm_ : bool
        Whether the final LayerNorm is applied.
    patch_size_ : int
        Side of a patch in pixels.
    has_class_token_ : bool
        Whether the first prefix token of ``transform_tokens`` is a class token.
    engine_ : str
        Engine of the forward pass, chosen in ``fit`` and kept in saved models.

    See Also
    --------
    PCAAligner : Aligns parts before feature extraction.
    DinoPatch : Scores the features.

    References
    ----------
    Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision",
    TMLR 2024, arXiv 2304.07193. Network and weight loading: timm.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoFeatures
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    >>> F, affines = features.transform_affines(np.zeros((2, 60, 90, 3)))
    >>> F.shape, affines[0, 0].tolist()
    ((2, 4, 6, 64), [15.0, 0.0, 7.0])
    """

    _parameter_constraints = {
        **Extractor._parameter_constraints,
        "image_size": [
            StrOptions({"auto", "fast"}),
            *Extractor._parameter_constraints["image_size"],
        ],
        "layers": [StrOptions({"auto", "last", "middle"}), Integral, "array-like"],
        "norm": [StrOptions({"auto"}), "boolean"],
        "groups": [None, Interval(Integral, 1, None, closed="left")],
        "cropping": [
            None,
            StrOptions({"patches"}),
            Interval(Integral, 1, None, closed="left"),
            tuple,
            list,
        ],
        "tiles": [Tiles, None],
    }

    _kind = "vit"

    #: Until ``fit`` chooses another.
    engine_ = "torch"

    def __init__(
        self,
        *,
        model: str = "vit_small_patch14_dinov2.lvd142m",
        weights: str | Path = "auto",
        layers: Literal["auto", "last", "middle"] | int | Sequence[int] = "auto",
        norm: Literal["auto"] | bool = "auto",
        groups: int | None = None,
        image_size: Literal["auto", "fast"] | Size | None = "auto",
        cropping: Literal["patches"] | Size | None = None,
        tiles: Tiles | None = None,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        runtime: Runtime | None = None,
        cache: CacheLike = None,
    ) -> None:
        self.model = model
        self.weights = weights
        self.layers = layers
        self.norm = norm
        self.groups = groups
        self.image_size = image_size
        self.cropping = cropping
        self.tiles = tiles
        self.interpolation = interpolation
        self.runtime = runtime
        self.cache = cache

    @isolated_torch_state()
    def fit(self, X: ImagesLike | None = None, y: LabelsLike | None = None) -> Self:
        """Check the parameters and record which weights are used.

        Parameters
        ----------
        X : array, list of images or paths, or None
            The value range is learned from images of more than 8 bits. An ``engine``
            other than "torch" is compared with torch on these images. Colour images are
            RGB; convert OpenCV's BGR with ``image[..., ::-1]``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous. **Rows labelled anomalous are left out.**

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter is invalid, the model is unknown or requires another image
            size, the weights do not fit it, X holds no images, or an ``engine`` cannot
            compile the network, differs from torch, or is used without images.
        ImportError
            If an ``engine`` is not installed; the message names the extra.
        WeightsNotFoundError
            If no weights were found; the message lists remedies.
        """
        with self._learning():
            self._look_at_blocks(self._load())
            self._check_sizes()
            self._check_engine(X)
            images = self._normals(X, y)
            if self._may_choose():
                self._choose_engine(images)
        return self

    @isolated_torch_state()
    def transform_tokens(
        self, X: ImagesLike
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Return the features of patches and prefix tokens, and the frames.

        Parameters
        ----------
        X : array, list of images or paths
            As in ``transform``.

        Returns
        -------
        grids : list of ndarray of shape (h, w, c), float32
        prefix : ndarray of shape (n, p, c), float32
            Class token and registers; p is 0 if the network has none.
        affines : ndarray of shape (n, 3, 3), float64
            As in ``transform_affines``.
        """
        return self._read(X)

    # -- private ----------------------------------------------------------------------

    @property
    def _most_patches(self):
        """The patches that an image may have; attention sees those of a tile only."""
        return Extractor._most_patches * (1 if self.tiles is None else 4)

    @property
    def images_at_once(self) -> int:
        return self._part("runtime").batch_size if self.tiles is None else 1

    def _look_at_blocks(self, backbone):
        """Set the layers to use and the properties of the network's tokens."""
        self.layers_, self.norm_ = self._layers(backbone)
        known, auto = backbone.known, _is(self.layers, "auto")
        self.map_layers_ = (known.map_layers if auto else None) or self.layers_
        self.texture_ = known.texture
        self.image_size_ = self.image_size
        if _is(self.image_size, "fast"):
            self.image_size_ = _FAST
        elif _is(self.image_size, "auto"):
            native = min(backbone.network.pretrained_cfg["input_size"][1:])
            self.image_size_ = known.image_size or native
        self.evidence_ = self._evidence(dict(known.evidence))
        self.n_groups_ = self._groups()
        self.patch_size_ = backbone.patch_size
        self.has_class_token_ = has_class_token(backbone.network)

    def _evidence(self, known):
        """Return the evidence for the parameters that follow the weights."""
        follows = {
            "layers": _is(self.layers, "auto") or _is(self.layers, "middle"),
            "map_layers": _is(self.layers, "auto"),
            "norm": _is(self.layers, "auto") and _is(self.norm, "auto"),
            "image_size": _is(self.image_size, "auto"),
        }
        if _is(self.layers, "middle"):
            known = {**known, "layers": known.get("middle", _MIDDLE)}
        return {k: known[k] for k, wanted in follows.items() if wanted and k in known}

    def _layers(self, backbone):
        """Return the 0-based blocks to use and whether to apply the final norm."""
        known, depth = backbone.known, backbone.depth
        if isinstance(self.layers, str):
            named = {
                "auto": known.layers,
                "last": (-1,),
                "middle": known.middle or _middle(depth),
            }
            chosen = named[self.layers]
        else:
            chosen = whole_numbers(self.layers)
        known_blocks = [i for i in chosen if i in range(-depth, depth)]
        layers = tuple(int(i) % depth for i in known_blocks)
        if len(set(layers)) < len(chosen) or not chosen:
            raise ValueError(
                f"layers={self.layers!r}: expected different block numbers from "
                f"{-depth} to {depth - 1}; {self.model} has {depth} blocks."
            )
        if self.norm != "auto":
            return layers, bool(self.norm)
        if _is(self.layers, "auto"):
            return layers, known.norm
        return layers, layers == (depth - 1,)

    def _groups(self):
        """Return how many groups: equal ones, so their mean is that of all layers."""
        groups = self.groups or len(self.layers_)
        if len(self.layers_) % groups:
            raise ValueError(
                f"groups={groups} does not divide the {len(self.layers_)} layers "
                f"{self.layers_} into groups of equal size."
            )
        return groups

    def _check_sizes(self):
        """Raise an error if the network does not support the image sizes."""
        network = load_backbone(self.model, str(self.weights)).network
        if self.tiles is not None and self.tiles.size % self.patch_size_:
            raise ValueError(
                f"tiles of size={self.tiles.size} do not hold whole patches of "
                f"{self.patch_size_} pixels: pass a multiple of it."
            )
        problem = grid_problem(network, self.patch_size_, (2, 3))
        if problem and np.ndim(self.image_size):  # all images have the same grid
            grid = self._tile(self._plan(self.image_size)[1])
            problem = grid_problem(network, self.patch_size_, grid)
        if problem:
            own = network.pretrained_cfg["input_size"][1:]
            raise ValueError(
                f"model={self.model!r} does not take images of any size, and "
                f"image_size={self.image_size} is not its own: pass image_size={own}, "
                "or a model such as 'vit_small_patch14_dinov2.lvd142m' (timm says: "
                f"{problem})."
            )

    def _check_engine(self, X):
        """Refuse an engine that is not installed, or cannot compute as is asked."""
        runtime = self._part("runtime")
        if runtime.engine != "auto":
            check_installed(runtime.engine)
        if runtime.engine != "torch" and X is None:
            raise ValueError(
                f"engine={runtime.engine!r} is compared with torch on images: fit on "
                "some good ones first, or pass engine='torch'."
            )
        plain = runtime.dtype == "float32" and runtime.device in ("auto", "cpu")
        if runtime.engine in ON_CPU and not plain:
            raise ValueError(
                f"engine={runtime.engine!r} computes in float32 on the CPU, but "
                f"dtype={runtime.dtype!r} and device={runtime.device!r}: pass "
                "dtype='float32' and device='cpu', or engine='torch'."
            )

    def _may_choose(self):
        """Whether there is more than torch: of what "auto" tries, on the CPU alone."""
        runtime = self._part("runtime")
        if runtime.engine != "auto":
            return runtime.engine != "torch"
        return (
            runtime.dtype == "float32" and resolve_device(runtime.device).type == "cpu"
        )

    def _choose_engine(self, images):
        """Set the engine asked for, if it says what torch says of some images."""
        runtime = self._part("runtime")
        rows = np.linspace(0, len(images) - 1, min(len(images), _COMPARED)).astype(int)
        some = list(images[rows])
        plans = tuple(self._plan(image.shape[:2]) for image in some)
        key = (self._settings(), plans, runtime.device, runtime.batch_size)
        chosen = choose(runtime.engine, lambda name: self._layers_by(name, some), key)
        del self.engine_
        if chosen != "torch":
            self.engine_ = chosen

    def _layers_by(self, engine, images):
        """Return the tokens (t, l, c) of images by an engine, which remains set."""
        self.engine_, step = engine, self.images_at_once
        parts = [images[i : i + step] for i in range(0, len(images), step)]
        tokens = [x for part in parts for x in self._forward(part)]
        return np.concatenate([x.reshape(len(x), self.n_groups_, -1) for x in tokens])

    def _shaping(self):
        looking = (self.cropping,)
        if self.tiles is not None:
            looking = (*looking, self.tiles.size, self.tiles.overlap)
        if self.engine_ != "torch":
            looking = (*looking, self.engine_)
        return (*looking, self.layers_, self.norm_, self.n_groups_)

    def _tile(self, grid):
        """Return the patches (h, w) that the network sees of a grid at a time."""
        if self.tiles is None:
            return grid
        return tuple(min(edge, self.tiles.size // self.patch_size_) for edge in grid)

    def _affine(self, size):
        """Return the affine from patch index to image pixel."""
        resized, grid = self._plan(size)
        covered = tuple(edge * self.patch_size_ for edge in grid)
        crop = np.eye(3)
        crop[:2, 2] = self._corner(resized, covered)[::-1]
        return resize_affine(size, resized) @ crop @ resize_affine(covered, grid)

    def _corner(self, resized, covered):
        """Return the (row, column) in the resized image where the patches begin."""
        if self.cropping in (None, "patches"):
            return 0, 0
        return tuple((a - b) // 2 for a, b in zip(resized, covered))

    def _wanted(self, size):
        """Return the size in pixels to which an image is resized, before rounding."""
        if not isinstance(self.image_size, str):
            return super()._wanted(size)
        grid = np.divide(size, self.patch_size_)
        share = grid.prod() / (self.image_size_ / self.patch_size_) ** 2
        fits = (grid % 1 == 0).all() and _FEWEST <= share <= _MOST
        return size if fits else np.multiply(size, self.image_size_ / min(size))

    def _plan(self, size):
        """Return the pixels (height, width) to resize to, and the patch grid (h, w)."""
        wanted = self._wanted(size)
        if self.cropping != "patches":
            grid = tuple(max(1, round(edge / self.patch_size_)) for edge in wanted)
            resized = tuple(edge * self.patch_size_ for edge in grid)
        else:
            # The small term prevents the smaller edge from falling below image_size.
            resized = tuple(int(edge + 1e-6) for edge in wanted)
            grid = tuple(edge // self.patch_size_ for edge in resized)
        if self.cropping not in (None, "patches"):
            crop = np.broadcast_to(self.cropping, 2) // self.patch_size_
            grid = tuple(int(edge) for edge in np.minimum(grid, crop))
        self._check_grid(size, grid)
        return resized, grid

    def _check_grid(self, size, grid):
        super()._check_grid(size, grid)
        if 0 in grid:
            raise ValueError(
                f"An image of shape {size} with image_size={self.image_size}, "
                f"cropping={self.cropping!r} holds no whole patch of "
                f"{self.patch_size_} pixels. Raise image_size or cropping."
            )

    @torch.inference_mode()
    def _run(self, images, resized, grid):
        """Return float32 tokens (n, p + h * w, c) or (n, p + h * w, l, c)."""
        covered = tuple(edge * self.patch_size_ for edge in grid)
        top, left = self._corner(resized, covered)
        x = self._pixels(images, resized)
        x = x[..., top : top + covered[0], left : left + covered[1]]
        if self._tile(grid) == grid:
            return self._tokens_of(x)
        size, patch = self.tiles.size // self.patch_size_, self.patch_size_
        how = (patch, size, self.tiles.overlap, self._part("runtime").batch_size)
        parts = [tiled_tokens(self._tokens_of, image, *how) for image in x.split(1)]
        return np.concatenate(parts)

    def _tokens_of(self, x):
        """Return the tokens of preprocessed images."""
        tokens = self._stacked(x)
        if self.n_groups_ < len(self.layers_):
            tokens = tokens.unflatten(2, (self.n_groups_, -1)).mean(3)
        return tokens.flatten(2).float().cpu().numpy()

    def _stacked(self, x):
        """Return the tokens (n, p + h * w, l, c) of all layers, by the engine."""
        if self.engine_ == "torch":
            return stacked_tokens(self._blocks(x))
        how = (self._backbone(), x, self.layers_, self.norm_)
        return engine_tokens(self.engine_, *how)

    def _maps(self, x):
        """Return the maps of all layers, (n, c, h, w) each; gradients may pass."""
        device, dtype = self._device_and_dtype()
        return [grid for _, grid in self._blocks(x.to(device=device, dtype=dtype))]

    def _blocks(self, x):
        return block_tokens(self._backbone().network, x, self.layers_, self.norm_)


def _is(value, name):
    """Return whether a parameter, which may be an array, is a certain string."""
    return isinstance(value, str) and value == name


def _middle(depth):
    """Return eight blocks from a sixth to three quarters of the depth, or fewer."""
    return tuple(dict.fromkeys(np.linspace(depth / 6, 0.75 * depth, 8).astype(int)))
