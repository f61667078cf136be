"""Pictures in scikit-learn's convention: ``Display.from_estimator(...)``, then axes.

Colours mean the same in every image: their limits come from held-out training images.
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
