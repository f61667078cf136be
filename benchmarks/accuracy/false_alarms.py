"""Does ThresholdTunerCV keep its promise? Realised false alarms over resamplings.

Normal images are drawn at random again and again: some to fit on, the others, all of
them normal too, to count false alarms on. The mean rate over the draws is what is
promised; single draws scatter, as any threshold from so few images does.

"folds": the default, out-of-fold scores and a model refitted on all. "split": a third
is held out and the model is not refitted, for which the bound is proved. Features are
computed once. "expected" is k / (m + 1) of m held-out normals, the rate of the split.

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

#: Side of the images that the network sees: 8 x 8 patches, for 200 draws' sake.
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
    """Yield (name, features of normal images, how many of them each way fits on)."""
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
    """Yield rate, expected and realised rates, and how often it was twice as much."""
    realised, held = {rate: [] for rate in RATES}, n if way == "folds" else n // 3
    rates = [rate for rate in RATES if conformal_rank(held, rate)]
    split = ShuffleSplit(1, test_size=held, random_state=0)
    how = {} if way == "folds" else {"cv": split, "refit": False}
    tuner = ThresholdTunerCV(detector, target_fpr=rates[-1], **how)
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(F))
        # p <= rate is what predict flags: one fit serves all rates.
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
