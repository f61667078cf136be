"""Patch features of a frozen Vision Transformer."""

from numbers import Integral, Real
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from tqdm.auto import tqdm

from skdinoad._geometry import is_size, resize_frame
from skdinoad._images import as_images
from skdinoad._sklearn import Interval, Options, StrOptions
from skdinoad._torch import resolve_device, resolve_dtype
from skdinoad.base import TakesImages
from skdinoad.features._backbones import get_backbone
from skdinoad.features._preprocess import invalidate, resize
from skdinoad.features._store import image_key, open_store

__all__ = ["DinoFeatures"]

#: A panorama one pixel high must not ask for millions of patches.
_MAX_PATCHES = 2**16


class DinoFeatures(TakesImages, TransformerMixin, BaseEstimator):
    """Turn images into grids of DINOv2 patch features.

    An image is resized so that both its sides are whole numbers of patches, every
    pixel is seen, and its frame says exactly where each patch lies: nothing is
    cropped (unless asked), padded or shifted. Nothing is learned from the images;
    ``fit`` checks the parameters and records which weights are used.

    Parameters
    ----------
    model : str, default="vit_small_patch14_dinov2.lvd142m"
        Any Vision Transformer of timm, with its pretrained tag.
    weights : str or path, default="auto"
        "auto" takes the genuine weights from the local hub cache, else downloads
        them, else takes those in the package of ``skdinoad[offline]``. "hub" and
        "package" allow that one source. A path names a ``.safetensors`` file, or a
        ``.pt`` / ``.pth`` file, which is read as weights only. "random:SEED" draws
        random weights, for tests.
    layers : "auto", "last", "middle", int or sequence of int, default="auto"
        Blocks whose tokens are taken, 0-based, negative from the end. "auto" follows
        what is known of the weights: the last block for genuine DINOv2, a measured
        choice for the packaged copy (``benchmarks/layers.py``). "middle" is eight
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
    image_size : int, (int, int) or None, default=448
        The smaller edge, the exact (height, width), or None for the image's own
        size. Rounded to whole patches; an int keeps the aspect ratio to within half
        a patch.
    resize : {"stretch", "crop"}, default="stretch"
        How an image comes to whole patches. "stretch" resizes each side to the
        nearest whole number of them. "crop" resizes to exactly ``image_size``, keeping
        the aspect ratio, and leaves out what is beyond the last whole patch on the
        right and at the bottom, as the code of the DINOv2 based papers does.
    crop_size : int, (int, int) or None, default=None
        Size of the central part of the resized image that is looked at; what lies
        around it is never scored.
    interpolation : {"bicubic", "bilinear"}, default="bicubic"
        How pixels are resized, antialiased in either case.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of the network; features are float32 always.
    device : str, default="auto"
        "auto" takes a GPU if there is one.
    batch_size : int, default=8
        Images per forward pass.
    min_valid : float, default=0.5
        A patch is invalid (NaN) if a smaller share of its pixels has alpha >= 128.
    cache : None, False, path or joblib.Memory, default=None
        Where features are kept, per image and by content: None in this process (up
        to 1 GiB), False nowhere, else on disk.
    verbose : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    weights_name_ : str
        Which weights were used, and their source.
    weights_digest_ : str
        sha256 over the content of the network.
    layers_ : tuple of int
        The blocks taken, 0-based.
    n_groups_ : int
        How many groups of layers lie side by side in the channels.
    norm_ : bool
        Whether the final LayerNorm is applied.
    patch_size_ : int
        Pixels per patch side.

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
        "model": [str],
        "weights": [str, Path],
        "layers": [StrOptions({"auto", "last", "middle"}), Integral, "array-like"],
        "norm": [StrOptions({"auto"}), "boolean"],
        "concatenate": ["boolean"],
        "groups": [None, Interval(Integral, 1, None, closed="left")],
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "resize": [StrOptions({"stretch", "crop"})],
        "crop_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "interpolation": [StrOptions({"bicubic", "bilinear"})],
        "dtype": [StrOptions({"float32", "bfloat16", "float16"})],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "min_valid": [Interval(Real, 0, 1, closed="both")],
        "cache": [None, Options(bool, {False}), str, Path, joblib.Memory],
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        *,
        model="vit_small_patch14_dinov2.lvd142m",
        weights="auto",
        layers="auto",
        norm="auto",
        concatenate=True,
        groups=None,
        image_size=448,
        resize="stretch",
        crop_size=None,
        interpolation="bicubic",
        dtype="float32",
        device="auto",
        batch_size=8,
        min_valid=0.5,
        cache=None,
        verbose=False,
    ):
        self.model = model
        self.weights = weights
        self.layers = layers
        self.norm = norm
        self.concatenate = concatenate
        self.groups = groups
        self.image_size = image_size
        self.resize = resize
        self.crop_size = crop_size
        self.interpolation = interpolation
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size
        self.min_valid = min_valid
        self.cache = cache
        self.verbose = verbose

    def fit(self, X=None, y=None):
        """Check the parameters and record which weights are used.

        Parameters
        ----------
        X : ignored
            Nothing is learned from images; rows labelled anomalous in ``y`` cannot
            leak into the features.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, the model is unknown or the weights do
            not fit it.
        WeightsNotFoundError
            If no weights were found; the message names the remedies.
        """
        self._validate_params()
        for name in ("image_size", "crop_size"):
            value = getattr(self, name)
            if np.ndim(value) and not is_size(value):
                raise ValueError(
                    f"{name}={value!r}: expected an edge, (height, width) in whole "
                    "pixels, or None."
                )
        backbone = self._backbone()
        self.layers_, self.norm_ = self._layers(backbone)
        self.n_groups_ = self._groups()
        self.patch_size_ = backbone.patch_size
        self.weights_digest_ = backbone.digest
        self.weights_name_ = f"{backbone.known.name} [{backbone.known.source}]"
        return self

    def transform(self, X):
        """Return the patch features of images.

        Parameters
        ----------
        X : array, list of images or paths
            Images as everywhere: uint8 0..255 or float 0..1, (n, H, W[, 1 | 3 | 4]),
            a list of images of any sizes, or file paths.

        Returns
        -------
        F : ndarray of shape (n, h, w, c), float32
            NaN vector = invalid patch. A list of (h, w, c) arrays if the grids differ
            in size. (n, h, w, l, c) with ``concatenate=False``.
        """
        return self.transform_frames(X)[0]

    def transform_frames(self, X):
        """Return the patch features of images and where the patches lie.

        Parameters
        ----------
        X : array, list of images or paths
            As in ``transform``.

        Returns
        -------
        F : ndarray of shape (n, h, w, c), float32, or list of (h, w, c)
        frames : ndarray of shape (n, 3, 3), float64
            Patch index (x, y, 1) -> pixel of the image given in.

        Raises
        ------
        TypeError, ValueError
            If an image cannot be read (naming its row or path), or the weights found
            now are not those of ``fit`` (naming both digests).
        """
        grids, _, frames = self.transform_tokens(X)
        same = len({grid.shape for grid in grids}) == 1
        return (np.stack(grids) if same else grids), frames

    def transform_tokens(self, X):
        """Return the patch features, the class token's, and where the patches lie.

        Parameters
        ----------
        X : array, list of images or paths
            As in ``transform``.

        Returns
        -------
        grids : list of ndarray of shape (h, w, c), float32
        prefix : ndarray of shape (n, p, c), float32
            The class token and the registers, if the network has any.
        frames : ndarray of shape (n, 3, 3), float64
            As ``transform_frames`` gives them.
        """
        images = as_images(X)
        extract = self._extractor()
        batches = torch.arange(len(images)).split(self.batch_size)
        # A single batch is over in a moment, and would only make bars flicker.
        quiet = not self.verbose or len(batches) == 1
        parts = [
            extract(images[rows.numpy()])
            for rows in tqdm(batches, desc="features", unit="batch", disable=quiet)
        ]
        grids, prefix, frames = zip(*parts)
        prefix, frames = np.concatenate(prefix), np.concatenate(frames)
        return [grid for part in grids for grid in part], prefix, frames

    # -- private ----------------------------------------------------------------------

    def _backbone(self):
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        return get_backbone(self.model, self.weights, device, dtype)

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
            chosen = np.atleast_1d(self.layers).tolist()
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

    def _extractor(self):
        """Return the function of one batch of images to (grids, prefix, frames)."""
        if not hasattr(self, "weights_digest_"):
            # Nothing is learned, so transform works without fit, on a copy that is.
            return type(self)(**self.get_params(deep=False)).fit()._extract
        backbone = self._backbone()
        if backbone.digest != self.weights_digest_:
            raise ValueError(
                f"This model was fitted with weights {self.weights_digest_} "
                f"({self.weights_name_}), but model={self.model!r}, "
                f"weights={str(self.weights)!r} now gives {backbone.digest} "
                f"({backbone.known.name} [{backbone.known.source}]). Provide the same "
                "weights, or fit again."
            )
        return self._extract

    def _extract(self, images):
        """Return grids, prefix and frames of one batch, stored ones where it can."""
        store, settings = open_store(self.cache), self._settings()
        images = list(images)
        keys = [image_key(image[..., :3], settings) for image in images]
        tokens = [store.get(key) for key in keys]
        missing = [i for i, known in enumerate(tokens) if known is None]
        for i, new in zip(missing, self._forward([images[i] for i in missing])):
            tokens[i] = new
            store.put(keys[i], new)
        # What is kept knows no alpha: an image masked anew needs no new features.
        grids, prefix, frames = [], [], []
        for image, known in zip(images, tokens):
            size = image.shape[:2]
            (h, w), frame = self._plan(size)[1], self._frame(size)
            grid = known[-h * w :].reshape(h, w, *known.shape[1:])
            covered = _covered(frame, (h, w))
            grids.append(invalidate(grid, image, self.min_valid, covered))
            prefix.append(known[: -h * w])
            frames.append(frame)
        return grids, np.stack(prefix), np.stack(frames)

    def _settings(self):
        """Everything besides the pixels that shapes the features, as a string."""
        shaping = (self.weights_digest_, self.layers_, self.norm_, self.image_size)
        looking = (self.resize, self.crop_size, self.interpolation)
        return repr((*shaping, *looking, self.n_groups_, self.concatenate, self.dtype))

    def _forward(self, images):
        """Run the network once per size of its input and return tokens in order."""
        plans = [self._plan(image.shape[:2]) for image in images]
        out = [None] * len(images)
        for plan in dict.fromkeys(plans):
            rows = [i for i, other in enumerate(plans) if other == plan]
            tokens = self._tokens([images[i] for i in rows], *plan)
            for i, new in zip(rows, tokens):
                out[i] = new
        return out

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

    def _plan(self, size):
        """Return the pixels (height, width) to resize to, and the patch grid (h, w)."""
        if self.image_size is None:
            wanted = size
        elif np.ndim(self.image_size):
            wanted = self.image_size
        else:
            wanted = np.multiply(size, self.image_size / min(size))
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
        if grid[0] * grid[1] > _MAX_PATCHES:
            raise ValueError(
                f"An image of shape {size} would need a grid of {grid} patches, more "
                f"than {_MAX_PATCHES}: image_size={self.image_size} is the smaller "
                "edge. Lower it, pass (height, width), or cut the image in parts."
            )
        if 0 in grid:
            raise ValueError(
                f"An image of shape {size} with image_size={self.image_size}, "
                f"resize={self.resize!r} and crop_size={self.crop_size} holds no whole "
                f"patch of {self.patch_size_} pixels. Raise image_size or crop_size."
            )

    def _tokens(self, images, resized, size):
        """Return tokens of images of one size, or say why memory ran out."""
        try:
            return self._run(images, resized, size)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise MemoryError(
                f"Out of memory for a batch of {len(images)} images with {size} "
                f"patches each. Lower batch_size={self.batch_size} or "
                f"image_size={self.image_size}. The network said: {error}"
            ) from error

    @torch.inference_mode()
    def _run(self, images, resized, size):
        """Return float32 tokens (n, p + h * w, c) or (n, p + h * w, l, c)."""
        backbone, mode = self._backbone(), self.interpolation
        covered = tuple(edge * self.patch_size_ for edge in size)
        x = torch.cat([resize(image[..., :3], resized, mode) for image in images])
        top, left = self._corner(resized, covered)
        x = x[..., top : top + covered[0], left : left + covered[1]]
        mean, std = backbone.mean_std[:, None, :, None, None] * 255
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        x = ((x - mean) / std).to(device=device, dtype=dtype)
        layers = backbone.network.forward_intermediates(
            x,
            indices=list(self.layers_),
            norm=self.norm_,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
            return_prefix_tokens=True,
        )
        # timm answers in network order; the caller's order is the one promised.
        order = np.argsort(np.argsort(self.layers_))
        layers = [torch.cat(layers[i][::-1], dim=1) for i in order]
        tokens = torch.stack(layers, dim=2).unflatten(2, (self.n_groups_, -1)).mean(3)
        if self.concatenate:
            tokens = tokens.flatten(2)
        return tokens.float().cpu().numpy()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def _middle(depth):
    """Return eight blocks from a sixth to three quarters of the depth, or fewer."""
    return tuple(dict.fromkeys(np.linspace(depth / 6, 0.75 * depth, 8).astype(int)))


def _covered(frame, grid):
    """Return the edges of what a grid covers: ((top, bottom), (left, right))."""
    edges = np.array([(-0.5, -0.5), (grid[1] - 0.5, grid[0] - 0.5)])
    edges = edges * frame[[0, 1], [0, 1]] + frame[:2, 2] + 0.5
    return tuple(map(tuple, edges.T[::-1]))
