"""Measure the effect of smaller banks and other options on every category of a folder.

Features come from one block and are computed once for each category; up to 30 training
images are used, the first of the sorted files. Prints one line per setting: image AUROC
by category and on average, the size of the bank, and the seconds of fitting and of
scoring one image without the network.

    python benchmarks/accuracy/smaller_banks.py ../shared/data --size 224
    python benchmarks/accuracy/smaller_banks.py ../shared/data \
        --method AnomalyDINO --size 448
"""

import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, parser, print_table

from skdinoad import AnomalyDINO, DinoFeatures, DinoPatch, ForegroundMask
from skdinoad._inputs.images import as_images
from skdinoad.metrics import image_auroc_score

ANOMALYDINO = {
    "10 000 vectors": {"bank__size": 10_000},
    "all vectors": {"bank__size": None},
    "coreset 25 %": {"bank__size": 0.25},
    "coreset 10 %": {"bank__size": 0.1},
    "coreset 1 %": {"bank__size": 0.01},
    "random 25 %": {"bank__size": 0.25, "bank__sampling": "random"},
    "random 10 %": {"bank__size": 0.1, "bank__sampling": "random"},
    "random 1 %": {"bank__size": 0.01, "bank__sampling": "random"},
    "all, float16": {"bank__size": None, "bank__dtype": "float16"},
    "all, approximate": {"bank__size": None, "bank__search": "approximate"},
    "all, 3 neighbours": {"bank__size": None, "bank__n_neighbors": 3},
}
DINOPATCH = {
    "default (radius 1)": {},
    "radius 0": {"bank__neighborhood": 0},
    "global 0.25": {"bank__global_weight": 0.25},
    "global 0.5": {"bank__global_weight": 0.5},
    "global 0.75": {"bank__global_weight": 0.75},
    "global 1": {"bank__global_weight": 1.0},
    "masked": {"masked": True},
    "half the images": {"bank__max_images": 0.5},
    "a quarter of the images": {"bank__max_images": 0.25},
    "prototypes: a half": {"bank__n_prototypes": 0.5},
    "prototypes: a quarter": {"bank__n_prototypes": 0.25},
    "shared PCA, 128": {"bank__n_components": 128},
    "shared PCA, 32": {"bank__n_components": 32},
    "radius 0, local PCA, 8": {
        "bank__n_components": 8,
        "bank__pca": "local",
        "bank__neighborhood": 0,
    },
    "float16": {"bank__dtype": "float16"},
}


def main():
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--method", nargs="*", default=["AnomalyDINO", "DinoPatch"])
    options.add_argument("--settings", nargs="*", help="only these")
    options = options.parse_args()
    print(environment() + f"; {options.size} pixels\n", flush=True)
    methods = {"AnomalyDINO": ANOMALYDINO, "DinoPatch": DINOPATCH}
    rows = {}
    for name, data in categories(options.root, options.categories):
        splits = features(data, options.size)
        for method in options.method:
            for label, setting in methods[method].items():
                if not options.settings or label in options.settings:
                    row = measure(method, setting, *splits)
                    rows.setdefault((method, label), {})[name] = row
        print(f"{name} done", flush=True)
    print()
    for method in options.method:
        print_rows(method, {k[1]: v for k, v in rows.items() if k[0] == method})


def features(data, size):
    """Return (train, test, y); the images without and with ForegroundMask."""
    X = list(as_images(data.train))[:30]
    shapes = {image.shape[:2] for image in [*X, *as_images(data.test)]}
    wanted = size if len(shapes) == 1 else (size, size)
    extractor = DinoFeatures(image_size=wanted, layers=10, norm=False).fit()
    mask = ForegroundMask(features=extractor).fit(X)
    return [
        [(extractor.transform(x), extractor.transform(_masked(mask, x))) for x in part]
        for part in ([as_images(X)], [as_images(data.test)])
    ] + [data.y]


def _masked(mask, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mask.transform(X)


def measure(method, setting, train, test, y):
    setting = dict(setting)
    masked = setting.pop("masked", False)
    train, test = train[0][masked], test[0][masked]
    for name in ("bank__max_images", "bank__n_prototypes"):
        if name in setting:
            setting[name] = max(1, round(setting[name] * len(train)))
    cls = {"AnomalyDINO": AnomalyDINO, "DinoPatch": DinoPatch}[method]
    detector = cls(features="passthrough").set_params(**setting)
    if method == "AnomalyDINO":
        detector.set_params(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        detector.fit(train)
        fitted = time.perf_counter()
        scores = detector.score_samples(test)
        scored = (time.perf_counter() - fitted) / len(test)
    bank = detector.bank_.vectors
    return image_auroc_score(y, scores), bank.nbytes / 2**20, fitted - start, scored


def print_rows(method, rows):
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = []
    for label, row in rows.items():
        cells = np.array([row[name] for name in names])
        mb, fit, score = (statistics.mean(column) for column in cells.T[1:])
        costs = [f"{mb:.1f}", f"{fit:.2f}", f"{score:.3f}"]
        table.append([label, *cells[:, 0], cells[:, 0].mean(), *costs])
    print_table([method, *names, "mean", "bank MB", "fit s", "score s"], table)
    print()


if __name__ == "__main__":
    main()
