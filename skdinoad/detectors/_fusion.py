"""Fusion of the distances of several layers, for the score and for the heat map."""

import numpy as np

__all__ = ["LayerFusion"]


class LayerFusion:
    """Weighted means of the distances of several layers, each divided by its scale.

    The scale of a layer is the mean distance of good images held out, which makes
    layers comparable. The mean over all layers gives the image's score, the mean over
    ``map_layers`` its heat map: late layers detect best but localise poorly, because
    attention mixes patches. With one layer distances stay as they are, and the two
    means are equal.

    Parameters
    ----------
    features : fitted extractor or None
        Its ``layers_``, ``map_layers_`` and ``group_weights_`` name and weight layers.
    map_layers : "auto" or sequence
        The layers that heat maps show.
    n : int
        Number of layers.

    Attributes
    ----------
    scales : ndarray of shape (n,), float32
        1 before :meth:`learn`.

    Raises
    ------
    ValueError
        If ``map_layers`` names an unknown layer.
    """

    def __init__(self, features, map_layers, n):
        self.rows = _rows_of_maps(features, map_layers, n)
        self.weights = getattr(features, "group_weights_", None)
        self.scales = np.ones(n, np.float32)

    def learn(self, held, vectors_of, squared):
        """Set the scales and return self.

        Parameters
        ----------
        held : list of ndarray of shape (l, h, w)
            Distances of good images held out; NaN is left out.
        vectors_of : callable
            Returns the good patches (m, c) of layer j. Their spread is the scale where
            no image was held out; it is called in this case only.
        squared : bool
            Whether distances are half the squared ones.
        """
        n = len(self.scales)
        scales = np.ones(n)
        for j in range(n) if n > 1 else ():
            known = np.concatenate([D[j][np.isfinite(D[j])] for D in held])
            scales[j] = known.mean() if len(known) else _spread(vectors_of(j), squared)
        self.scales = np.where(scales > 1e-9, scales, 1).astype(np.float32)
        return self

    def __call__(self, D):
        """Return the means (..., 2, h, w), for score and map, of (..., l, h, w)."""
        D = D / self.scales[:, None, None]
        mean = np.average(D, axis=-3, weights=self.weights).astype(D.dtype)
        return np.stack([mean, D[..., self.rows, :, :].mean(-3)], axis=-3)


def _rows_of_maps(features, wanted, n):
    """Return the indices of the layers, of n, that heat maps show."""
    names = list(getattr(features, "layers_", ()))
    names = names if len(names) == n else list(range(n))
    given = wanted
    if isinstance(wanted, str):
        known = getattr(features, "map_layers_", names)
        wanted = known if set(known) <= set(names) else names
    known = [name for name in wanted if np.ndim(name) == 0 and name in names]
    if not known or len(known) < len(list(wanted)):
        raise ValueError(
            f"map_layers={given!r}: expected 'auto' or some of the layers whose "
            f"features are compared, {names}."
        )
    return [names.index(name) for name in known]


def _spread(vectors, squared):
    """Return the mean distance of vectors to their mean."""
    away = np.linalg.norm(vectors - vectors.mean(0, dtype=np.float32), axis=1)
    return float((away**2 / 2 if squared else away).mean())
