"""Compare layers for the score and for heat maps, and input sizes.

Measures image AUROC, AUPRO and seconds of DinoPatch and AnomalyDINO by the blocks for
the score, the blocks for heat maps, and the input size, on all test images. The
defaults of ``layers="auto"`` and ``image_size="auto"`` are based on it.

    python benchmarks/accuracy/fusion.py ../shared/data
    python benchmarks/accuracy/fusion.py ../shared/data --sizes 448 --score 10
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, known_masks, parser, print_table

from skdinoad import AnomalyDINO, DinoFeatures, DinoPatch, PCAAligner, Pipeline
from skdinoad.features._store import clear_memory
from skdinoad.metrics import aupro_score, image_auroc_score

#: Blocks for the score, and blocks for heat maps.
CHOICES = [
    ((10,), (10,)),
    ((6,), (6,)),
    ((6, 8), (6, 8)),
    ((6, 8, 10), (6,)),
    ((6, 11), (6,)),
    ((6, 8, 10, 11), (6,)),
    ((6, 8, 10, 11), (6, 8, 10, 11)),
]


def detectors(size, layers, shown):
    """Return the detectors to compare by name."""
    features = DinoFeatures(image_size=size, layers=layers, norm=False)
    how = {"features": features, "map_layers": shown}
    same = PCAAligner(output_size=size, mode="none")  # only resizes images
    return {
        "DinoPatch": Pipeline([same, DinoPatch(**how)]),
        "AnomalyDINO": AnomalyDINO(**how),
    }


def measure(estimator, data):
    """Return image AUROC, AUPRO (NaN without masks) and seconds of fit and scores."""
    clear_memory()  # seconds include the network; maps use the cached features
    start = time.perf_counter()
    estimator.fit(data.train)
    scores = estimator.score_samples(data.test)
    seconds = time.perf_counter() - start
    masks = known_masks(data)
    maps = [estimator.predict_map([data.test[i]])[0] for i in masks]
    aupro = aupro_score(list(masks.values()), maps) if masks else np.nan
    return image_auroc_score(data.y, scores), aupro, seconds


def main():
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="*", default=[224])
    options.add_argument("--score", nargs="*", help="only these, such as 10 or 6+8")
    options = options.parse_args()
    warnings.simplefilter("ignore")
    print(environment() + "\n")
    data = dict(categories(options.root, options.categories))
    rows = []
    for size in options.sizes:
        for layers, shown in CHOICES:
            text = ["+".join(map(str, part)) for part in (layers, shown)]
            if options.score and text[0] not in options.score:
                continue
            for name, estimator in detectors(size, layers, shown).items():
                found = np.array([measure(estimator, d) for d in data.values()])
                means = np.nanmean(found, axis=0)
                rows.append([name, str(size), *text, *found[:, 0], *means])
    header = ["detector", "pixels", "score", "map", *data]
    print_table([*header, "mean image AUROC", "mean AUPRO", "seconds"], rows)


if __name__ == "__main__":
    main()
