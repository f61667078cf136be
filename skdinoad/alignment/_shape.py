"""Align parts of unusual length by the end that matches the training parts."""

from dataclasses import dataclass

import cv2
import numpy as np

from skdinoad._arrays.geometry import pose_affine, turn_affine, warp_rgba

__all__ = ["UsualShape", "learn_shape"]

#: Factor by which length over width may exceed the range of the training parts.
_TOLERANCE = 1.08

#: Candidate frames are compared on images reduced by this factor. Errors are divided
#: by the spread of the training parts plus _NOISE grey levels, and limited to _CAP.
_REDUCED, _NOISE, _CAP = 4, 10.0, 3.0


@dataclass(frozen=True)
class UsualShape:
    """Positions of the training parts' ends in the output, and their appearance.

    Parameters
    ----------
    elongations : (float, float)
        Smallest and largest length over width of the training parts.
    ends : (float, float)
        x of the left and the right end in the output.
    width : float
        Extent across the axis in the output.
    zoom : float
        Output pixels per source pixel.
    mean, spread : ndarray of shape (h, w, 3), float32
        Mean and standard deviation of the reduced, aligned training parts.
    """

    elongations: tuple
    ends: tuple
    width: float
    zoom: float
    mean: np.ndarray
    spread: np.ndarray

    def fits(self, pose) -> bool:
        """Whether a part's length over width is within the range of training parts."""
        low, high = self.elongations
        return low / _TOLERANCE <= _elongation(pose) <= high * _TOLERANCE

    def better_frame(self, image, pose, angle, affine, size, *, mirror):
        """Return the affine in which an unusual part best matches the training parts.

        A part that lost a third of its length has a different centroid, spread and
        skewness, so alignment by moments mismatches it everywhere. Aligned at the usual
        size by its intact end, it differs only where something is missing.

        Parameters
        ----------
        image : ndarray of shape (H, W, 3 or 4), uint8
        pose : Pose
        angle : float
            Rotation of the part in radians.
        affine : ndarray of shape (3, 3)
            Frame from the moments alone, the first candidate.
        size : (int, int)
            Height and width of the output.
        mirror : bool
            Whether a reversed part is mirrored instead of rotated.

        Returns
        -------
        ndarray of shape (3, 3)
        """
        turn = turn_affine(size, mirror=mirror)
        affines = [affine, affine @ turn]
        for zoom in (self.width / np.ptp(_across(pose)), self.zoom):
            for end in (0, 1):
                affines.append(self._anchored(pose, angle, zoom, size, end, end))
                other = self._anchored(pose, angle, zoom, size, end, 1 - end, turned=1)
                affines.append(other @ turn)
        errors = [self._disagreement(image, affine, size) for affine in affines]
        return affines[int(np.argmin(errors))]

    def _anchored(self, pose, angle, zoom, size, end, place, *, turned=0):
        """Return the affine that places one end of a part at a training parts' end."""
        middle = (size[1] - 1) / 2
        x = 2 * middle - self.ends[place] if turned else self.ends[place]
        along = pose.ends[end] * pose.sigma - (x - middle) / zoom
        axis = np.array([np.cos(pose.angle), np.sin(pose.angle)])
        return pose_affine(pose.centre + along * axis, angle, zoom, size)

    def _disagreement(self, image, affine, size):
        small, valid = _reduced(image, affine, size)
        error = np.abs(small - self.mean) / (self.spread + _NOISE)
        return np.minimum(error, _CAP)[valid].mean() if valid.any() else np.inf


def learn_shape(images, poses, affines, size):
    """Learn the usual shape of aligned parts.

    Parameters
    ----------
    images : sequence of ndarray of shape (H, W, 3 or 4), uint8
    poses : list of Pose
    affines : ndarray of shape (n, 3, 3)
    size : (int, int)
        Height and width of the output.

    Returns
    -------
    UsualShape
    """
    elongations = [_elongation(pose) for pose in poses]
    ends = [_ends_in_output(*pair) for pair in zip(poses, affines)]
    zooms = [1 / np.sqrt(abs(np.linalg.det(affine))) for affine in affines]
    widths = [np.ptp(_across(pose)) * zoom for pose, zoom in zip(poses, zooms)]
    seen = [_reduced(image, affine, size)[0] for image, affine in zip(images, affines)]
    return UsualShape(
        (min(elongations), max(elongations)),
        tuple(np.median(ends, axis=0)),
        float(np.median(widths)),
        float(np.median(zooms)),
        np.mean(seen, axis=0),
        np.std(seen, axis=0),
    )


def _elongation(pose):
    return np.ptp(pose.ends) * pose.sigma / max(np.ptp(_across(pose)), 1e-9)


def _across(pose):
    """Return the smallest and largest offset across the axis in source pixels."""
    return np.multiply(pose.sides, pose.sigma)


def _ends_in_output(pose, affine):
    """Return the output x of a part's ends, from left to right."""
    axis = np.array([np.cos(pose.angle), np.sin(pose.angle)])
    points = [pose.centre + end * pose.sigma * axis for end in pose.ends]
    inverse = np.linalg.inv(affine)
    return sorted((inverse @ [*point, 1])[0] for point in points)


def _reduced(image, affine, size):
    """Return a reduced aligned image (h, w, 3), float32, and its valid mask."""
    size = tuple(max(1, edge // _REDUCED) for edge in size)
    smaller = np.diag([_REDUCED, _REDUCED, 1.0])
    smaller[:2, 2] = (_REDUCED - 1) / 2
    blurred = cv2.GaussianBlur(image, (0, 0), _blur(affine))
    Z = warp_rgba(blurred, affine @ smaller, size, border="replicate")
    return Z[..., :3].astype(np.float32), Z[..., 3] > 0


def _blur(affine):
    """Return the standard deviation, in source pixels, of half a reduced pixel."""
    return max(0.3, _REDUCED / 2 * np.sqrt(abs(np.linalg.det(affine))) / 2)
