"""A minimal detector: the distance of a patch to the mean patch at its location."""

from collections.abc import Sequence

import numpy as np

from skdinoad import DinoFeatures
from skdinoad.base import BaseDetector


class MeanDetector(BaseDetector):
    def __init__(
        self,
        *,
        features=None,
        aggregate=0.01,
        target_fpr=0.05,
        verbose=False,
    ):
        self.features = features
        self.aggregate = aggregate
        self.target_fpr = target_fpr
        self.verbose = verbose

    def default_features(self):
        return DinoFeatures()

    def fit_grids(self, F: np.ndarray) -> None:
        """Learn from features (n, h, w, c); NaN = invalid patch."""
        self.mean_ = F.mean(axis=0)
        others = [np.delete(F, i, axis=0).mean(axis=0) for i in range(len(F))]
        self._held = np.linalg.norm(F - others, axis=-1) if len(F) > 1 else None

    def score_grids(self, F: np.ndarray) -> np.ndarray:
        """Return scores (n, h, w), higher = more anomalous, NaN = invalid."""
        return np.linalg.norm(F - self.mean_, axis=-1)

    def holdout_grids(self) -> Sequence[np.ndarray] | np.ndarray | None:
        """Return the scores of the training images, each held out."""
        return self._held
