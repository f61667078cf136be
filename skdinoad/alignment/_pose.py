"""Find the pose of a part in its image from the moments of its support."""

from dataclasses import dataclass

import cv2
import numpy as np

from skdinoad._arrays.geometry import resize_affine

__all__ = ["SUPPORTS", "Pose", "find_pose"]

SUPPORTS = ("hull", "filled", "edges", "mask")

#: Longest side in pixels for edge detection. Larger photographs are reduced, so that
#: soft outlines become edges, fine texture does not, and the cost is independent of
#: the camera. Moments of an area stay exact to a fraction of a pixel.
_WORKING_EDGE = 256

#: Smallest area of a piece of the part relative to the largest outline; crumbs and
#: dust are smaller.
_PIECE = 0.1

#: Distance from the image border, as a share of its edge, that counts as touching.
_TOUCH = 0.015


@dataclass(frozen=True)
class Pose:
    """Position and shape of a part up to third-order moments, in source pixels.

    Parameters
    ----------
    centre : ndarray of shape (2,)
        (x, y) of the centroid.
    angle : float
        Direction of the major axis in radians, x towards y (y points down), in
        (-pi/2, pi/2].
    sigma : float
        Standard deviation along the major axis.
    ratio : float
        Smaller over larger eigenvalue of the covariance, 0..1; 1 = no direction.
    skewness : float
        Standardised third moment along the axis; its sign distinguishes the two ends.
    share : float
        Area of the support over the area of the image.
    borders : int
        Number of image borders that the support touches.
    reach : (float, float)
        Farthest point of the support from the centre, along the axis and across it,
        in units of sigma.
    ends, sides : (float, float)
        Smallest and largest offset of the support along the axis and across it, in
        units of sigma.
    """

    centre: np.ndarray
    angle: float
    sigma: float
    ratio: float
    skewness: float
    share: float
    borders: int
    reach: tuple
    ends: tuple
    sides: tuple


def find_pose(image, *, support, canny, blur, closing, min_contour):
    """Return the pose of the part in an image, or None if no part is found.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3 or 4), uint8
    support : {"hull", "filled", "edges", "mask"}
        Area or points used for the moments; see PCAAligner.
    canny : (float, float) or "auto"
        Hysteresis thresholds of the edge detector.
    blur, closing : int
        Kernel sizes of the blur before and the closing after edge detection; 0 = off.
    min_contour : int
        Contours of fewer points are ignored.

    Returns
    -------
    Pose or None
    """
    small, to_source = _reduce(image)
    if support == "mask":
        shape = _mask_shape(small)
    else:
        edges = _edges(small, canny, blur, closing)
        shape = _contour_shape(edges, support, min_contour)
    return None if shape is None else _pose(shape, small.shape[:2], to_source)


# -- support ------------------------------------------------------------------------


def _reduce(image):
    """Return the image at working size and the affine from it to the source."""
    size = np.array(image.shape[:2])
    small = np.maximum(1, np.round(size * min(1, _WORKING_EDGE / size.max())))
    small = tuple(int(edge) for edge in small)
    if small != image.shape[:2]:
        image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    return image, resize_affine(tuple(size), small)


def _edges(image, canny, blur, closing):
    color = np.ascontiguousarray(image[..., :3])
    if blur:
        color = cv2.GaussianBlur(color, (blur, blur), 0)
    if isinstance(canny, str):
        gray = cv2.cvtColor(color, cv2.COLOR_RGB2GRAY)
        canny = np.median(gray) * np.array([0.66, 1.33])
    # On colour images Canny uses the channel with the largest gradient at each pixel:
    # a beige nut on a yellow background is visible in blue but not in grey.
    edges = cv2.Canny(color, float(canny[0]), float(canny[1]))
    if image.shape[-1] == 4:
        edges[image[..., 3] < 128] = 0
    if closing:
        # The margin prevents the closing from connecting edges to the image border.
        edges = cv2.copyMakeBorder(edges, *[closing] * 4, cv2.BORDER_CONSTANT)
        kernel = np.ones((closing, closing), np.uint8)
        edges = cv2.morphologyEx(edges, cv2.MORPH_CLOSE, kernel)
        edges = edges[closing:-closing, closing:-closing]
    return edges


