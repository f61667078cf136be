"""Heat maps over images, with colours that mean the same in every image."""

import matplotlib
import numpy as np

__all__ = ["overlay_map"]


def overlay_map(image, heat, *, limits, colormap="inferno"):
    """Lay a heat map over its image.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
    heat : ndarray of shape (H, W)
        Anomaly map, higher = more anomalous.
    limits : (float, float)
        Values shown as "nothing" and as "full colour": a detector's ``map_limits_``,
        which come from held-out normal images. Limits taken from each map by itself
        would paint red on perfect parts.
    colormap : str
        Name of a matplotlib colour map.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        The hotter, the more of the image is covered.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.plotting import overlay_map
    >>> image = np.full((1, 2, 3), 100, dtype=np.uint8)
    >>> overlay_map(image, np.array([[0.0, 9.0]]), limits=(1, 5))[0].tolist()
    [[100, 100, 100], [222, 224, 152]]
    """
    low, high = limits
    share = np.clip((np.asarray(heat, np.float64) - low) / (high - low), 0, 1)
    color = matplotlib.colormaps[colormap](share)[..., :3] * 255
    cover = 0.8 * share[..., np.newaxis]
    return (image * (1 - cover) + color * cover).round().astype(np.uint8)
