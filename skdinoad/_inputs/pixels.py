"""The pixels of one image: checked, brought to 8 bits, hidden ones filled."""

import cv2
import numpy as np

__all__ = [
    "full_depth",
    "hidden_pixels",
    "is_deep",
    "to_uint8",
    "value_limits",
    "widened",
]

#: The colour of an image that is hidden as a whole: about the mean of photographs.
_NOTHING = np.array((124, 116, 104), np.uint8)


def to_uint8(image, name, value_range=None, *, fill=True) -> np.ndarray:
    """Return one image as uint8 (H, W, 3), or (H, W, 4) where it has alpha.

    Parameters
    ----------
    image : ndarray of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
        uint8, float 0..1, or uint16 with a ``value_range``.
    name : str
        What messages call the image.
    value_range : (int, int) or None
        Values of uint16 images that become 0 and 255; None = expect 8 bits.
    fill : bool
        Whether hidden pixels (alpha below half) get the colour of the nearest valid
        one, so that what lies there never matters. False is for showing.

    Raises
    ------
    ValueError
        If shape, dtype, depth or a value that is not hidden is not as above.
    """
    image = _with_channels(image, name)
    if is_deep(image) != (value_range is not None):
        raise _other_depth(image, name, value_range)
    _check_dtype(image, name)
    hidden = hidden_pixels(image) if fill and image.shape[-1] == 4 else None
    if hidden is not None:
        image = np.where(_on_colour(hidden), image.dtype.type(0), image)
    image = _eight_bits(image, name, value_range)
    if hidden is not None and hidden.any():
        _fill(image, hidden)
    if image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    return np.ascontiguousarray(image)


def is_deep(image) -> bool:
    """Whether an image has 9 to 16 bits, in either order of bytes."""
    return image.dtype.kind == "u" and image.dtype.itemsize == 2


def hidden_pixels(image) -> np.ndarray:
    """Return which pixels (H, W) of an image with alpha are invalid."""
    # Half of a float's 1, of uint8's 255, of uint16's 65535.
    half = 0.5 if image.dtype.kind == "f" else 2 ** (8 * image.dtype.itemsize - 1)
    return image[..., 3] < half


def full_depth(image, name) -> np.ndarray:
    """Return a deep image as uint16 (H, W, 3), or (H, W, 4) with 0 where hidden."""
    image = _with_channels(image, name).astype(np.uint16)  # in this machine's order
    if image.shape[-1] == 4:
        return np.where(hidden_pixels(image)[..., np.newaxis], np.uint16(0), image)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def value_limits(image, name) -> tuple:
    """Return the lowest and the highest value of the visible pixels of an image.

    Both are None if all pixels are hidden.
    """
    image = _with_channels(image, name)
    if not is_deep(image):
        raise ValueError(
            f"{_described(image, name)} (8 bits), but the first image has 16 bits "
            "(uint16): training images must have one depth."
        )
    values = image
    if image.shape[-1] == 4:
        values = image[~hidden_pixels(image), :3]
    return (int(values.min()), int(values.max())) if values.size else (None, None)


