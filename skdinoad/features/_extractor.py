"""What all extractors share: images in, grids of features and their frames out."""

from numbers import Integral, Real
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skdinoad._arrays.geometry import is_size, resize_frame
from skdinoad._compat.sklearn import Interval, Options, StrOptions
from skdinoad._compat.torch import isolated_torch_state, resolve_device, resolve_dtype
from skdinoad._inputs.estimators import TakesImages
from skdinoad._inputs.images import as_images, take
from skdinoad._inputs.labels import normal_rows
from skdinoad._typing import ImagesLike, OneOrList
from skdinoad.features._backbones import get_backbone
from skdinoad.features._preprocess import invalidate, resize
from skdinoad.features._store import image_key, open_store

__all__ = ["Extractor"]

#: A panorama one pixel high must not ask for millions of patches.
_MAX_PATCHES = 2**16

#: What a model should have been.
_KINDS = {
    "vit": "plain Vision Transformer that takes images of any size; expected a Vision "
    "Transformer such as 'vit_small_patch14_dinov2.lvd142m'. CNNFeatures takes CNNs.",
    "cnn": "network with feature maps of several strides; expected a CNN such as "
    "'tf_efficientnet_lite0.in1k'. DinoFeatures takes Vision Transformers.",
}


class Extractor(TakesImages, TransformerMixin, BaseEstimator):
    """Base class of the extractors: a frozen network that sees images in batches.

    A subclass has the parameters below, says the ``_kind`` of its network, and writes

    - ``fit``, beginning with ``_load()``;
    - ``_plan(size)`` -> the pixels (height, width) to resize an image to, and the grid
      (h, w) that comes of it;
    - ``_run(images, resized, grid)`` -> float32 features (n, p + h * w, c) of images of
      one size, p tokens of the whole image before those of the grid;
    - ``_shaping()`` -> all else that shapes the features.

    Features are kept per image as ``_run`` gives them; what ``_finish(grid)`` makes of
    them is not.
    """

    _most_patches = _MAX_PATCHES

    #: Models that were saved before there was such a parameter have none.
    cache_size: int | str | None = None

    _parameter_constraints: dict[str, Any] = {
        "model": [str],
        "weights": [str, Path],
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "interpolation": [StrOptions({"bicubic", "bilinear"})],
        "dtype": [StrOptions({"float32", "bfloat16", "float16"})],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "min_valid": [Interval(Real, 0, 1, closed="both")],
        "cache": [None, Options(bool, {False}), str, Path, joblib.Memory],
        "cache_size": [None, Interval(Integral, 1, None, closed="left"), str],
        "verbose": ["boolean"],
    }

    def transform(self, X: ImagesLike) -> OneOrList:
        """Return the patch features of images.

        Parameters
        ----------
        X : array, list of images or paths
            Images as everywhere: uint8 0..255, uint16 or float 0..1, (n, H, W[, 1 | 3 |
            4]), a list of images of any sizes, or file paths.
            Colours in the order RGB, not OpenCV's BGR: ``image[..., ::-1]``.

        Returns
        -------
        F : ndarray of shape (n, h, w, c), float32
            NaN vector = invalid patch. A list of (h, w, c) arrays if the grids differ
            in size.
        """
        return self.transform_frames(X)[0]

    @isolated_torch_state()
    def transform_frames(self, X: ImagesLike) -> tuple[OneOrList, np.ndarray]:
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
        grids, _, frames = self._read(X)
        same = len({grid.shape for grid in grids}) == 1
        return (np.stack(grids) if same else grids), frames

    @isolated_torch_state()
    def prepared(self, X: ImagesLike) -> tuple[OneOrList, np.ndarray]:
        """Return images as the network takes them, for detectors that move pixels.

        Parameters
        ----------
        X : array, list of images or paths
            As in ``transform``.

        Returns
        -------
        x : ndarray of shape (n, H, W, 3), float32
            Resized and normalised; NaN where a pixel is invalid. A list of arrays if
            they differ in size.
        frames : ndarray of shape (n, 3, 3), float64
            Pixel (x, y, 1) of the resized image -> pixel of the image given in.

        Raises
        ------
        ValueError
            If the extractor crops or tiles: what is cut off could not be moved.
        """
        check_is_fitted(self, "weights_digest_")
        parts = getattr(self, "resize", "stretch") == "crop" or any(
            getattr(self, name, None) for name in ("crop_size", "tile_size")
        )
        if parts:
            raise ValueError(
                "This extractor crops images or cuts them into tiles, and here they "
                "are moved whole: pass resize='stretch', crop_size=None and "
                "tile_size=None."
            )
        grids, frames = [], []
        for image in self._images_to_score(X):
            size = image.shape[:2]
            resized = self._plan(size)[0]
            pixels = self._pixels([image], resized)[0].float().cpu()
            pixels = pixels.permute(1, 2, 0).numpy()
            grids.append(invalidate(pixels, image, self.min_valid))
            frames.append(resize_frame(size, resized))
        same = len({grid.shape for grid in grids}) == 1
        return (np.stack(grids) if same else grids), np.stack(frames)

    # -- private ----------------------------------------------------------------------

    def _normals(self, X, y):
        """Return the normal images, whose range of values is learned; None if none."""
        self.value_range_ = None
        if X is None:
            return None
        images = as_images(X)
        images = take(images, normal_rows(y, len(images)))
        if not images.has_reader:  # a detector scales what it hands over
            images = images.by_own_range()
            self.value_range_ = images.own_range
        return images

    @property
    def images_at_once(self) -> int:
        """How many images are read together."""
        return self.batch_size

    def _load(self):
        """Check the parameters, record which weights are used, return the network."""
        self._validate_params()
        for name in ("image_size", "crop_size"):
            value = getattr(self, name, None)
            if isinstance(value, (tuple, list)) and not is_size(value):
                raise ValueError(
                    f"{name}={value!r}: expected an edge, (height, width) in whole "
                    "pixels, or None."
                )
        open_store(self.cache, self.cache_size)  # or the error, before any work
        backbone = self._backbone()
        if backbone.kind != self._kind:
            raise ValueError(f"model={self.model!r} is no {_KINDS[self._kind]}")
        self.weights_digest_ = backbone.digest
        self.weights_name_ = f"{backbone.known.name} [{backbone.known.source}]"
        return backbone

    def _backbone(self):
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        return get_backbone(self.model, self.weights, device, dtype)

    def _read(self, X):
        """Return grids, tokens before them, and frames, batch by batch."""
        images = self._images_to_score(X)
        extract = self._extractor()
        batches = torch.arange(len(images)).split(self.images_at_once)
        # A single batch is over in a moment, and would only make bars flicker.
        quiet = not self.verbose or len(batches) == 1
        parts = [
            extract(images[rows.numpy()])
            for rows in tqdm(batches, desc="features", unit="batch", disable=quiet)
        ]
        grids, prefix, frames = zip(*parts)
        prefix, frames = np.concatenate(prefix), np.concatenate(frames)
        return [grid for part in grids for grid in part], prefix, frames

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
        """Return grids, prefix and frames of one batch."""
        images = list(images)
        # Of alpha, what is kept knows the colours of hidden pixels, but no NaN.
        grids, prefix, frames = [], [], []
        for image, known in zip(images, self._looked_up(images)):
            size = image.shape[:2]
            (h, w), frame = self._plan(size)[1], self._frame(size)
            grid = known[-h * w :].reshape(h, w, *known.shape[1:])
            covered = _covered(frame, (h, w))
            grid = self._finish(invalidate(grid, image, self.min_valid, covered))
            grids.append(grid)
            prefix.append(known[: -h * w])
            frames.append(frame)
        return grids, np.stack(prefix), np.stack(frames)

    def _looked_up(self, images):
        """Return the tokens of images, those in the store from there."""
        store = open_store(self.cache, self.cache_size)
        if store is None:
            return self._forward(images)
        settings = self._settings()
        keys = [image_key(image[..., :3], settings) for image in images]
        tokens = [store.get(key) for key in keys]
        missing = [i for i, known in enumerate(tokens) if known is None]
        for i, new in zip(missing, self._forward([images[i] for i in missing])):
            tokens[i] = new
            store.put(keys[i], new)
        return tokens

    def _finish(self, grid):
        return grid

    def _settings(self):
        """Everything besides the pixels that shapes the features, as a string."""
        # The same weights may go with another network, padding or normalisation.
        mean_std = self._backbone().mean_std.tolist()
        network = (self.model, self.weights_digest_, mean_std)
        shared = (self.image_size, self.interpolation, self.dtype)
        return repr((*network, *shared, *self._shaping()))

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
        """Return the frame that takes a cell to the pixel of the image it shows."""
        resized, grid = self._plan(size)
        return resize_frame(size, resized) @ resize_frame(resized, grid)

    def _wanted(self, size):
        """Return the size in pixels that is asked for an image of another."""
        if self.image_size is None:
            return size
        if np.ndim(self.image_size):
            return self.image_size
        return np.multiply(size, self.image_size / min(size))

    def _check_grid(self, size, grid):
        if grid[0] * grid[1] > self._most_patches:
            raise ValueError(
                f"An image of shape {size} would need a grid of {grid} patches, more "
                f"than {self._most_patches}: image_size={self.image_size} is the "
                "smaller edge. Lower it, pass (height, width), or look at tiles of it "
                "by DinoFeatures(tile_size=...)."
            )

    def _tokens(self, images, resized, size):
        """Return tokens of images of one size, or say why there are none."""
        try:
            return self._finite(self._run(images, resized, size))
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise MemoryError(
                f"Out of memory for a batch of {len(images)} images with {size} "
                f"patches each. Lower batch_size={self.batch_size} or "
                f"image_size={self.image_size}. The network said: {error}"
            ) from error

    def _finite(self, tokens):
        # NaN would mean "invalid patch", and nobody would look for it here.
        if not np.isfinite(tokens).all():
            raise ValueError(
                f"model={self.model!r} computed NaN or infinite features in "
                f"dtype={self.dtype!r}: pass dtype='float32', or other weights."
            )
        return tokens

    def _pixels(self, images, resized):
        """Return images of one size as the network takes them, (n, 3, *resized)."""
        mode = self.interpolation
        x = torch.cat([resize(image[..., :3], resized, mode) for image in images])
        mean, std = self._backbone().mean_std[:, None, :, None, None] * 255
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        return ((x - mean) / std).to(device=device, dtype=dtype)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def _covered(frame, grid):
    """Return the edges of what a grid covers: ((top, bottom), (left, right))."""
    edges = np.array([(-0.5, -0.5), (grid[1] - 0.5, grid[0] - 0.5)])
    edges = edges * frame[[0, 1], [0, 1]] + frame[:2, 2] + 0.5
    return tuple(map(tuple, edges.T[::-1]))
