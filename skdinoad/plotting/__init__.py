"""Plots as scikit-learn's displays, created with ``Display.from_estimator(...)``.

Colours are comparable between images because their limits come from held-out training
images.
"""

from skdinoad.plotting._alignment import AlignmentDisplay
from skdinoad.plotting._histogram import ScoreHistogramDisplay
from skdinoad.plotting._map_display import AnomalyMapDisplay
from skdinoad.plotting._overlays import overlay_map, save_maps
from skdinoad.plotting._pro_curve import ProCurveDisplay

__all__ = [
    "AlignmentDisplay",
    "AnomalyMapDisplay",
    "ProCurveDisplay",
    "ScoreHistogramDisplay",
    "overlay_map",
    "save_maps",
]
