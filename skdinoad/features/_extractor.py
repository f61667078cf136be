"""Base class of the extractors."""

from numbers import Integral
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.geometry import is_size, resize_affine
from skdinoad._compat.sklearn import Interval, Options, StrOptions
from skdinoad._compat.torch import isolated_torch_state, resolve_device, resolve_dtype
from skdinoad._inputs.estimators import ImageEstimator
from skdinoad._inputs.images import as_images, take
from skdinoad._inputs.labels import normal_rows
from skdinoad._typing import ImagesLike, OneOrList
from skdinoad.features._backbones import get_backbone
from skdinoad.features._parts import DiskCache, Runtime
from skdinoad.features._preprocess import invalidate, resize
from skdinoad.features._store import image_key, open_store

__all__ = ["Extractor"]

#: Maximum number of patches; extreme aspect ratios could need millions.
_MAX_PATCHES = 2**16

#: Description of the expected network, for messages.
_KINDS = {
    "vit": "plain Vision Transformer that takes images of any size; expected a Vision "
    "Transformer such as 'vit_small_patch14_dinov2.lvd142m'. CNNFeatures takes CNNs.",
    "cnn": "network with feature maps of several strides; expected a CNN such as "
    "'tf_efficientnet_lite0.in1k'. DinoFeatures takes Vision Transformers.",
}


