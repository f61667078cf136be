"""Distances of several layers: each layer separately, then their mean."""

import numpy as np

from skdinoad._arrays.maps import aggregate
from skdinoad._compat.sklearn import StrOptions
from skdinoad._inputs.estimators import fitted_extractor
from skdinoad.base import BaseDetector
from skdinoad.features._textured import TexturedFeatures, texture_for

__all__ = ["LayeredDetector"]


class LayeredDetector(BaseDetector):
    """Base class of the detectors that compare the patches of each layer separately.

    Features of an image are (h, w, l, c) here. A subclass computes distances (l, h, w),
    gives those of good images held out to ``_learn_scales``, and returns what
    ``_fused`` makes of distances: each layer's are divided by their mean over the
    held-out images, which makes layers comparable, and averaged twice: over all layers
    for the image's score, over ``map_layers`` for its heat map. Late layers detect
    best but localise poorly, because attention mixes patches.

    With one layer distances stay as they are, and the two are the same.

    ``texture`` adds the features of a CNN as another layer, with the same weight as all
    other layers together. Feature grids have no texture.
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "map_layers": [StrOptions({"auto"}), "array-like"],
        "texture": "no_validation",
    }

    # -- features ---------------------------------------------------------------------

    def _fit_extractor(self, X):
        features = super()._fit_extractor(X)
        if features is None or self.texture is None:
            return features
        texture = self.texture
        if isinstance(texture, str) and texture == "auto":
            texture = texture_for(features)
        if texture is not None:
            if not hasattr(features, "transform_tokens"):
                raise TypeError(
                    f"texture={texture!r} goes beside DinoFeatures, but features="
                    f"{self.features!r}: pass texture=None."
                )
            texture = fitted_extractor("texture", texture, X)
        return features if texture is None else TexturedFeatures.of(features, texture)

    def _read_batch(self, batch):
        """Return features (h, w, l, c) of a few images, and affines."""
        F, affines = super()._read_batch(batch)
        if isinstance(F, np.ndarray) and F.dtype != object:
            return F.reshape(len(F), *self._apart(F.shape[1:])), affines
        grids = [np.asarray(grid) for grid in F]
        return [grid.reshape(self._apart(grid.shape)) for grid in grids], affines

    def _apart(self, shape):
        """Return the shape of a grid (h, w, l * c) with its layers apart."""
        n = getattr(self.features_, "n_groups_", 1)
        if len(shape) != 3 or shape[2] % n:
            return shape
        return (*shape[:2], n, shape[2] // n)

    def _check_features(self, grid):
        if grid.ndim != 4 or grid.dtype.kind != "f":
            super()._check_features(grid)

    # -- fusion -----------------------------------------------------------------------

    def _learn_scales(self, held, vectors_of, n, squared):
        """Set the scale of each layer: the mean distance of good images.

        Parameters
        ----------
        held : list of ndarray of shape (l, h, w)
            Distances of good images held out; NaN is left out.
        vectors_of : callable
            Returns the good patches (m, c) of layer j: how far they lie apart serves
            where nothing was held out, and only there are they asked for.
        n : int
            How many layers.
        squared : bool
            Whether distances are half the squared ones.
        """
        self._rows_of_maps(n)  # complains of unknown layers
        scales = np.ones(n)
        for j in range(n) if n > 1 else ():
            known = np.concatenate([D[j][np.isfinite(D[j])] for D in held])
            scales[j] = known.mean() if len(known) else _spread(vectors_of(j), squared)
        self.layer_scales_ = np.where(scales > 1e-9, scales, 1).astype(np.float32)

    def _fused(self, D):
        """Return the means (..., 2, h, w) of distances (..., l, h, w), scaled."""
        D = D / self.layer_scales_[:, None, None]
        rows = self._rows_of_maps(D.shape[-3])
        weights = getattr(self.features_, "group_weights_", None)
        mean = np.average(D, axis=-3, weights=weights).astype(D.dtype)
        return np.stack([mean, D[..., rows, :, :].mean(-3)], axis=-3)

    def _rows_of_maps(self, n):
        """Return which of n layers heat maps show."""
        names = list(getattr(self.features_, "layers_", ()))
        names = names if len(names) == n else list(range(n))
        wanted = self.map_layers
        if isinstance(wanted, str):
            known = getattr(self.features_, "map_layers_", names)
            wanted = known if set(known) <= set(names) else names
        else:
            wanted = list(wanted)
        known = [name for name in wanted if np.ndim(name) == 0 and name in names]
        if not known or len(known) < len(wanted):
            raise ValueError(
                f"map_layers={self.map_layers!r}: expected 'auto' or some of the "
                f"layers whose features are compared, {names}."
            )
        return [names.index(name) for name in known]

    # -- the parts of a detector ------------------------------------------------------

    def _aggregate(self, D, **how):
        scores = [grid[0] for grid in D]
        return aggregate(scores, self.aggregate, **how)

    def _shown(self, D):
        return [grid[1] for grid in D]

    def _map(self, grid, affine, size):
        return super()._map(grid[1], affine, size)


def _spread(vectors, squared):
    """Return the mean distance of vectors to their mean."""
    away = np.linalg.norm(vectors - vectors.mean(0, dtype=np.float32), axis=1)
    return float((away**2 / 2 if squared else away).mean())
