"""A memory bank without locations: every query is compared with all vectors."""

import numpy as np

from skdinoad._neighbors._coreset import k_centre, random_subset
from skdinoad._neighbors._flat import nearest
from skdinoad._neighbors._index import build_index, search_index
from skdinoad._neighbors._norms import squared_norms

__all__ = ["PatchVectors"]


class PatchVectors:
    """Nominal vectors of many images, searched as one set, separately for each layer.

    Parameters
    ----------
    vectors : ndarray of shape (m, l * c), float32 or float16
        The concatenated vectors of all l layers of a patch. Subsampling keeps or drops
        a patch in all layers.
    image : ndarray of shape (m,), int
        Index of the image of each vector.
    turned : ndarray of shape (m,), bool
        Whether the vector comes from a rotated copy of that image.
    n_layers : int
        Number l of concatenated layers.
    """

    def __init__(self, vectors, image, turned, n_layers=1):
        self.vectors, self.image, self.turned = vectors, image, turned
        self.n_layers, self.indices = n_layers, None
        self._see_layers()

    def _see_layers(self):
        """Create a view of each layer; its GPU copy lives as long as the view."""
        self._layers = np.split(self.vectors, self.n_layers, axis=1)
        self._squares = [squared_norms(part) for part in self._layers]

    @classmethod
    def join(cls, parts, n_layers=1):
        """Return the bank of a list of (vectors, image, turned), one per image."""
        sizes = [len(vectors) for vectors, _, _ in parts]
        image = np.repeat([i for _, i, _ in parts], sizes).astype(np.int32)
        turned = np.repeat([t for _, _, t in parts], sizes).astype(bool)
        vectors = np.concatenate([vectors for vectors, _, _ in parts])
        return cls(vectors, image, turned, n_layers)

    @classmethod
    def merge(cls, banks, firsts, dtype):
        """Merge several banks, with images in the order of :meth:`join`.

        Parameters
        ----------
        banks : list of PatchVectors
        firsts : list of int
            New index of image 0 of each bank.
        dtype : str
            Dtype of the vectors.
        """
        vectors = np.concatenate([b.vectors.astype(dtype, copy=False) for b in banks])
        image = np.concatenate([b.image + first for b, first in zip(banks, firsts)])
        turned = np.concatenate([bank.turned for bank in banks])
        if turned.any():
            order = np.argsort(turned, kind="stable")
            vectors, image, turned = vectors[order], image[order], turned[order]
        return cls(vectors, image.astype(np.int32), turned, banks[0].n_layers)

    def __len__(self):
        return len(self.vectors)

    def __getstate__(self):
        """Exclude views, which would be pickled as copies."""
        hidden = ("_layers", "_squares")
        return {name: part for name, part in vars(self).items() if name not in hidden}

    def __setstate__(self, state):
        vars(self).update(state)
        self._see_layers()

    def layer(self, j) -> np.ndarray:
        """Return the vectors (m, c) of layer j."""
        return self._layers[j]

    def of(self, i) -> np.ndarray:
        """Return the vectors of the unrotated image i, in their original order."""
        return self.vectors[(self.image == i) & ~self.turned]

    def select(self, rows) -> "PatchVectors":
        """Return the bank of some rows, given by a boolean or index array."""
        parts = self.vectors[rows], self.image[rows], self.turned[rows]
        return PatchVectors(*parts, self.n_layers)

    def in_order(self, rank) -> "PatchVectors":
        """Return the bank sorted by the rank of its images, rotated copies last."""
        order = np.lexsort([rank[self.image], self.turned])
        return self if (np.diff(order) == 1).all() else self.select(order)

    def extend(self, other) -> "PatchVectors":
        """Return this bank with another bank appended."""
        names = ("vectors", "image", "turned")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return PatchVectors(*map(np.concatenate, pairs), self.n_layers)

    def thinned(self, n, sampling, random_state, *, verbose=False) -> "PatchVectors":
        """Return a bank of at most n vectors, a coreset or a random subset."""
        if n >= len(self):
            return self
        if sampling == "random":
            return self.select(random_subset(len(self), n, random_state))
        # Ascending rows: neighbours in memory are neighbours in the image.
        return self.select(np.sort(k_centre(self.vectors, n, verbose=verbose)))

    def indexed(self, seed) -> "PatchVectors":
        """Build an approximate index of each layer, used by all later queries."""
        self.indices = [build_index(part, seed) for part in self._layers]
        return self

    def squared_distances(self, queries, *, k=1, without=None, device="cpu"):
        """Return the mean squared distance of each query to its k nearest vectors.

        Parameters
        ----------
        queries : ndarray of shape (q, l * c), float32
        k : int
        without : array-like of int, or None
            Images to exclude, with their rotated copies. The search is then exact.
        device : str or torch.device

        Returns
        -------
        ndarray of shape (l, q), float32
            One row per layer; NaN if all vectors are excluded.
        """
        hidden = None if without is None else np.isin(self.image, without)
        parts = np.split(queries, self.n_layers, axis=1)
        return np.stack(
            [self._of_layer(i, q, k, hidden, device) for i, q in enumerate(parts)]
        )

    def _of_layer(self, i, queries, k, hidden, device):
        if self.indices is not None and hidden is None:
            squared, _ = search_index(self.indices[i], queries, k=k)
        else:
            squares = self._squares[i]
            if hidden is not None:
                squares = np.where(hidden, np.float32(np.inf), squares)
            layer = self.layer(i)
            squared, _ = nearest(queries, layer, squares, k=k, device=device)
        found = np.isfinite(squared)
        total = np.where(found, squared, 0).sum(1)
        return np.where(found[:, 0], total / np.maximum(found.sum(1), 1), np.nan)
