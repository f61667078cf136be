"""How large aligned images are: as many patches as the parts' shape needs."""

import numpy as np

__all__ = ["FILL", "frame_of_parts", "frame_of_photographs", "square"]

#: Pixels of a patch of DINOv2: frames are whole patches, which DinoFeatures keeps.
_PATCH = 14

#: Patches along a square frame, and in all of a long one: about as many.
_SQUARE, _LONG = 16, 384

#: Height over width below which a part is long.
_ASPECT = 0.75

#: Ground on both sides of a long part: thin parts do not lie still to the pixel.
_MARGIN = 1.3

#: Share of the output that the farthest point of a part may reach: the outline found
#: ends a little inside the part.
FILL = 0.96

#: No image is aligned to more pixels than this, however long it is.
_MAX_PIXELS = 2**25


def square(wanted) -> tuple:
    """Return the (height, width) of a frame without a direction."""
    return (_SQUARE * _PATCH if isinstance(wanted, str) else int(wanted),) * 2


def frame_of_parts(poses) -> tuple:
    """Return the (height, width) of a frame in which level parts lie.

    Parameters
    ----------
    poses : list of Pose
        Of the training parts. The frame is as high, compared with its width, as the one
        that is highest for its length.

    Returns
    -------
    (int, int)
        Whole patches: a square for compact parts, a strip of 384 patches at most for
        long ones.

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
    """Return the (height, width) that photographs which are not aligned are brought to.

    Parameters
    ----------
    wanted : int or "auto"
        The smaller side.
    sizes : array-like of shape (n, 2)
        (height, width) of the training images, whose median shape is kept.

    Raises
    ------
    ValueError
        If that would be too many pixels.
    """
    sizes = np.asarray(sizes, float)
    shape = np.median(sizes / sizes.min(axis=1, keepdims=True), axis=0)
    size = tuple(int(edge) for edge in np.round(square(wanted)[0] * shape))
    if size[0] * size[1] > _MAX_PIXELS:
        raise ValueError(
            f"The images are so long that output_size={wanted!r} for the smaller side "
            f"would make them {size} pixels. Pass output_size=(height, width), or cut "
            "them in parts."
        )
    return size
