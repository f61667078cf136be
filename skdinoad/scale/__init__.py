"""More images than one process should read: detectors merged, files scored in parts.

The engines are not ours: joblib with any backend, dask.distributed, Ray. Here is what
they need: a fit that can be split, and a piece of work that can be done again.
"""

from skdinoad.scale._fit import cache_features, fit_sharded, merge
from skdinoad.scale._score import parts_to_score, score_files, score_part

__all__ = [
    "cache_features",
    "fit_sharded",
    "merge",
    "parts_to_score",
    "score_files",
    "score_part",
]
