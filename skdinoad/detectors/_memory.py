"""The memory bank of AnomalyDINO, and what it keeps of each training image."""

from numbers import Real

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skdinoad._arrays.maps import unit
from skdinoad._neighbors import PatchVectors, import_faiss

__all__ = [
    "ImageBank",
    "check_channels",
    "check_search",
    "concatenated_layers",
    "mean_patches",
]

#: What is kept of each training image beside its vectors and held-out distances.
_KEPT = ("valid", "mask", "statistics", "whole", "scored")


class ImageBank:
    """A bank of patch vectors, and records of the images that they come from.

    Methods return new banks; records are shared between a bank and those made of it by
    :meth:`with_vectors`.

    Parameters
    ----------
    vectors : PatchVectors or None
        Unit vectors of all images, those of turned copies included.
    images : list of Bunch
        For each image ``valid``, ``mask`` and ``scored`` (h, w), ``statistics`` of the
        mask, ``whole`` as :func:`mean_patches` has it, and ``held``, its distances
        (l, h, w) to the bank without it.
    n_seen : int
        Number of vectors before the bank was thinned.
    """

    def __init__(self, vectors=None, images=(), n_seen=0):
        self.vectors, self.images, self.n_seen = vectors, list(images), n_seen

    def extended(self, pictures, images, n_layers):
        """Return a bank with more images.

        Parameters
        ----------
        pictures : list of (vectors, image, turned)
            Of each image and turned copy, as :meth:`PatchVectors.join` takes them.
        images : list of Bunch
        n_layers : int
        """
        new = PatchVectors.join(pictures, n_layers)
        vectors = new if self.vectors is None else self.vectors.extend(new)
        records = [Bunch(**{name: image[name] for name in _KEPT}) for image in images]
        known = [Bunch(**image) for image in self.images]
        return ImageBank(vectors, known + records, self.n_seen + len(new))

    @classmethod
    def merged(cls, banks, dtype):
        """Return one bank of the images of several banks."""
        channels = banks[0].vectors.vectors.shape[1]
        for bank in banks:
            check_channels("A detector", bank.vectors.vectors.shape[1], channels)
        firsts = np.cumsum([0] + [len(bank.images) for bank in banks])
        vectors = PatchVectors.merge([bank.vectors for bank in banks], firsts, dtype)
        images = [Bunch(**image) for bank in banks for image in bank.images]
        return cls(vectors, images, sum(bank.n_seen for bank in banks))

    def with_vectors(self, vectors):
        """Return a bank of the same images with other vectors."""
        return ImageBank(vectors, self.images, self.n_seen)

    def without_turns(self):
        """Return a bank without the vectors of turned copies."""
        vectors = self.vectors
        if vectors.turned.any():
            vectors = vectors.select(~vectors.turned)
        n_seen = sum(int(image.valid.sum()) for image in self.images)
        return ImageBank(vectors, self.images, n_seen)

    def in_order(self, rank):
        """Return a bank whose vectors are sorted by the rank of their images."""
        return self.with_vectors(self.vectors.in_order(rank))

    def thinned(self, wanted, random_state, verbose=False):
        """Return a bank of the size that a MemoryBank asks for."""
        if wanted.size is None:
            return self
        share = isinstance(wanted.size, Real) and wanted.size < 1
        size = round(wanted.size * self.n_seen) if share else wanted.size
        how = wanted.sampling, check_random_state(random_state)
        return self.with_vectors(
            self.vectors.thinned(max(1, size), *how, verbose=verbose)
        )

    def grids(self):
        """Return the vectors (h, w, l * c) of each image, None if some are lost."""
        if len(self.vectors) != self.n_seen:
            return [None] * len(self.images)
        grids = []
        for i, image in enumerate(self.images):
            channels = self.vectors.vectors.shape[1]
            grid = np.full((*image.valid.shape, channels), np.nan, np.float32)
            grid[image.valid] = self.vectors.of(i)
            grids.append(grid)
        return grids

    def distances(self, grid, wanted, *, masked=False, without=None, device="cpu"):
        """Return the cosine distances (l, h, w) of unit vectors to the bank.

        Parameters
        ----------
        grid : ndarray of shape (h, w, l * c)
            NaN = invalid, which has no distance.
        wanted : MemoryBank
            The number of neighbours, and of images that are compared.
        masked : bool
            Whether whole images are compared by their objects alone.
        without : array of int or None
            Images that are left out.
        device : torch.device
        """
        valid = np.isfinite(grid).all(-1)
        vectors, queries = self.vectors, grid[valid]
        D = np.full((vectors.n_layers, *valid.shape), np.nan, np.float32)
        if wanted.nearest_images is not None and valid.any():
            wholes = np.stack([image.whole[int(masked)] for image in self.images])
            vectors = self._of_similar(wholes, queries, wanted.nearest_images, without)
        how = {"k": wanted.n_neighbors, "without": without, "device": device}
        # Between unit vectors 1 - cos is half the squared distance.
        D[:, valid] = vectors.squared_distances(queries, **how) / 2
        return D

    def _of_similar(self, wholes, queries, n, without):
        """Return the vectors of the n images that are most similar as a whole."""
        images = np.setdiff1d(self.vectors.image, [] if without is None else without)
        if len(images) <= n:
            return self.vectors
        order = np.argsort(-(wholes[images] @ _mean_patch(queries)), kind="stable")
        return self.vectors.select(np.isin(self.vectors.image, images[order[:n]]))


def check_search(wanted):
    """Raise an error if a MemoryBank asks for a search that is not possible."""
    if wanted.search == "exact":
        return
    import_faiss()  # a missing package is reported before minutes of work
    if wanted.nearest_images is not None:
        raise ValueError(
            f"nearest_images={wanted.nearest_images} with search='approximate': an "
            "index holds the vectors of all images. Leave one of the two out."
        )


def concatenated_layers(grid):
    """Return features (h, w, l, c) of unit length as (h, w, l * c)."""
    return unit(np.asarray(grid, np.float32)).reshape(*grid.shape[:2], -1)


def mean_patches(grid, valid, mask):
    """Return the mean directions (2, l * c) of an image, and of its object alone."""
    masked = mask is not None and (valid & mask).any()
    seen = valid & mask if masked else valid
    return np.stack([_mean_patch(grid[valid]), _mean_patch(grid[seen])])


def _mean_patch(vectors):
    """Return the mean direction (l * c,) of patches (m, l * c)."""
    return unit(vectors.mean(0, dtype=np.float32))


def check_channels(name, channels, expected):
    """Raise an error if features have another number of channels than the bank."""
    if channels != expected:
        raise ValueError(
            f"{name} has features of {channels} channels, the bank of {expected}: use "
            "one extractor for all."
        )
