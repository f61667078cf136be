"""A memory bank for each location: vectors are compared with those near them."""

import numpy as np

from skdinoad._neighbors._coreset import k_centre_images, k_centre_local
from skdinoad._neighbors._flat import nearest
from skdinoad._neighbors._local import nearest_local
from skdinoad._neighbors._norms import squared_norms

__all__ = ["LocatedVectors"]


class LocatedVectors:
    """Nominal vectors of many images, a set for each location, each layer apart.

    Parameters
    ----------
    vectors : ndarray of shape (l, h, w, m, c), float32 or float16
        The m vectors of each location, for each of l layers; 0 where invalid.
    valid : ndarray of shape (h, w, m), bool
    image : ndarray of shape (h, w, m), int
        The image that each vector comes from.
    """

    def __init__(self, vectors, valid, image):
        self.vectors, self.valid, self.image = vectors, valid, image
        self._squares = squared_norms(vectors, valid)

    @classmethod
    def of_grids(cls, P, images, dtype):
        """Return the bank of features (n, h, w, l, c), NaN = invalid.

        Invalid ones become 0, in the features too where they lie in memory as the bank.
        ``images`` (n,) are the numbers of the images.
        """
        bank = np.ascontiguousarray(P.transpose(3, 1, 2, 0, 4))
        valid = np.isfinite(bank).all((0, -1))
        bank[:, ~valid] = 0
        most = np.finfo(dtype).max
        if dtype != "float32" and (np.abs(bank) > most).any():
            raise ValueError(
                f"dtype={dtype!r} of the bank holds no features beyond {most:.0f}: "
                "pass dtype='float32'."
            )
        image = np.broadcast_to(images, valid.shape)
        return cls(bank.astype(dtype, copy=False), valid, image)

    @property
    def n_images(self):
        """How many vectors each location has."""
        return self.vectors.shape[3]

    def extend(self, other) -> "LocatedVectors":
        """Return this bank with another one behind it."""
        pairs = (
            ("vectors", 3),
            ("valid", 2),
            ("image", 2),
        )
        return LocatedVectors(
            *(
                np.concatenate([getattr(self, name), getattr(other, name)], axis=axis)
                for name, axis in pairs
            )
        )

    def reduced(self, max_images=None, n_prototypes=None) -> "LocatedVectors":
        """Return the bank of some images, then of some vectors of each location.

        One choice serves all layers.
        """
        bank, valid, image = self.vectors, self.valid, self.image
        if max_images is not None and max_images < bank.shape[3]:
            keep = k_centre_images(_one_layer(bank), max_images)
            bank, valid, image = (
                bank[:, :, :, keep],
                valid[:, :, keep],
                image[:, :, keep],
            )
        if n_prototypes is not None and n_prototypes < bank.shape[3]:
            index = k_centre_local(_one_layer(bank), valid, n_prototypes)
            bank = np.take_along_axis(bank, index[None, ..., None], 3)
            valid = np.take_along_axis(valid, index, 2)
            image = np.take_along_axis(image, index, 2)
        return LocatedVectors(*map(np.ascontiguousarray, (bank, valid, image)))

    def of_similar(self, P, n, own=None):
        """Yield, for each image of P, the bank of the n images that look most like it.

        Images are compared by the cosine of their mean patches over all layers. The
        bank must be whole: the vectors of each image are at one index.

        Parameters
        ----------
        P : ndarray of shape (n, h, w, l, c)
        n : int
        own : ndarray of shape (n,), int, or None
            Image own[i] is not among those of image i, unless fewer than n are left.
        """
        total = self.vectors.sum(axis=(1, 2), dtype=np.float32)  # invalid ones are 0
        known = _directions(np.moveaxis(total, 1, 0))
        seen = _directions(np.nansum(P, axis=(1, 2), dtype=np.float32))
        alike = seen @ known.T
        for i, similarity in enumerate(alike):
            if own is not None:
                similarity[self.image[0, 0] == own[i]] = -np.inf
            keep = np.sort(np.argsort(-similarity, kind="stable")[:n])
            parts = [x[..., keep] for x in (self.valid, self.image)]
            parts = self.vectors[:, :, :, keep], *parts
            yield LocatedVectors(*map(np.ascontiguousarray, parts))

    def of(self, i) -> np.ndarray:
        """Return the features of image i of a whole bank, (1, h, w, l, c)."""
        P = self.vectors[:, :, :, i].transpose(1, 2, 0, 3).astype(np.float32)
        P[~self.valid[:, :, i]] = np.nan
        return P[np.newaxis]

    def distances(self, P, *, radius=0, own=None, device="cpu"):
        """Return Euclidean distances (n, l, h, w) to vectors at or near the location.

        Parameters
        ----------
        P : ndarray of shape (n, h, w, l, c)
        radius : int
            How many patches away a vector may be, in rows and in columns.
        own : ndarray of shape (n,), int, or None
            Image i ignores vectors of image own[i].
        device : str or torch.device
        """
        how = {"radius": radius, "own": own, "owner": self.image, "device": device}
        found = [
            nearest_local(layer, self.vectors[j], self._squares[j], **how)
            for j, layer in enumerate(_layers(P))
        ]
        return np.stack(found, axis=1)

    def distances_anywhere(self, P, *, own=None, device="cpu"):
        """Return the same to the nearest vector of all locations."""
        found = []
        for j, layer in enumerate(_layers(P)):
            bank = self.vectors[j].reshape(-1, layer.shape[-1])
            D = np.full(layer.shape[:3], np.nan, np.float32)
            for i, valid in enumerate(np.isfinite(layer).all(-1)):
                squares = self._squares[j].ravel()
                if own is not None:
                    hidden = self.image.ravel() == own[i]
                    squares = np.where(hidden, np.float32(np.inf), squares)
                squared, _ = nearest(layer[i][valid], bank, squares, device=device)
                D[i][valid] = np.sqrt(squared[:, 0])
            D[np.isinf(D)] = np.nan
            found.append(D)
        return np.stack(found, axis=1)


def _layers(P):
    """Return each layer of (n, h, w, l, c), contiguous."""
    layers = np.moveaxis(np.asarray(P, np.float32), 3, 0)
    return [np.ascontiguousarray(layer) for layer in layers]


def _directions(total):
    """Return sums of vectors (m, l, c) as unit vectors (m, l * c)."""
    vectors = total.reshape(len(total), -1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)


def _one_layer(bank):
    """Return a bank (l, h, w, m, c) as one layer of l * c channels."""
    return bank[0] if len(bank) == 1 else np.concatenate(list(bank), axis=-1)
