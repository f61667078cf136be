"""Measure the false alarm rate of ThresholdTunerCV over random draws.

In each draw the tuner is fitted on some normal images, and false alarms are counted on
the others, which are normal too. The guarantee refers to the mean rate over draws;
single draws scatter, as does any threshold from so few images.

"folds" is the default: out-of-fold scores and a model refitted on all images. In
"split" a third is held out and the model is not refitted; the bound is proved for this
case. Features are computed once. "expected" is k / (m + 1) for m held-out normal
images, the rate of the split.

    python benchmarks/accuracy/false_alarms.py ../shared/data
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, parser, print_table
from sklearn.model_selection import ShuffleSplit

from skdinoad import (
    DinoFeatures,
    DinoPatch,
    LinearDFR,
    PCAAligner,
    ThresholdTunerCV,
)
from skdinoad._arrays.thresholds import conformal_rank
from skdinoad.datasets import make_screws

RATES = (0.01, 0.05, 0.1)

#: Input size of the network; 8 x 8 patches make 200 draws affordable.
SIZE = 112

DETECTORS = {
    "DinoPatch": DinoPatch,
    "DFR linear": lambda: LinearDFR(max_rows=20_000, holdout=None),
}


def main():
    options = parser(__doc__)
    options.add_argument("--draws", type=int, default=200)
    options.add_argument("--detectors", nargs="*", default=[*DETECTORS])
    options = options.parse_args()
    print(environment() + f"; {SIZE} pixels, {options.draws} draws\n")
    header = ["normals", "detector", "fitted on", "way", "rate", "expected", "realised"]
    print_table([*header, "± of the mean", "draws above twice the rate"], [])
    for name, F, sizes in populations(options):
        for detector in options.detectors:
            for way, n in sizes.items():
                rows = measure(DETECTORS[detector](), F, n, way, options.draws)
                for rate, *figures in rows:
                    row = [name, detector, str(n), way, str(rate), *figures]
                    print("| " + " | ".join(row) + " |", flush=True)


def populations(options):
    """Yield (name, features of normal images, numbers of images to fit on)."""
    extractor = DinoFeatures(image_size=(SIZE, SIZE), layers=10, norm=False).fit()
    if not options.categories:
        X, _ = make_screws(450, size=256, random_state=0)
        Z = PCAAligner(output_size=SIZE).fit_transform(X)
        yield "screws, rendered", extractor.transform(Z), {"folds": 120, "split": 300}
    for name, data in categories(options.root, options.categories):
        X = [*data.train, *data.test[data.y == 1]]
        if len(X) >= 90:
            yield name, extractor.transform(X), {"folds": 60, "split": 60}


def measure(detector, F, n, way, draws):
    """Yield rate, expected and realised rate, and the share of draws above twice it."""
    realised, held = {rate: [] for rate in RATES}, n if way == "folds" else n // 3
    rates = [rate for rate in RATES if conformal_rank(held, rate)]
    split = ShuffleSplit(1, test_size=held, random_state=0)
    how = {} if way == "folds" else {"cv": split, "refit": False}
    tuner = ThresholdTunerCV(detector, target_fpr=rates[-1], **how)
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(F))
        # predict flags images with p <= rate, so one fit is enough for all rates.
        p = tuner.fit(F[order[:n]]).p_values(F[order[n:]])
        for rate in rates:
            realised[rate].append((p <= rate).mean())
    for rate in rates:
        found = np.array(realised[rate])
        expected = conformal_rank(held, rate) / (held + 1)
        error = found.std() / np.sqrt(draws)
        twice = (found > 2 * rate).mean()
        yield (
            rate,
            *(f"{x:.4f}" for x in (expected, found.mean(), error)),
            f"{twice:.2f}",
        )


if __name__ == "__main__":
    main()
