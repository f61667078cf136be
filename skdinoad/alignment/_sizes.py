"""Choose the size of aligned images from the shape of the parts."""

import numpy as np

__all__ = ["FILL", "frame_of_parts", "frame_of_photographs", "square"]

#: Patch size of DINOv2. Frames are multiples of it, so that DinoFeatures keeps them.
_PATCH = 14

#: Patches per side of a square frame, and total number of patches of a long frame.
_SQUARE, _LONG = 16, 384

#: Height over width below which a part is long.
_ASPECT = 0.75

#: Height of a long frame relative to its parts: the pose of thin parts is inexact.
_MARGIN = 1.3

#: Share of the output that a part may fill. The detected outline lies slightly inside
#: the part, which needs a margin.
FILL = 0.96

#: Largest number of pixels of an aligned image.
_MAX_PIXELS = 2**25


def square(wanted) -> tuple:
    """Return the (height, width) of a square frame."""
    return (_SQUARE * _PATCH if isinstance(wanted, str) else int(wanted),) * 2


def frame_of_parts(poses) -> tuple:
    """Return the (height, width) of a frame for parts with a horizontal axis.

    Parameters
    ----------
    poses : list of Pose
        Poses of the training parts. The largest reach along and across the axis sets
        the aspect ratio of the frame.

    Returns
    -------
    (int, int)
        Multiples of the patch size: a square for compact parts, a strip of at most 384
        patches for long ones.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from skdinoad.alignment._sizes import frame_of_parts
    >>> frame_of_parts([SimpleNamespace(reach=(2.0, 0.6))])
    (168, 448)
    >>> frame_of_parts([SimpleNamespace(reach=(2.0, 1.8))])
    (224, 224)
    """
    along, across = np.max([pose.reach for pose in poses], axis=0)
    aspect = _MARGIN * across / along
    if aspect > _ASPECT:
        return square("auto")
    height = max(4, int(np.sqrt(_LONG * aspect)))
    return height * _PATCH, _LONG // height * _PATCH


def frame_of_photographs(wanted, sizes) -> tuple:
    """Return the output (height, width) of photographs that are not aligned.

    Parameters
    ----------
    wanted : int or "auto"
        The smaller side.
    sizes : array-like of shape (n, 2)
        (height, width) of the training images; their median aspect ratio is kept.

    Raises
    ------
    ValueError
        If the output would have too many pixels.
    """
    sizes = np.asarray(sizes, float)
    shape = np.median(sizes / sizes.min(axis=1, keepdims=True), axis=0)
    size = tuple(int(edge) for edge in np.round(square(wanted)[0] * shape))
    if size[0] * size[1] > _MAX_PIXELS:
        raise ValueError(
            f"The images are so long that output_size={wanted!r} for the smaller side "
            f"would give an output of {size} pixels. Pass output_size=(height, width), "
            "or cut them into parts."
        )
    return size
