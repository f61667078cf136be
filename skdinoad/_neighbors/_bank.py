"""A memory bank without locations: every vector is compared with every query."""

import numpy as np

from skdinoad._neighbors._coreset import k_centre, random_subset
from skdinoad._neighbors._flat import nearest
from skdinoad._neighbors._index import build_index, search_index
from skdinoad._neighbors._norms import squared_norms

__all__ = ["MemoryBank"]


class MemoryBank:
    """Nominal vectors of many images, searched as one set.

    Parameters
    ----------
    vectors : ndarray of shape (m, c), float32 or float16
    image : ndarray of shape (m,), int
        The image that each vector comes from.
    turned : ndarray of shape (m,), bool
        Whether it comes from a turned copy of that image.
    """

    def __init__(self, vectors, image, turned):
        self.vectors, self.image, self.turned = vectors, image, turned
        self.squares = squared_norms(vectors)
        self.index = None

    @classmethod
    def join(cls, parts):
        """Return the bank of a list of (vectors, image, turned), one per picture."""
        sizes = [len(vectors) for vectors, _, _ in parts]
        image = np.repeat([i for _, i, _ in parts], sizes).astype(np.int32)
        turned = np.repeat([t for _, _, t in parts], sizes).astype(bool)
        return cls(np.concatenate([vectors for vectors, _, _ in parts]), image, turned)

    def __len__(self):
        return len(self.vectors)

    def of(self, i) -> np.ndarray:
        """Return the vectors of image i as it was given, in the order given."""
        return self.vectors[(self.image == i) & ~self.turned]

    def select(self, rows) -> "MemoryBank":
        """Return the bank of some rows: a boolean array or an index."""
        return MemoryBank(self.vectors[rows], self.image[rows], self.turned[rows])

    def extend(self, other) -> "MemoryBank":
        """Return this bank with another one behind it."""
        names = ("vectors", "image", "turned")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return MemoryBank(*map(np.concatenate, pairs))

    def thinned(self, n, sampling, random_state, *, verbose=False) -> "MemoryBank":
        """Return a bank of at most n vectors, a coreset or a random subset."""
        if n >= len(self):
            return self
        if sampling == "random":
            return self.select(random_subset(len(self), n, random_state))
        # Rising rows: neighbours in memory are neighbours in the image.
        return self.select(np.sort(k_centre(self.vectors, n, verbose=verbose)))

    def indexed(self, seed) -> "MemoryBank":
        """Build the approximate index; queries ask it from then on."""
        self.index = build_index(self.vectors, seed)
        return self

    def squared_distances(self, queries, *, k=1, without=None, device="cpu"):
        """Return the mean squared distance of each query to its k nearest vectors.

        Parameters
        ----------
        queries : ndarray of shape (q, c), float32
        k : int
        without : array-like of int, or None
            Images whose vectors, turned or not, are not looked at. Always exact.
        device : str or torch.device

        Returns
        -------
        ndarray of shape (q,), float32
            NaN if no vector counts.
        """
        if self.index is not None and without is None:
            squared, _ = search_index(self.index, queries, k=k)
        else:
            squares = self.squares
            if without is not None:
                hidden = np.isin(self.image, without)
                squares = np.where(hidden, np.float32(np.inf), squares)
            squared, _ = nearest(queries, self.vectors, squares, k=k, device=device)
        found = np.isfinite(squared)
        total = np.where(found, squared, 0).sum(1)
        return np.where(found[:, 0], total / np.maximum(found.sum(1), 1), np.nan)