class Extractor(ImageEstimator, TransformerMixin, BaseEstimator):
    """Base class of the extractors: a frozen network that sees images in batches.

    A subclass has the parameters below, sets the ``_kind`` of its network, and
    implements

    - ``fit``, beginning with ``_load()``;
    - ``_plan(size)`` -> the pixels (height, width) to resize an image to, and the
      resulting grid (h, w);
    - ``_run(images, resized, grid)`` -> float32 features (n, p + h * w, c) of images of
      one size, with p prefix tokens before those of the grid;
    - ``_shaping()`` -> all other settings that affect the features.

    The cache stores the result of ``_run`` per image; ``_finish(grid)`` is applied
    after the cache.
    """

    _most_patches = _MAX_PATCHES

    _default_parts = {"runtime": Runtime}

    _parameter_constraints: dict[str, Any] = {
        "model": [str],
        "weights": [str, Path],
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "interpolation": [StrOptions({"bicubic", "bilinear"})],
        "runtime": [Runtime, None],
        "cache": [None, Options(bool, {False}), str, Path, joblib.Memory, DiskCache],
    }

    def transform(self, X: ImagesLike) -> OneOrList:
        """Return the patch features of images.

        Parameters
        ----------
        X : array, list of images or paths
            uint8 0..255, uint16 or float 0..1 of shape (n, H, W[, 1 | 3 | 4]), a list
            of images of any sizes, or file paths. Colour images are RGB; convert
            OpenCV's BGR with ``image[..., ::-1]``.

        Returns
        -------
        F : ndarray of shape (n, h, w, c), float32
            NaN vector = invalid patch. A list of (h, w, c) arrays if the grids differ
            in size.
        """
        return self.transform_affines(X)[0]

    @isolated_torch_state()
    def transform_affines(self, X: ImagesLike) -> tuple[OneOrList, np.ndarray]:
        """Return the patch features of images and their affines.

        Parameters
        ----------
        X : array, list of images or paths
            As in ``transform``.

        Returns
        -------
        F : ndarray of shape (n, h, w, c), float32, or list of (h, w, c)
        affines : ndarray of shape (n, 3, 3), float64
            Affine matrices from patch index (x, y, 1) to pixel of the input image.

        Raises
        ------
        TypeError, ValueError
            If an image cannot be read (the message names its row or path), or the
            weights differ from those of ``fit`` (the message names both digests).
        """
        grids, _, affines = self._read(X)
        same = len({grid.shape for grid in grids}) == 1
        return (np.stack(grids) if same else grids), affines

    @isolated_torch_state()
    def prepared(self, X: ImagesLike) -> tuple[OneOrList, np.ndarray]:
        """Return preprocessed images, for detectors that deform images.

        Parameters
        ----------
        X : array, list of images or paths
            As in ``transform``.

        Returns
        -------
        x : ndarray of shape (n, H, W, 3), float32
            Resized and normalised; invalid pixels are NaN. A list of arrays if they
            differ in size.
        affines : ndarray of shape (n, 3, 3), float64
            Affine matrices from pixel (x, y, 1) of the resized image to pixel of the
            input image.

        Raises
        ------
        ValueError
            If the extractor crops or tiles images.
        """
        check_is_fitted(self, "weights_digest_")
        if any(getattr(self, name, None) is not None for name in ("cropping", "tiles")):
            raise ValueError(
                "This extractor crops images or cuts them into tiles, and here they "
                "are moved whole: pass cropping=None and tiles=None."
            )
        grids, affines = [], []
        for image in self._images_to_score(X):
            size = image.shape[:2]
            resized = self._plan(size)[0]
            pixels = self._pixels([image], resized)[0].float().cpu()
            pixels = pixels.permute(1, 2, 0).numpy()
            grids.append(invalidate(pixels, image))
            affines.append(resize_affine(size, resized))
        same = len({grid.shape for grid in grids}) == 1
        return (np.stack(grids) if same else grids), np.stack(affines)

    # -- private ----------------------------------------------------------------------

    def _normals(self, X, y):
        """Return the normal images and learn their value range; None without X."""
        self.value_range_ = None
        if X is None:
            return None
        images = as_images(X)
        images = take(images, normal_rows(y, len(images)))
        if not images.has_reader:  # detectors pass images that are already scaled
            images = images.by_own_range()
            self.value_range_ = images.own_range
        return images

    @property
    def images_at_once(self) -> int:
        """How many images are read together."""
        return self._part("runtime").batch_size

    def _load(self):
        """Check the parameters, record the weights and return the network."""
        self._validate_params()
        for name in ("image_size", "cropping"):
            value = getattr(self, name, None)
            if isinstance(value, (tuple, list)) and not is_size(value):
                raise ValueError(
                    f"{name}={value!r}: expected an edge, (height, width) in whole "
                    "pixels, or None."
                )
        open_store(self.cache)  # raises an error early
        backbone = self._backbone()
        if backbone.kind != self._kind:
            raise ValueError(f"model={self.model!r} is not a {_KINDS[self._kind]}")
        self.weights_digest_ = backbone.digest
        self.weights_name_ = f"{backbone.known.name} [{backbone.known.source}]"
        return backbone

    def _backbone(self):
        return get_backbone(self.model, self.weights, *self._device_and_dtype())

    def _device_and_dtype(self):
        """Return where the network computes, and in which precision."""
        runtime = self._part("runtime")
        return resolve_device(runtime.device), resolve_dtype(runtime.dtype)

    def _read(self, X):
        """Return grids, prefix tokens and affines, computed batch by batch."""
        images = self._images_to_score(X)
        extract = self._extractor()
        batches = torch.arange(len(images)).split(self.images_at_once)
        parts = [extract(images[rows.numpy()]) for rows in batches]
        grids, prefix, affines = zip(*parts)
        prefix, affines = np.concatenate(prefix), np.concatenate(affines)
        return [grid for part in grids for grid in part], prefix, affines

    def _extractor(self):
        """Return the function of one batch of images to (grids, prefix, affines)."""
        if not hasattr(self, "weights_digest_"):
            # transform also works without fit, by a fitted copy.
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
        """Return grids, prefix and affines of one batch."""
        images = list(images)
        # Cached tokens do not depend on alpha, except for the filled hidden pixels.
        grids, prefix, affines = [], [], []
        for image, known in zip(images, self._looked_up(images)):
            size = image.shape[:2]
            (h, w), affine = self._plan(size)[1], self._affine(size)
            grid = known[-h * w :].reshape(h, w, *known.shape[1:])
            covered = _covered(affine, (h, w))
            grid = self._finish(invalidate(grid, image, covered))
            grids.append(grid)
            prefix.append(known[: -h * w])
            affines.append(affine)
        return grids, np.stack(prefix), np.stack(affines)

    def _looked_up(self, images):
        """Return the tokens of images, those in the store from there."""
        store = open_store(self.cache)
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
        """Return all settings that affect the features, as a string."""
        # The same weights may be used with another network or normalisation.
        mean_std = self._backbone().mean_std.tolist()
        network = (self.model, self.weights_digest_, mean_std)
        shared = (self.image_size, self.interpolation, self._part("runtime").dtype)
        return repr((*network, *shared, *self._shaping()))

    def _forward(self, images):
        """Run the network once per input size and return the tokens in order."""
        plans = [self._plan(image.shape[:2]) for image in images]
        out = [None] * len(images)
        for plan in dict.fromkeys(plans):
            rows = [i for i, other in enumerate(plans) if other == plan]
            tokens = self._tokens([images[i] for i in rows], *plan)
            for i, new in zip(rows, tokens):
                out[i] = new
        return out

    def _affine(self, size):
        """Return the affine from cell index to image pixel."""
        resized, grid = self._plan(size)
        return resize_affine(size, resized) @ resize_affine(resized, grid)

    def _wanted(self, size):
        """Return the size in pixels to which an image is resized, before rounding."""
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
                "by DinoFeatures(tiles=Tiles(...))."
            )

    def _tokens(self, images, resized, size):
        """Return the tokens of images of one size; explain errors."""
        try:
            return self._finite(self._run(images, resized, size))
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            batch_size = self._part("runtime").batch_size
            raise MemoryError(
                f"Out of memory for a batch of {len(images)} images with {size} "
                f"patches each. Lower batch_size={batch_size} or "
                f"image_size={self.image_size}. The network said: {error}"
            ) from error

    def _finite(self, tokens):
        # NaN would silently count as an invalid patch.
        if not np.isfinite(tokens).all():
            raise ValueError(
                f"model={self.model!r} computed NaN or infinite features in "
                f"dtype={self._part('runtime').dtype!r}: pass dtype='float32', or "
                "other weights."
            )
        return tokens

    def _pixels(self, images, resized):
        """Return preprocessed images of one size, (n, 3, *resized)."""
        mode = self.interpolation
        x = torch.cat([resize(image[..., :3], resized, mode) for image in images])
        mean, std = self._backbone().mean_std[:, None, :, None, None] * 255
        device, dtype = self._device_and_dtype()
        return ((x - mean) / std).to(device=device, dtype=dtype)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def _covered(affine, grid):
    """Return the image area covered by a grid: ((top, bottom), (left, right))."""
    edges = np.array([(-0.5, -0.5), (grid[1] - 0.5, grid[0] - 0.5)])
    edges = edges * affine[[0, 1], [0, 1]] + affine[:2, 2] + 0.5
    return tuple(map(tuple, edges.T[::-1]))