def _contour_shape(edges, support, min_contour):
    """Return (points, moments) of the part enclosed by edges, or None."""
    contours, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = [c for c in contours if len(c) >= min_contour]
    if not contours:
        return None
    if support == "edges":
        points = np.concatenate(contours)
        return points, _point_moments(points[:, 0].astype(np.float64))
    areas = [cv2.contourArea(cv2.convexHull(contour)) for contour in contours]
    if support == "filled":
        outline = contours[int(np.argmax(areas))]
    else:
        outline = cv2.convexHull(np.concatenate(_pieces(contours, areas, edges.shape)))
    return outline, _normalised(cv2.moments(outline))


def _pieces(contours, areas, size):
    """Return the contours of the part, whose outline may be broken into pieces.

    Small pieces and pieces at the image border do not belong to the part.
    """
    largest = max(areas)
    return [
        contour
        for contour, area in zip(contours, areas)
        if area == largest
        or (area >= _PIECE * largest and min(_gaps(contour, size)) > _TOUCH)
    ]


def _gaps(points, size):
    """Return the relative distances to the left, top, right and bottom border."""
    left, top, width, height = cv2.boundingRect(points)
    return (
        left / size[1],
        top / size[0],
        1 - (left + width) / size[1],
        1 - (top + height) / size[0],
    )


def _mask_shape(image):
    """Return (points, moments) of the alpha channel's support, or None."""
    if image.shape[-1] != 4:
        return None
    mask = (image[..., 3] >= 128).astype(np.uint8)
    points = cv2.findNonZero(mask)
    if points is None:
        return None
    return points, _normalised(cv2.moments(mask, binaryImage=True))


# -- moments ------------------------------------------------------------------------


def _point_moments(points):
    """Return area 0, centroid and normalised central moments of a set of points."""
    centre = points.mean(axis=0)
    x, y = (points - centre).T
    orders = [(2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]
    return (0.0, centre, [np.mean(x**p * y**q) for p, q in orders])


def _normalised(m):
    """Return area, centroid and central moments per area; None for zero area."""
    area = m["m00"]
    if area <= 0:
        return None
    centre = np.array([m["m10"], m["m01"]]) / area
    names = ("mu20", "mu11", "mu02", "mu30", "mu21", "mu12", "mu03")
    return area, centre, [m[name] / area for name in names]


def _pose(shape, size, to_source):
    points, moments = shape
    if moments is None:
        return None
    area, centre, (xx, xy, yy, xxx, xxy, xyy, yyy) = moments
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    if values[1] <= 0:
        return None
    vx, vy = vectors[:, 1] if vectors[0, 1] > 0 else -vectors[:, 1]
    third = vx**3 * xxx + 3 * vx**2 * vy * xxy + 3 * vx * vy**2 * xyy + vy**3 * yyy
    width, height = cv2.boundingRect(points)[2:]
    offsets = (points.reshape(-1, 2) - centre) @ [[vx, -vy], [vy, vx]]
    offsets /= np.sqrt(values[1])
    return Pose(
        centre=(to_source @ [*centre, 1])[:2],
        angle=float(np.arctan2(vy, vx)),
        sigma=float(np.sqrt(values[1]) * np.sqrt(np.linalg.det(to_source))),
        ratio=float(max(values[0], 0) / values[1]),
        skewness=float(third / values[1] ** 1.5),
        share=float((area or width * height) / (size[0] * size[1])),
        borders=sum(gap <= _TOUCH for gap in _gaps(points, size)),
        reach=tuple(np.abs(offsets).max(axis=0)),
        ends=(offsets[:, 0].min(), offsets[:, 0].max()),
        sides=(offsets[:, 1].min(), offsets[:, 1].max()),
    )
