"""Cost of a grid search, which computes the features of each image once.

For 12 candidates x 3 folds that differ only after the features, counts the images
through the network, and compares the wall time with one extraction of the same images.

    python benchmarks/speed/search.py
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skdinoad import DinoFeatures, DinoPatch
from skdinoad.datasets import make_screws
from skdinoad.features._store import clear_memory

GRID = {
    "bank__neighborhood": [0, 1],
    "aggregate": ["max", 0.02, "p99"],
    "score_smoothing": [0, 0.06],
}


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--images", type=int, default=40)
    options = options.parse_args()
    print(environment() + "\n")
    fits, forwards, extraction, wall = measure(options.images)
    header = ["images", "fits", "images through the network", "one extraction, s"]
    row = [str(options.images), str(fits), str(forwards), f"{extraction:.1f}"]
    row += [f"{wall:.1f}", f"{wall / extraction:.2f}"]
    print_table([*header, "whole search, s", "ratio"], [row])


def measure(n):
    """Return fits, images through the network, seconds of extraction and of search."""
    X, y = images(n)
    DinoFeatures(cache=False).transform(X[:1])  # load the network before timing

    clear_memory()
    start = time.perf_counter()
    DinoFeatures().transform(X)
    extraction = time.perf_counter() - start

    clear_memory()
    forwards = count_forwards()
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(DinoPatch(), GRID, scoring="roc_auc", cv=folds)
    start = time.perf_counter()
    search.fit(X, y)
    wall = time.perf_counter() - start
    fits = len(search.cv_results_["params"]) * 3 + 1
    return fits, sum(forwards), extraction, wall


def images(n):
    """Return images, three quarters good, one quarter with a scratch."""
    good, _ = make_screws(n - n // 4, size=512, random_state=0)
    bad, _ = make_screws(n // 4, size=512, defect="scratch", random_state=1)
    y = np.array([1] * len(good) + [-1] * len(bad))
    return np.concatenate([good, bad]), y


def count_forwards():
    """Return a list to which each forward pass appends its number of images."""
    counts, run = [], DinoFeatures._run

    def counted(self, images, *sizes):
        counts.append(len(images))
        return run(self, images, *sizes)

    DinoFeatures._run = counted
    return counts


if __name__ == "__main__":
    main()
