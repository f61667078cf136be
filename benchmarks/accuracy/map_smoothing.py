"""AUPRO of AnomalyDINO's heat maps by the amount of smoothing.

Maps are computed once and smoothed by Gaussians of several standard deviations, as
shares of the image's height. Scores do not depend on the smoothing. The mean is over
the categories with masks; the table is in ``benchmarks/results/map_smoothing.csv``.

    python benchmarks/accuracy/map_smoothing.py ../shared/data
"""

import csv
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, known_masks, parser, print_table, show

from skdinoad import AnomalyDINO, iter_maps
from skdinoad._arrays.maps import smooth_pixels
from skdinoad.metrics import aupro_score

SHARES = (0, 0.003, 0.006, 0.009, 0.013, 0.018, 0.025)


def main():
    options = parser(__doc__).parse_args()
    print(environment() + "\n", flush=True)
    rows = []
    for category, data in categories(options.root, options.categories):
        known = known_masks(data)
        if known:
            rows.append([category, *areas(data, known)])
            print(rows[-1], flush=True)
    means = np.mean([row[1:] for row in rows], axis=0)
    rows.append(["mean", *map(float, means)])
    header = ["category", *map(str, SHARES)]
    print_table(header, rows)
    path = Path(__file__).parents[1] / "results" / "map_smoothing.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *([show(x) for x in row] for row in rows)])


def areas(data, known):
    """Return the AUPRO for each share."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector = AnomalyDINO(map_smoothing=0).fit(data.train)
    rows = sorted(known)
    maps = list(iter_maps(detector, [data.test[i] for i in rows]))
    masks = [known[i] for i in rows]
    return [aupro_score(masks, [smoothed(h, share) for h in maps]) for share in SHARES]


def smoothed(heat, share):
    return smooth_pixels(heat, share * heat.shape[0], inside=heat > 0)


if __name__ == "__main__":
    main()
