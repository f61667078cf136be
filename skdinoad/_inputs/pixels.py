"""Validate one image, convert it to 8 bits and fill its hidden pixels."""

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

#: Fill colour of an image without any valid pixel: about the mean of photographs.
_NOTHING = np.array((124, 116, 104), np.uint8)


def to_uint8(image, name, value_range=None, *, fill=True) -> np.ndarray:
    """Convert one image to uint8 (H, W, 3), or (H, W, 4) if it has alpha.

    Parameters
    ----------
    image : ndarray of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
        uint8, float 0..1, or uint16 with a ``value_range``.
    name : str
        Name of the image in messages.
    value_range : (int, int) or None
        Values of uint16 images that map to 0 and 255; None expects 8-bit images.
    fill : bool
        Whether hidden pixels (alpha below half) get the colour of the nearest valid
        pixel, so that their content has no effect. Use False for display.

    Raises
    ------
    ValueError
        If shape, dtype, bit depth or a visible value is invalid.
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
    """Whether an image has 9 to 16 bits, in either byte order."""
    return image.dtype.kind == "u" and image.dtype.itemsize == 2


def hidden_pixels(image) -> np.ndarray:
    """Return a mask (H, W) of the invalid pixels of an image with alpha."""
    # Half of the maximum: 1 for float, 255 for uint8, 65535 for uint16.
    half = 0.5 if image.dtype.kind == "f" else 2 ** (8 * image.dtype.itemsize - 1)
    return image[..., 3] < half


def full_depth(image, name) -> np.ndarray:
    """Return a deep image as uint16 (H, W, 3), or (H, W, 4) with hidden pixels 0."""
    image = _with_channels(image, name).astype(np.uint16)  # native byte order
    if image.shape[-1] == 4:
        return np.where(hidden_pixels(image)[..., np.newaxis], np.uint16(0), image)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def value_limits(image, name) -> tuple:
    """Return the minimum and maximum of the visible pixels of an image.

    Both are None if all pixels are hidden.
    """
    image = _with_channels(image, name)
    if not is_deep(image):
        raise ValueError(
            f"{_described(image, name)} (8 bits), but the first image has 16 bits "
            "(uint16): all training images must have one depth."
        )
    values = image
    if image.shape[-1] == 4:
        values = image[~hidden_pixels(image), :3]
    return (int(values.min()), int(values.max())) if values.size else (None, None)


def widened(low, high) -> tuple:
    """Widen a 16-bit range on both sides by a quarter of its width."""
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
    """Expand hidden pixels (H, W) to a mask (H, W, 4) that excludes alpha."""
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
            "0..1. Correct or remove the image."
        )
    if low < -1e-6 or high > 1 + 1e-6:
        raise ValueError(
            f"{described} and values from {low:.5g} to {high:.5g}; expected float "
            f"images in 0..1. {_float_remedy(low, high)}"
        )
    return np.round(image.clip(0, 1) * 255).astype(np.uint8)


def _fill(image, hidden):
    """Give hidden pixels the colours of the nearest valid ones, in place.

    Networks, blurring and resizing then see no artificial edge at the border of the
    valid region. With a constant fill colour the held-out scores of aligned parts
    spread more.
    """
    valid, alpha = ~hidden, image[..., 3].copy()
    if not valid.any():
        image[..., :3] = _NOTHING
        return
    whole = image.view(np.uint32)[..., 0]  # four channels at once: three times faster
    labels = _nearest_valid(hidden)
    colors = np.zeros(labels.max() + 1, np.uint32)
    colors[labels[valid]] = whole[valid]
    whole[hidden] = colors[labels[hidden]]
    image[..., 3] = alpha


def _nearest_valid(hidden):
    """Return, for each pixel (H, W), the label of the nearest valid pixel."""
    kind = {"distanceType": cv2.DIST_L2, "maskSize": 5}
    kind["labelType"] = cv2.DIST_LABEL_PIXEL
    return cv2.distanceTransformWithLabels(hidden.astype(np.uint8), **kind)[1]


# -- messages -----------------------------------------------------------------------

_SCALE = (
    "Scale all training and test images to floats in the same way: "
    "(X - low) / (high - low), clipped to 0..1."
)


def _described(image, name):
    return f"{name} has shape {image.shape}, dtype {image.dtype}"


def _bits(high):
    """Return the bit depth of a camera with values up to ``high``, as text."""
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
    values = f"Its values range from {low} to {high}"
    if low < 0 or high >= 2**16:
        return f"{values}. {_SCALE}"
    if high < 256:
        return (
            f"{values}: pass X.astype(np.uint8) if the values of all images are below "
            "256, X.astype(np.uint16) otherwise."
        )
    return f"{values}, which looks like {_bits(high)}: pass X.astype(np.uint16)."


def _other_depth(image, name, value_range):
    described = _described(image, name)
    if value_range is not None:
        return ValueError(
            f"{described}; expected 16 bits (uint16) as in the training images, whose "
            f"range {value_range} scales all images. Pass images of the same depth, or "
            "fit on images like these."
        )
    high = int(image[..., :3].max())
    return ValueError(
        f"{described} and values up to {high}, which looks like {_bits(high)}; "
        "expected 8 bits (uint8, or float 0..1) as in the training images or the "
        "images before this one. Deeper images are scaled by the range of the training "
        "images, so all training images must be deep. Do not divide by 65535: images "
        "of 10 or 12 bits would become nearly black."
    )
