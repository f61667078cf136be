"""What smaller banks and other wishes cost or bring, on every category below a folder.

Features are those of one block, computed once for each category; up to 30 training
images, the first of the sorted files. One line for each setting: image AUROC by
category and on average, the bank's size and the seconds of fitting and of scoring one
image, network not counted.

    python benchmarks/smaller_banks.py ../shared/data --size 224
    python benchmarks/smaller_banks.py ../shared/data --method AnomalyDINO --size 448
"""

import statistics
import time
import warnings

import numpy as np
from _common import categories, environment, parser, print_table

from skdinoad import AnomalyDINO, DinoFeatures, DinoPatch, ForegroundMask
from skdinoad._inputs.images import as_images
from skdinoad.metrics import image_auroc_score

ANOMALYDINO = {
    "10 000 vectors": {"bank_size": 10_000},
    "all vectors": {"bank_size": None},
    "coreset 25 %": {"bank_size": 0.25},
    "coreset 10 %": {"bank_size": 0.1},
    "coreset 1 %": {"bank_size": 0.01},
    "random 25 %": {"bank_size": 0.25, "sampling": "random"},
    "random 10 %": {"bank_size": 0.1, "sampling": "random"},
    "random 1 %": {"bank_size": 0.01, "sampling": "random"},
    "all, float16": {"bank_size": None, "bank_dtype": "float16"},
    "all, approximate": {"bank_size": None, "search": "approximate"},
    "all, 3 neighbours": {"bank_size": None, "n_neighbors": 3},
}
DINOPATCH = {
    "default (radius 1)": {},
    "radius 0": {"neighborhood": 0},
    "global 0.25": {"global_weight": 0.25},
    "global 0.5": {"global_weight": 0.5},
    "global 0.75": {"global_weight": 0.75},
    "global 1": {"global_weight": 1.0},
    "masked": {"masked": True},
    "half the images": {"max_images": 0.5},
    "a quarter of the images": {"max_images": 0.25},
    "prototypes: a half": {"n_prototypes": 0.5},
    "prototypes: a quarter": {"n_prototypes": 0.25},
    "shared PCA, 128": {"n_components": 128},
    "shared PCA, 32": {"n_components": 32},
    "radius 0, local PCA, 8": {"n_components": 8, "pca": "local", "neighborhood": 0},
    "float16": {"bank_dtype": "float16"},
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
    """Return (train, test, y), each split plain and behind ForegroundMask."""
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
    for name in ("max_images", "n_prototypes"):
        if name in setting:
            setting[name] = max(1, round(setting[name] * len(train)))
    cls = {"AnomalyDINO": AnomalyDINO, "DinoPatch": DinoPatch}[method]
    detector = cls(features="passthrough", **setting)
    if method == "AnomalyDINO":
        detector.set_params(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        detector.fit(train)
        fitted = time.perf_counter()
        scores = detector.score_samples(test)
        scored = (time.perf_counter() - fitted) / len(test)
    bank = detector.bank_ if method == "DinoPatch" else detector.bank_.vectors
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
