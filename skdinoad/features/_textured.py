"""Features of a Vision Transformer combined with those of a CNN (texture)."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from skdinoad._inputs.estimators import ImageEstimator, fitted_extractor
from skdinoad._inputs.images import as_images
from skdinoad.features._cnn import CNNFeatures

__all__ = ["TexturedFeatures", "texture_for", "with_texture"]

#: Settings of an extractor that are copied to its texture.
_SHARED = ("cache",)


def texture_for(features: Any) -> CNNFeatures | None:
    """Return the unfitted CNN that the registry adds to fitted features, or None.

    It has their device, precision, cache, image size and patch size.
    """
    if not getattr(features, "texture_", False):
        return None
    size = features.image_size_
    return CNNFeatures(
        weights="package" if features.weights == "package" else "auto",
        standardize="levels",
        stride=features.patch_size_,
        image_size=size,
        runtime=clone(features._part("runtime")).set_params(engine="torch"),
        cache=features.cache,
    )


def with_texture(features: Any, texture: Any, X: Any) -> Any:
    """Return a fitted extractor that also gives the features of a CNN if wanted.

    Parameters
    ----------
    features : fitted extractor, or None for feature grids, which have no texture
    texture : "auto", unfitted extractor or None
        "auto" is the CNN that the registry adds to ``features``, or None.
    X : Images
        The training images.

    Raises
    ------
    TypeError
        If ``features`` is not a DinoFeatures.
    """
    if isinstance(texture, str) and texture == "auto" and features is not None:
        texture = texture_for(features)
    if features is None or texture is None:
        return features
    if not hasattr(features, "transform_tokens"):
        raise TypeError(
            f"texture={texture!r} needs features=DinoFeatures(), but features="
            f"{features!r}: pass texture=None."
        )
    return TexturedFeatures.of(features, fitted_extractor("texture", texture, X))


class TexturedFeatures(ImageEstimator, TransformerMixin, BaseEstimator):
    """Features of two extractors on one grid, each layer a group of channels.

    The grid is that of ``features``; the texture is interpolated linearly between the
    centres of its cells. The texture is the first group. Narrower groups are padded
    with zeros, which does not change distances. A patch is invalid if it is invalid in
    either of the two.

    Parameters
    ----------
    features : DinoFeatures
    texture : CNNFeatures
        With ``standardize="levels"`` its vectors do not depend on training images.

    Attributes
    ----------
    features_, texture_ : fitted copies
    n_groups_ : int
        Number of groups: one more than of ``features``.
    group_weights_ : ndarray of shape (n_groups_,), float64
        Weight of each group in a mean over all: the texture has the same weight as all
        others together.
    layers_ : tuple
        "texture", and the layers of ``features``.
    map_layers_ : tuple
        The layers that heat maps show by default.
    weights_name_, weights_digest_ : str
        Names and digests of the weights of both networks.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import CNNFeatures, DinoFeatures
    >>> from skdinoad.features._textured import TexturedFeatures
    >>> dino = DinoFeatures(
    ...     model="test_vit", weights="random:0", layers=(1, 2), image_size="fast"
    ... )
    >>> cnn = CNNFeatures(model="test_efficientnet", weights="random:0")
    >>> both = TexturedFeatures(dino, cnn.set_params(standardize="levels"))
    >>> X = np.random.default_rng(0).random((2, 40, 60, 3))
    >>> both.fit(X).transform(X).shape, both.n_groups_
    ((2, 14, 21, 312), 3)
    """

    def __init__(self, features, texture):
        self.features = features
        self.texture = texture

    def fit(self, X, y=None):
        """Fit both extractors on the same images."""
        with self._learning():
            self.value_range_ = None
            images = as_images(X)
            if not images.has_reader:  # detectors pass images that are already scaled
                images = images.by_own_range()
                self.value_range_ = images.own_range
            features = clone(self.features).fit(images, y)
            self._join(features, clone(self.texture).fit(images, y))
        return self

    @classmethod
    def of(cls, features, texture):
        """Return the combination of two fitted extractors."""
        both = cls(clone(features), clone(texture))
        both.value_range_ = None
        both._join(features, texture)
        return both

    def _join(self, features, texture):
        self.features_, self.texture_ = features, texture
        n = features.n_groups_
        self.n_groups_ = 1 + n
        self.group_weights_ = np.array([0.5, *[0.5 / n] * n])
        groups = features.layers_ if len(features.layers_) == n else range(n)
        self.layers_ = ("texture", *groups)
        shown = set(features.map_layers_) <= set(groups)
        self.map_layers_ = ("texture", *(features.map_layers_ if shown else groups))
        both = features, texture
        self.weights_name_ = " and ".join(part.weights_name_ for part in both)
        self.weights_digest_ = " and ".join(part.weights_digest_ for part in both)
        self.patch_size_ = features.patch_size_
        self.has_class_token_ = features.has_class_token_

    def transform(self, X):
        """Return features (n, h, w, n_groups_ * c), or a list of (h, w, c)."""
        return self.transform_affines(X)[0]

    def transform_affines(self, X):
        """Return features, and the affines of ``features``."""
        grids, _, affines = self.transform_tokens(X)
        same = len({grid.shape for grid in grids}) == 1
        return (np.stack(grids) if same else grids), affines

    def transform_tokens(self, X):
        """Return features, and the prefix tokens and affines of ``features``."""
        check_is_fitted(self, "texture_")
        images = self._images_to_score(X)
        grids, prefix, affines = self.features_.transform_tokens(images)
        textures, theirs = self.texture_.transform_affines(images)
        joined = []
        for grid, affine, texture, its_affine in zip(grids, affines, textures, theirs):
            layers = grid.reshape(*grid.shape[:2], self.n_groups_ - 1, -1)
            texture = _on_grid(texture, its_affine, grid.shape[:2], affine)
            joined.append(_joined(layers, texture))
        return joined, prefix, affines

    @property
    def cropping(self):
        """The parameter ``cropping`` of ``features``."""
        return self.features_.cropping

    @property
    def images_at_once(self) -> int:
        return self.features_.images_at_once

    def _extractor(self):
        """Load both networks and check that their weights are those of ``fit``."""
        self.features_._extractor()
        self.texture_._extractor()
        return self.transform_tokens


def _on_grid(texture, its_affine, size, affine):
    """Return texture (h, w, c) at the patches of a grid of another size.

    Both affines map a cell to the pixel that it shows. The result is NaN where less
    than half of the interpolation weight comes from valid cells.
    """
    rows = _interpolation(size[0], affine[1], its_affine[1], texture.shape[0], axis=1)
    columns = _interpolation(
        size[1], affine[0], its_affine[0], texture.shape[1], axis=0
    )
    valid = np.isfinite(texture).all(-1)
    share = rows @ valid.astype(np.float32) @ columns.T
    filled = np.where(valid[..., None], texture, np.float32(0))
    lines = np.tensordot(rows, filled, 1)  # (h, its w, c)
    out = np.matmul(columns, lines)  # (h, w, c)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share[..., None] >= 0.5, out / share[..., None], np.nan)


def _interpolation(cells, affine, its_affine, its_cells, *, axis):
    """Return the matrix (cells, its_cells) of linear interpolation along an axis."""
    pixels = affine[axis] * np.arange(cells) + affine[2]
    at = np.clip((pixels - its_affine[2]) / its_affine[axis], 0, its_cells - 1)
    tents = 1 - np.abs(at[:, None] - np.arange(its_cells))
    return np.clip(tents, 0, None).astype(np.float32)


def _joined(grid, texture):
    """Return features (h, w, l, c) and texture (h, w, k) as (h, w, (1 + l) * c)."""
    h, w, n, c = grid.shape
    wide = max(c, texture.shape[-1])
    out = np.zeros((h, w, 1 + n, wide), np.float32)
    out[:, :, 0, : texture.shape[-1]] = texture
    out[:, :, 1:, :c] = grid
    invalid = ~(np.isfinite(texture).all(-1) & np.isfinite(grid).all((-1, -2)))
    out[invalid] = np.nan
    return out.reshape(h, w, -1)
