"""Compare the placement of damaged parts by moments and by ends.

Rendered screws without washer, or without a third of their length, are aligned by
``PCAAligner(placement=...)`` and scored by ``DinoPatch`` with several radii. Measures
image AUROC, the number of defects missed at the default threshold, and AUPRO.

    python benchmarks/accuracy/placement.py
"""

import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table

from skdinoad import DinoPatch, LocalBank, PCAAligner, Pipeline
from skdinoad.datasets import make_screws
from skdinoad.metrics import aupro_score, image_auroc_score

RADII = (0, 1, 2, 32)


def main():
    parser(__doc__, root=False).parse_args()
    warnings.simplefilter("ignore")
    print(environment() + "\n")
    train, _ = make_screws(12, random_state=0)
    good, _ = make_screws(20, random_state=1)
    rows = []
    for defect in ("no_washer", "shortened"):
        bad = make_screws(12, defect=defect, random_state=5)
        for placement in ("moments", "ends"):
            for radius in RADII:
                aligner = PCAAligner(placement=placement)
                pipe = Pipeline(
                    [aligner, DinoPatch(bank=LocalBank(neighborhood=radius))]
                ).fit(train)
                rows.append([defect, placement, str(radius), *found(pipe, good, *bad)])
    header = ["defect", "placement", "neighborhood", "image AUROC", "missed of 12"]
    print_table([*header, "AUPRO"], rows)


def found(pipe, good, bad, masks):
    """Return image AUROC, the number of missed defects, and AUPRO."""
    scores = [pipe.score_samples(X) for X in (good, bad)]
    labels = np.repeat([1, -1], [len(good), len(bad)])
    missed = str(int((scores[1] >= pipe.offset_).sum()))
    maps = list(pipe.predict_map(bad))
    auroc = image_auroc_score(labels, np.concatenate(scores))
    return auroc, missed, aupro_score(list(masks), maps)


if __name__ == "__main__":
    main()