def widened(low, high) -> tuple:
    """Return limits wider by a quarter of their distance on either side, in 16 bits."""
    margin = max(1, (high - low) // 4)
    return max(0, low - margin), min(65535, high + margin)


# -- private ------------------------------------------------------------------------


def _with_channels(image, name):
    """Return an image as (H, W, c)."""
    described = _described(image, name)
    if image.ndim == 2:
        image = image[..., np.newaxis]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        first = image.ndim == 3 and image.shape[0] in (1, 3, 4)
        hint = " Channels first? Pass np.moveaxis(image, 0, -1)." if first else ""
        if image.ndim == 4:
            hint = " A batch in a list? Pass the array itself, and labels as y."
        raise ValueError(
            f"{described}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).{hint}"
        )
    if image.size == 0:
        raise ValueError(f"{described}: an image of zero area. Remove it.")
    return image


def _check_dtype(image, name):
    if not (image.dtype == np.uint8 or image.dtype.kind == "f" or is_deep(image)):
        raise ValueError(
            f"{_described(image, name)}; expected uint8 (0..255), uint16, or float "
            f"(0..1). {_integer_remedy(image)}"
        )


def _on_colour(hidden):
    """Return hidden pixels (H, W) as a mask (H, W, 4) that leaves alpha alone."""
    return hidden[..., np.newaxis] & np.array([True, True, True, False])


def _eight_bits(image, name, value_range):
    if value_range is not None:
        return _scaled(image, value_range)
    if image.dtype.kind == "f":
        return _unit_float_to_uint8(image, _described(image, name))
    return image


def _scaled(image, value_range):
    low, high = value_range
    color = (image[..., :3].astype(np.float32) - low) * np.float32(255 / (high - low))
    out = [color.clip(0, 255).round().astype(np.uint8)]
    if image.shape[-1] == 4:
        out.append((image[..., 3:] >> 8).astype(np.uint8))
    return np.concatenate(out, axis=-1)


def _unit_float_to_uint8(image, described):
    low, high = float(image.min()), float(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = np.count_nonzero(~np.isfinite(image))
        raise ValueError(
            f"{described} and {count} NaN or infinite values; expected values in "
            "0..1. Repair or remove the image."
        )
    if low < -1e-6 or high > 1 + 1e-6:
        raise ValueError(
            f"{described} and values from {low:.5g} to {high:.5g}; float images are "
            f"expected in 0..1. {_float_remedy(low, high)}"
        )
    return np.round(image.clip(0, 1) * 255).astype(np.uint8)


def _fill(image, hidden):
    """Give hidden pixels, in place, the colours of the nearest valid ones.

    A network, and whatever blurs or resizes, then sees the image go on at the edge of
    the valid region. With one colour there held-out scores of aligned parts spread.
    """
    valid, alpha = ~hidden, image[..., 3].copy()
    if not valid.any():
        image[..., :3] = _NOTHING
        return
    whole = image.view(np.uint32)[..., 0]  # four channels at once: three times as fast
    labels = _nearest_valid(hidden)
    colors = np.zeros(labels.max() + 1, np.uint32)
    colors[labels[valid]] = whole[valid]
    whole[hidden] = colors[labels[hidden]]
    image[..., 3] = alpha


def _nearest_valid(hidden):
    """Return for each pixel (H, W) the number of the valid one nearest to it."""
    kind = {"distanceType": cv2.DIST_L2, "maskSize": 5}
    kind["labelType"] = cv2.DIST_LABEL_PIXEL
    return cv2.distanceTransformWithLabels(hidden.astype(np.uint8), **kind)[1]


# -- messages -----------------------------------------------------------------------

_SCALE = (
    "Scale all images alike, training and test, to floats: (X - low) / (high - low), "
    "clipped to 0..1."
)


def _described(image, name):
    return f"{name} has shape {image.shape}, dtype {image.dtype}"


def _bits(high):
    """Return in words how many bits a camera has whose values reach ``high``."""
    return f"{next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)} bits"


def _float_remedy(low, high):
    if low < 0 or high >= 2**16:
        return _SCALE
    if high < 256:
        return "Divide by 255, or pass uint8."
    return f"That looks like {_bits(high)}: pass X.astype(np.uint16)."


def _integer_remedy(image):
    if image.dtype.kind == "b":
        return "Pass X.astype(np.uint8) * 255."
    if image.dtype.kind not in "iu":
        return "Convert it."
    low, high = int(image.min()), int(image.max())
    values = f"Its values reach from {low} to {high}"
    if low < 0 or high >= 2**16:
        return f"{values}. {_SCALE}"
    if high < 256:
        return (
            f"{values}: pass X.astype(np.uint8) if those of all images are below 256, "
            "X.astype(np.uint16) if not."
        )
    return f"{values}, which looks like {_bits(high)}: pass X.astype(np.uint16)."


def _other_depth(image, name, value_range):
    described = _described(image, name)
    if value_range is not None:
        return ValueError(
            f"{described}; expected 16 bits (uint16) as in the training images, whose "
            f"range {value_range} scales all. Pass images of the same depth, or fit on "
            "such as these."
        )
    high = int(image[..., :3].max())
    return ValueError(
        f"{described} and values up to {high}, which looks like {_bits(high)}; "
        "expected 8 bits (uint8, or float 0..1) as in the images of fit or before "
        "this one. Deeper images are scaled by the range of the training images: fit "
        "on images that all are deep. Do not divide by 65535: fewer bits would be "
        "nearly black."
    )
