"""The object masks of AnomalyDINO: what shows the object, and what gets a score."""

from typing import Any

import numpy as np

from skdinoad._arrays.masks import (
    foreground,
    mask_statistics,
    masking_helps,
    median_of,
    without_ground,
)
from skdinoad.alignment import ForegroundMask

__all__ = ["ObjectMasks", "as_foreground_mask"]


def as_foreground_mask(masking: Any) -> ForegroundMask:
    """Return the settings that ``masking`` stands for."""
    if masking == "official":
        return ForegroundMask(masking=True, threshold=10.0, morphology="raster")
    if masking in ("auto", None):
        return ForegroundMask(masking=masking or False)
    return masking


class ObjectMasks:
    """Masks of the patches that show the object, and whether they are used.

    Parameters
    ----------
    masking : "auto", "official", None or ForegroundMask
        The parameter of the detector.

    Attributes
    ----------
    used : bool
        Whether patches outside the object are left out; :meth:`decide` sets it.
    statistics : dict or None
        With "auto", the statistics of the training masks that led to the decision.
    """

    def __init__(self, masking):
        how = as_foreground_mask(masking)
        self.masking, self.threshold = how.masking, how.threshold
        self.morphology = how.morphology
        self.used, self.statistics = False, None

    @property
    def scores_ground(self):
        """Whether patches outside the object get a score of 0, as officially."""
        return self.used and self.morphology == "raster"

    def of(self, grid):
        """Return which patches (h, w) of features (h, w, l, c) show the object."""
        return foreground(grid[:, :, -1], self.threshold, self.morphology)

    def of_training(self, grid):
        """Return the mask of a training image and its statistics, or None."""
        mask = self.of(grid) if self.masking or self.used else None
        auto = self.masking == "auto"
        return mask, mask_statistics(grid[:, :, -1], mask) if auto else None

    def decide(self, images):
        """Decide whether masks are used, from the records of training images."""
        self.used = self.masking
        if self.masking == "auto":
            self.statistics = median_of([image.statistics for image in images])
            self.used = masking_helps(self.statistics)

    def scored(self, image):
        """Return which patches (h, w) of a training image get a score."""
        use = self.used and image.mask.any()
        return image.valid & image.mask if use else image.valid

    def applied(self, F):
        """Return features with NaN outside the object, and the masks of all images."""
        masks = [self.of(grid) for grid in F]
        masked = [without_ground(grid, mask) for grid, mask in zip(F, masks)]
        return (np.stack(masked) if isinstance(F, np.ndarray) else masked), masks

    def filled(self, D):
        """Return distances (l, h, w) with 0 outside the object, if that is a score."""
        fill = self.scores_ground and np.isfinite(D).any()
        return np.nan_to_num(D) if fill else D
