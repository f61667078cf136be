"""Augment images by rotating, mirroring or cropping."""

import zlib

import numpy as np

from skdinoad._inputs.images import Images

__all__ = ["Copies", "crops", "dihedral"]


def dihedral(image) -> list:
    """Return all eight rotations by 90 degrees and reflections, the original first."""
    return [
        np.ascontiguousarray(np.rot90(side, turns))
        for side in (image, image[:, ::-1])
        for turns in range(4)
    ]


def crops(image, n, rng, *, scale=0.875, stretch=0.05) -> list:
    """Return n random crops of an image (H, W, c).

    Parameters
    ----------
    image : ndarray of shape (H, W, c)
    n : int
    rng : RandomState
    scale : float
        Side of a crop as a share of the image's; 392 of 448 pixels in Dinomaly2.
    stretch : float
        Largest relative change of the aspect ratio.
    """
    return [_crop(image, rng, scale, stretch) for _ in range(n)]


def _crop(image, rng, scale, stretch):
    ratio = np.sqrt(1 + rng.uniform(-stretch, stretch))
    wanted = np.multiply(image.shape[:2], (scale * ratio, scale / ratio))
    height, width = np.minimum(np.maximum(1, wanted.round()), image.shape[:2])
    top = rng.randint(image.shape[0] - int(height) + 1)
    left = rng.randint(image.shape[1] - int(width) + 1)
    return image[top : top + int(height), left : left + int(width)]


class Copies:
    """Lazy sequence of images and their augmented copies.

    Parameters
    ----------
    X : Images
    kind : {"dihedral", "crops"}
    seed : int
        Seed of the crops, which depend on the seed and the image's content only.
    """

    #: Number of copies of each image, including the original, which comes first.
    each = 8

    def __init__(self, X, kind, seed):
        self._X, self._kind, self._seed = X, kind, seed

    @classmethod
    def of(cls, X, kind, seed) -> Images:
        """Return the copies as Images, each after its original."""
        if not isinstance(X, Images):
            raise ValueError(
                f"augmentation={kind!r}, but X holds features, and only images can be "
                "turned or cut. Pass images, or augmentation=None."
            )
        return Images(cls(X, kind, seed))

    def __len__(self):
        return len(self._X) * self.each

    def __getitem__(self, k):
        row, copy = divmod(int(k), self.each)
        image = self._X[row]
        if self._kind == "dihedral":
            return dihedral(image)[copy]
        content = zlib.crc32(np.ascontiguousarray(image))
        rng = np.random.RandomState((self._seed + content) % 2**32)
        return image if copy == 0 else crops(image, self.each - 1, rng)[copy - 1]
