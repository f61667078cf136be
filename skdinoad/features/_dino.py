"""Patch features of a frozen Vision Transformer."""

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

import joblib
import numpy as np
import torch

from skdinoad._arrays.geometry import resize_frame
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state, resolve_device, resolve_dtype
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
    ENGINES,
    ON_CPU,
    check_installed,
    choose,
    engine_tokens,
)
from skdinoad.features._extractor import Extractor
from skdinoad.features._tiles import tiled_tokens

__all__ = ["DinoFeatures"]

#: Whole patches that an image must have to be left as it is.
_FEWEST, _MOST = 200, 400

#: Images of ``fit`` that an engine is compared on.
_COMPARED = 4


class DinoFeatures(Extractor):
    """Turn images into grids of DINOv2 patch features.

    An image is resized so that both its sides are whole numbers of patches, every
    pixel is seen, and its frame says exactly where each patch lies: nothing is
    cropped (unless asked), padded or shifted. Nothing is learned from the images;
    ``fit`` checks the parameters and records which weights are used.

    Parameters
    ----------
    model : str, default="vit_small_patch14_dinov2.lvd142m"
        Any Vision Transformer of timm, with its pretrained tag. A few (BEiT, CaiT,
        ConViT, relative positions) take images of one size only: ``image_size`` must
        then be that (height, width).
    weights : str or path, default="auto"
        "auto" takes the genuine weights from the local hub cache, else downloads
        them, else takes those in the package of ``skdinoad[offline]``. "hub" and
        "package" allow that one source. A path names a ``.safetensors`` file, or a
        ``.pt`` / ``.pth`` file, which is read as weights only. "random:SEED" draws
        random weights, for tests.
    layers : "auto", "last", "middle", int or sequence of int, default="auto"
        Blocks whose tokens are taken, 0-based, negative from the end. "auto" follows
        what is known of the weights: the last block for genuine DINOv2, a measured
        choice of several for the packaged copy (``benchmarks/layers.py``); DinoPatch
        and AnomalyDINO compare each by itself. "middle" is eight
        blocks from a sixth to three quarters of the depth, 2 to 9 of 12, as Dinomaly
        has them; one block later for the packaged copy. The network stops at the last
        block needed.
    norm : "auto" or bool, default="auto"
        Whether the network's final LayerNorm is applied to every layer taken. "auto"
        follows ``layers="auto"``'s knowledge; with explicit layers it is on for the
        last block and off otherwise.
    concatenate : bool, default=True
        Whether several layers are joined along the channels, (n, h, w, l * c), or
        kept apart, (n, h, w, l, c).
    groups : int or None, default=None
        Into how many groups the layers, in the order given, are averaged; None keeps
        them all. ``l`` above is then the number of groups.
    image_size : "auto", int, (int, int) or None, default="auto"
        The smaller edge, the exact (height, width), or None for the image's own
        size. Rounded to whole patches; an int keeps the aspect ratio to within half
        a patch. "auto" is 224, but leaves an image as it is that has between 200 and
        400 whole patches, as aligned ones have. **A defect should be larger than 10
        pixels of what the network sees**: raise it for smaller ones.
    resize : {"stretch", "crop"}, default="stretch"
        How an image comes to whole patches. "stretch" resizes each side to the
        nearest whole number of them. "crop" resizes to exactly ``image_size``, keeping
        the aspect ratio, and leaves out what is beyond the last whole patch on the
        right and at the bottom, as the code of the DINOv2 based papers does.
    crop_size : int, (int, int) or None, default=None
        Size of the central part of the resized image that is looked at; what lies
        around it is never scored.
    tile_size : int or None, default=None
        For large images with small defects: the network sees square tiles of this many
        pixels, whole patches, one after the other, and the image gets one grid. With
        ``image_size=None`` it is seen at its full resolution. None: as a whole.
    tile_overlap : float, default=0.25
        Least share of a tile that the next one shows too. There features are averaged,
        weighted down towards a tile's edges.
    interpolation : {"bicubic", "bilinear"}, default="bicubic"
        How pixels are resized, antialiased in either case.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of the network; features are float32 always. On a CPU "bfloat16" saves
        time only if the processor multiplies it (``benchmarks/engines.py``).
    device : str, default="auto"
        "auto" takes a GPU if there is one.
    engine : str, default="torch"
        What computes the forward pass: "torch", "compile" (``torch.compile``, which
        takes long for each size of input), or on the CPU "onnxruntime",
        "onnxruntime-int8" or "openvino", each an extra of this name (int8 comes with
        the first). "auto" times torch and those installed on images of ``fit``, without
        int8 and "compile", and keeps the fastest. ``fit`` compares an engine with torch
        on four of its images and refuses one whose features lie farther off, as a share
        of how far patches lie from their mean (root mean squares), than 0.001, or 0.15
        with int8.
    batch_size : int, default=8
        Images per forward pass; with ``tile_size`` tiles, and images one by one.
    min_valid : float, default=0.5
        A patch is invalid (NaN) if a smaller share of its pixels has alpha >= 128.
    cache : None, False, path or joblib.Memory, default=None
        Where features are kept, per image and by content: None in this process (up
        to 1 GiB), False nowhere, else on disk.
    cache_size : int, str or None, default=None
        What the features in that folder may take together: bytes, or a text such as
        "500MB", "2GB" or "1.5GiB". Those that were longest unused make room for new
        ones, in every process that is given a limit. None: no limit.
    verbose : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that become 0 and 255, learned from training images of more than 8 bits;
        None = they have 8.
    weights_name_ : str
        Which weights were used, and their source.
    weights_digest_ : str
        sha256 over the content of the network.
    layers_ : tuple of int
        The blocks taken, 0-based.
    map_layers_ : tuple of int
        Those of them that heat maps should show.
    n_groups_ : int
        How many groups of layers lie side by side in the channels.
    norm_ : bool
        Whether the final LayerNorm is applied.
    patch_size_ : int
        Pixels per patch side.
    has_class_token_ : bool
        Whether the first token that ``transform_tokens`` gives apart is a class token.
    engine_ : str
        What computes the forward pass, from ``fit`` on, wherever the model is loaded.

    See Also
    --------
    PCAAligner : Brings parts into one pose first.
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
    >>> F, frames = features.transform_frames(np.zeros((2, 60, 90, 3)))
    >>> F.shape, frames[0, 0].tolist()
    ((2, 4, 6, 64), [15.0, 0.0, 7.0])
    """

    _parameter_constraints = {
        **Extractor._parameter_constraints,
        "image_size": [
            StrOptions({"auto"}),
            *Extractor._parameter_constraints["image_size"],
        ],
        "layers": [StrOptions({"auto", "last", "middle"}), Integral, "array-like"],
        "norm": [StrOptions({"auto"}), "boolean"],
        "concatenate": ["boolean"],
        "groups": [None, Interval(Integral, 1, None, closed="left")],
        "resize": [StrOptions({"stretch", "crop"})],
        "crop_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "tile_size": [Interval(Integral, 1, None, closed="left"), None],
        "tile_overlap": [Interval(Real, 0, 1, closed="left")],
        "engine": [StrOptions({"auto", *ENGINES})],
    }

    _kind = "vit"

    #: Until ``fit`` chooses another; models that were saved before there was a choice
    #: say nothing of it.
    engine_ = "torch"

    def __init__(
        self,
        *,
        model: str = "vit_small_patch14_dinov2.lvd142m",
        weights: str | Path = "auto",
        layers: Literal["auto", "last", "middle"] | int | Sequence[int] = "auto",
        norm: Literal["auto"] | bool = "auto",
        concatenate: bool = True,
        groups: int | None = None,
        image_size: Literal["auto"] | Size | None = "auto",
        resize: Literal["stretch", "crop"] = "stretch",
        crop_size: Size | None = None,
        tile_size: int | None = None,
        tile_overlap: float = 0.25,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str = "auto",
        engine: Literal[
            "torch", "compile", "onnxruntime", "onnxruntime-int8", "openvino", "auto"
        ] = "torch",
        batch_size: int = 8,
        min_valid: float = 0.5,
        cache: str | Path | Literal[False] | joblib.Memory | None = None,
        cache_size: int | str | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.weights = weights
        self.layers = layers
        self.norm = norm
        self.concatenate = concatenate
        self.groups = groups
        self.image_size = image_size
        self.resize = resize
        self.crop_size = crop_size
        self.tile_size = tile_size
        self.tile_overlap = tile_overlap
        self.interpolation = interpolation
        self.dtype = dtype
        self.device = device
        self.engine = engine
        self.batch_size = batch_size
        self.min_valid = min_valid
        self.cache = cache
        self.cache_size = cache_size
        self.verbose = verbose

    @isolated_torch_state()
    def fit(self, X: ImagesLike | None = None, y: LabelsLike | None = None) -> Self:
        """Check the parameters and record which weights are used.

        Parameters
        ----------
        X : array, list of images or paths, or None
            From images of more than 8 bits the range of their values is learned, from
            others nothing. An ``engine`` other than "torch" is compared on them.
            Colours in the order RGB, not OpenCV's BGR: ``image[..., ::-1]``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous. **Rows labelled anomalous are left out.**

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of range, the model is unknown or takes images of
            another size only, the weights do not fit it, X holds no images, or an
            ``engine`` cannot compile the network, does not agree with torch, or is to
            be compared on no images.
        ImportError
            If an ``engine`` is not installed; the message names the extra.
        WeightsNotFoundError
            If no weights were found; the message names the remedies.
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
        """Return the patch features, the class token's, and where the patches lie.

        Parameters
        ----------
        X : array, list of images or paths
            As in ``transform``.

        Returns
        -------
        grids : list of ndarray of shape (h, w, c), float32
        prefix : ndarray of shape (n, p, c), float32
            The class token and the registers; p is 0 if the network has none.
        frames : ndarray of shape (n, 3, 3), float64
            As ``transform_frames`` gives them.
        """
        return self._read(X)

    # -- private ----------------------------------------------------------------------

    @property
    def _most_patches(self):
        """The patches that an image may have; attention sees those of a tile only."""
        return Extractor._most_patches * (1 if self.tile_size is None else 4)

    @property
    def images_at_once(self) -> int:
        return self.batch_size if self.tile_size is None else 1

    def _look_at_blocks(self, backbone):
        """Set which layers are taken, and what the network's tokens are."""
        self.layers_, self.norm_ = self._layers(backbone)
        auto = isinstance(self.layers, str) and self.layers == "auto"
        known = backbone.known.map_layers if auto else None
        self.map_layers_ = known or self.layers_
        self.texture_ = backbone.known.texture
        self.n_groups_ = self._groups()
        self.patch_size_ = backbone.patch_size
        self.has_class_token_ = has_class_token(backbone.network)

    def _layers(self, backbone):
        """Return the 0-based blocks to take and whether the final norm is applied."""
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
        if isinstance(self.layers, str) and self.layers == "auto":
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
        """Refuse a network that does not take images of the sizes it will be given."""
        network = load_backbone(self.model, str(self.weights)).network
        if self.tile_size is not None and self.tile_size % self.patch_size_:
            raise ValueError(
                f"tile_size={self.tile_size} does not hold whole patches of "
                f"{self.patch_size_} pixels: pass a multiple of it."
            )
        problem = grid_problem(network, self.patch_size_, (2, 3))
        if problem and np.ndim(self.image_size):  # then all images get one grid
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
        if self.engine != "auto":
            check_installed(self.engine)
        if self.engine != "torch" and X is None:
            raise ValueError(
                f"engine={self.engine!r} is compared with torch on images: fit on some "
                "good ones first, or pass engine='torch'."
            )
        plain = self.dtype == "float32" and self.device in ("auto", "cpu")
        if self.engine in ON_CPU and not plain:
            raise ValueError(
                f"engine={self.engine!r} computes in float32 on the CPU, but "
                f"dtype={self.dtype!r} and device={self.device!r}: pass dtype='float32'"
                " and device='cpu', or engine='torch'."
            )

    def _may_choose(self):
        """Whether there is more than torch: of what "auto" tries, on the CPU alone."""
        if self.engine != "auto":
            return self.engine != "torch"
        return self.dtype == "float32" and resolve_device(self.device).type == "cpu"

    def _choose_engine(self, images):
        """Set the engine asked for, if it says what torch says of some images."""
        rows = np.linspace(0, len(images) - 1, min(len(images), _COMPARED)).astype(int)
        some = list(images[rows])
        plans = tuple(self._plan(image.shape[:2]) for image in some)
        key = (self._settings(), plans, self.device, self.batch_size)
        chosen = choose(self.engine, lambda name: self._layers_by(name, some), key)
        del self.engine_
        if chosen != "torch":
            self.engine_ = chosen

    def _layers_by(self, engine, images):
        """Return the tokens (t, l, c) of images by an engine, which stays set."""
        self.engine_, step = engine, self.images_at_once
        parts = [images[i : i + step] for i in range(0, len(images), step)]
        tokens = [x for part in parts for x in self._forward(part)]
        return np.concatenate([x.reshape(len(x), self.n_groups_, -1) for x in tokens])

    def _shaping(self):
        looking = (self.resize, self.crop_size)
        if self.tile_size is not None:
            looking = (*looking, self.tile_size, self.tile_overlap)
        if self.engine_ != "torch":
            looking = (*looking, self.engine_)
        return (*looking, self.layers_, self.norm_, self.n_groups_, self.concatenate)

    def _tile(self, grid):
        """Return the patches (h, w) that the network sees of a grid at a time."""
        if self.tile_size is None:
            return grid
        return tuple(min(edge, self.tile_size // self.patch_size_) for edge in grid)

    def _frame(self, size):
        """Return the frame that takes a patch to the pixel of the image it shows."""
        resized, grid = self._plan(size)
        covered = tuple(edge * self.patch_size_ for edge in grid)
        crop = np.eye(3)
        crop[:2, 2] = self._corner(resized, covered)[::-1]
        return resize_frame(size, resized) @ crop @ resize_frame(covered, grid)

    def _corner(self, resized, covered):
        """Return the (row, column) in the resized image where the patches begin."""
        if self.crop_size is None:
            return 0, 0
        return tuple((a - b) // 2 for a, b in zip(resized, covered))

    def _wanted(self, size):
        """Return the size in pixels that is asked for an image of another."""
        if not isinstance(self.image_size, str):
            return super()._wanted(size)
        grid = np.divide(size, self.patch_size_)
        fits = (grid % 1 == 0).all() and _FEWEST <= grid.prod() <= _MOST
        return size if fits else np.multiply(size, 224 / min(size))

    def _plan(self, size):
        """Return the pixels (height, width) to resize to, and the patch grid (h, w)."""
        wanted = self._wanted(size)
        if self.resize == "stretch":
            grid = tuple(max(1, round(edge / self.patch_size_)) for edge in wanted)
            resized = tuple(edge * self.patch_size_ for edge in grid)
        else:
            # The tiny term keeps the smaller edge from falling below image_size.
            resized = tuple(int(edge + 1e-6) for edge in wanted)
            grid = tuple(edge // self.patch_size_ for edge in resized)
        if self.crop_size is not None:
            crop = np.broadcast_to(self.crop_size, 2) // self.patch_size_
            grid = tuple(int(edge) for edge in np.minimum(grid, crop))
        self._check_grid(size, grid)
        return resized, grid

    def _check_grid(self, size, grid):
        super()._check_grid(size, grid)
        if 0 in grid:
            raise ValueError(
                f"An image of shape {size} with image_size={self.image_size}, "
                f"resize={self.resize!r} and crop_size={self.crop_size} holds no whole "
                f"patch of {self.patch_size_} pixels. Raise image_size or crop_size."
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
        size, patch = self.tile_size // self.patch_size_, self.patch_size_
        how = (patch, size, self.tile_overlap, self.batch_size)
        parts = [tiled_tokens(self._tokens_of, image, *how) for image in x.split(1)]
        return np.concatenate(parts)

    def _tokens_of(self, x):
        """Return the tokens of images as the network takes them."""
        tokens = self._stacked(x)
        if self.n_groups_ < len(self.layers_):
            tokens = tokens.unflatten(2, (self.n_groups_, -1)).mean(3)
        if self.concatenate:
            tokens = tokens.flatten(2)
        return tokens.float().cpu().numpy()

    def _stacked(self, x):
        """Return the tokens (n, p + h * w, l, c) of all layers, by the engine."""
        if self.engine_ == "torch":
            return stacked_tokens(self._blocks(x))
        how = (self._backbone(), x, self.layers_, self.norm_)
        return engine_tokens(self.engine_, *how)

    def _maps(self, x):
        """Return the maps of all layers, (n, c, h, w) each; gradients may pass."""
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        return [grid for _, grid in self._blocks(x.to(device=device, dtype=dtype))]

    def _blocks(self, x):
        return block_tokens(self._backbone().network, x, self.layers_, self.norm_)


def _middle(depth):
    """Return eight blocks from a sixth to three quarters of the depth, or fewer."""
    return tuple(dict.fromkeys(np.linspace(depth / 6, 0.75 * depth, 8).astype(int)))
