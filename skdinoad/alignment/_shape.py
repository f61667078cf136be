"""Parts of unusual shape: which of their ends still lies where it should."""

from dataclasses import dataclass

import cv2
import numpy as np

from skdinoad._arrays.geometry import pose_frame, turn_frame, warp_rgba

__all__ = ["UsualShape", "learn_shape"]

#: How much longer or shorter for its width a part may be than any training part.
_TOLERANCE = 1.08

#: Placements are compared on images reduced so many times, in units of how much
#: training parts differ there, plus this many grey levels; more than _CAP is "other".
_REDUCED, _NOISE, _CAP = 4, 10.0, 3.0


@dataclass(frozen=True)
class UsualShape:
    """Where training parts end in the output, and how they look there.

    Parameters
    ----------
    elongations : (float, float)
        Least and largest length over width of training parts.
    ends : (float, float)
        x of the left and of the right end in the output.
    width : float
        Extent across the axis in the output.
    zoom : float
        Output pixels per source pixel.
    mean, spread : ndarray of shape (h, w, 3), float32
        Mean and standard deviation of the reduced training parts, as placed.
    """

    elongations: tuple
    ends: tuple
    width: float
    zoom: float
    mean: np.ndarray
    spread: np.ndarray

    def fits(self, pose) -> bool:
        """Whether a part's length for its width is one that was seen in training."""
        low, high = self.elongations
        return low / _TOLERANCE <= _elongation(pose) <= high * _TOLERANCE

    def better_frame(self, image, pose, angle, frame, size, *, mirror):
        """Return the frame in which an unusual part agrees best with training parts.

        A part that lost a third of its length has another centre, spread and skewness:
        placed by these it agrees nowhere. Placed at the usual size by the end that is
        still there, only what is missing differs.

        Parameters
        ----------
        image : ndarray of shape (H, W, 3 or 4), uint8
        pose : Pose
        angle : float
            By how much the part is turned, in radians.
        frame : ndarray of shape (3, 3)
            How moments alone place it: the first candidate.
        size : (int, int)
            Height and width of the output.
        mirror : bool
            Whether turning a part end for end mirrors it.

        Returns
        -------
        ndarray of shape (3, 3)
        """
        turn = turn_frame(size, mirror=mirror)
        frames = [frame, frame @ turn]
        for zoom in (self.width / np.ptp(_across(pose)), self.zoom):
            for end in (0, 1):
                frames.append(self._anchored(pose, angle, zoom, size, end, end))
                other = self._anchored(pose, angle, zoom, size, end, 1 - end, turned=1)
                frames.append(other @ turn)
        errors = [self._disagreement(image, frame, size) for frame in frames]
        return frames[int(np.argmin(errors))]

    def _anchored(self, pose, angle, zoom, size, end, place, *, turned=0):
        """Return the frame that puts one of a part's ends where training parts end."""
        middle = (size[1] - 1) / 2
        x = 2 * middle - self.ends[place] if turned else self.ends[place]
        along = pose.ends[end] * pose.sigma - (x - middle) / zoom
        axis = np.array([np.cos(pose.angle), np.sin(pose.angle)])
        return pose_frame(pose.centre + along * axis, angle, zoom, size)

    def _disagreement(self, image, frame, size):
        small, valid = _reduced(image, frame, size)
        error = np.abs(small - self.mean) / (self.spread + _NOISE)
        return np.minimum(error, _CAP)[valid].mean() if valid.any() else np.inf


def learn_shape(images, poses, frames, size):
    """Return the usual shape of parts that were placed by their frames.

    Parameters
    ----------
    images : sequence of ndarray of shape (H, W, 3 or 4), uint8
    poses : list of Pose
    frames : ndarray of shape (n, 3, 3)
    size : (int, int)
        Height and width of the output.

    Returns
    -------
    UsualShape
    """
    elongations = [_elongation(pose) for pose in poses]
    ends = [_ends_in_output(*pair) for pair in zip(poses, frames)]
    zooms = [1 / np.sqrt(abs(np.linalg.det(frame))) for frame in frames]
    widths = [np.ptp(_across(pose)) * zoom for pose, zoom in zip(poses, zooms)]
    seen = [_reduced(image, frame, size)[0] for image, frame in zip(images, frames)]
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
    """Return the extent across the axis in source pixels, from side to side."""
    return np.multiply(pose.sides, pose.sigma)


def _ends_in_output(pose, frame):
    """Return the x, in the output, of a part's ends, from left to right."""
    axis = np.array([np.cos(pose.angle), np.sin(pose.angle)])
    points = [pose.centre + end * pose.sigma * axis for end in pose.ends]
    inverse = np.linalg.inv(frame)
    return sorted((inverse @ [*point, 1])[0] for point in points)


def _reduced(image, frame, size):
    """Return a small aligned image (h, w, 3), float32, and where it is valid."""
    size = tuple(max(1, edge // _REDUCED) for edge in size)
    smaller = np.diag([_REDUCED, _REDUCED, 1.0])
    smaller[:2, 2] = (_REDUCED - 1) / 2
    blurred = cv2.GaussianBlur(image, (0, 0), _blur(frame))
    Z = warp_rgba(blurred, frame @ smaller, size, border="replicate")
    return Z[..., :3].astype(np.float32), Z[..., 3] > 0


def _blur(frame):
    """Return the standard deviation, in source pixels, of half a reduced pixel."""
    return max(0.3, _REDUCED / 2 * np.sqrt(abs(np.linalg.det(frame))) / 2)
