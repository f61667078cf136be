"""All methods on every category below a folder, one row of a CSV file for each.

Rows that are there already are not run again. Default settings throughout; the test
images are only scored. ``holdout=None`` for the trained methods, so that their seconds
are those of one network. "fit s" and "score ms" begin with image files and an empty
cache, and hold everything.

    python benchmarks/table.py ../shared/data
    python benchmarks/table.py ../shared/data --methods DFR "DFR linear"
    python benchmarks/table.py --tables
"""

import statistics
import time
import warnings
from pathlib import Path

import numpy as np
from _common import (
    append_rows,
    categories,
    environment,
    image_figures,
    known_masks,
    parser,
    print_table,
    read_rows,
    show,
)
from sklearn.metrics import precision_recall_curve

from skdinoad import DFR, DMAD, AnomalyDINO, Dinomaly, DinoPatch, PCAAligner, Pipeline
from skdinoad.features import CNNFeatures
from skdinoad.features._store import clear_memory
from skdinoad.metrics import aupro_score, pixel_auroc_score

DISTILLATION = {"scales": (), "vq": False, "holdout": None}


def same_size(detector):
    """Bring images of slightly different sizes to one."""
    return Pipeline([PCAAligner(output_size=448, mode="none"), detector])


METHODS = {
    "DinoPatch": lambda: same_size(DinoPatch()),
    "AnomalyDINO": AnomalyDINO,
    "Dinomaly": lambda: Dinomaly(holdout=None),
    "DFR": lambda: DFR(holdout=None),
    "DFR linear": lambda: DFR(autoencoder="linear", holdout=None),
    "DFR vit": lambda: DFR(preset="vit", holdout=None),
    "DFR vit linear": lambda: DFR(preset="vit", autoencoder="linear", holdout=None),
    "DMAD": lambda: DMAD(holdout=None),
    "DMAD pdm": lambda: DMAD(variant="pdm", holdout=None),
    "reverse distillation": lambda: DMAD(**DISTILLATION),
    "DMAD vit": lambda: DMAD(preset="vit", holdout=None),
    "reverse distillation vit": lambda: DMAD(preset="vit", **DISTILLATION),
}

#: One row for each of the five methods, and the baseline of the last.
MAIN = ["DinoPatch", "AnomalyDINO", "Dinomaly", "DFR", "DMAD", "reverse distillation"]

IMAGE = ["image AUROC", "AP", "F1-max"]
PIXEL = ["pixel AUROC", "pixel F1-max", "AUPRO"]
TIMES = ["fit s", "score ms"]


def main():
    options = parser(__doc__, root=False)
    options.add_argument("root", nargs="?", help="folder with MVTec-style categories")
    options.add_argument("--categories", nargs="*", help="only these folder names")
    options.add_argument("--methods", nargs="*", default=[*METHODS], choices=METHODS)
    options.add_argument("--results", default=Path(__file__).parent / "results")
    options.add_argument("--tables", action="store_true", help="only print the tables")
    options = options.parse_args()
    path = Path(options.results) / "table.csv"
    if not options.tables:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.with_suffix(".txt").write_text(_environment() + "\n")
        for method in options.methods:
            for name, data in categories(options.root, options.categories):
                if [method, name] not in [row[:2] for row in read_rows(path)]:
                    row = [method, name, *measure(METHODS[method](), data)]
                    append_rows(
                        path, ["method", "category", *IMAGE, *PIXEL, *TIMES], [row]
                    )
                    print(*row, flush=True)
    print_tables(path)


def _environment():
    cnn = CNNFeatures(standardize=False).fit()
    digest = cnn.weights_digest_[:12]
    return f"{environment()}; {cnn.weights_name_}, sha256 {digest}..."


def measure(estimator, data):
    """Return all figures of a method on a category, empty without masks."""
    clear_memory()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(data.train)
    times = [time.perf_counter() - start]
    start = time.perf_counter()
    scores = estimator.score_samples(data.test)
    times.append((time.perf_counter() - start) / len(scores) * 1000)
    figures, masks = image_figures(data.y, -scores), known_masks(data)
    figures += pixel_figures(estimator, data, masks) if masks else [""] * 3
    return [x if x == "" else f"{x:.4f}" for x in [*figures, *times]]


def pixel_figures(estimator, data, masks):
    maps = [estimator.predict_map([data.test[i]])[0] for i in masks]
    masks = list(masks.values())
    flat = [np.concatenate([x.ravel() for x in part]) for part in (masks, maps)]
    precision, recall, _ = precision_recall_curve(*flat)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    return [pixel_auroc_score(masks, maps), f1, aupro_score(masks, maps)]


def print_tables(path):
    """Print means over categories, then image AUROC and AUPRO by category."""
    print(path.with_suffix(".txt").read_text())
    rows = read_rows(path)
    names = list(dict.fromkeys(row[1] for row in rows))
    found = {m: {r[1]: r[2:] for r in rows if r[0] == m} for m in METHODS}
    whole = {m: r for m, r in found.items() if len(r) == len(names)}
    table = [[m, *means(whole[m].values())] for m in MAIN if m in whole]
    print_table(["mean over categories", *IMAGE, *PIXEL, *TIMES], table)
    for i, column in enumerate([*IMAGE, *PIXEL, *TIMES]):
        print()
        table = [[m, *[cell(r, n, i) for n in names]] for m, r in found.items() if r]
        print_table([column, *names], table)


def cell(rows, name, i):
    """Return one figure; seconds and milliseconds are whole numbers."""
    if name not in rows or rows[name][i] == "":
        return None
    value = float(rows[name][i])
    return value if i < 6 else f"{value:.0f}"


def means(rows):
    """Return the mean of each column over the categories that have it."""
    columns = [[float(x) for x in column if x] for column in zip(*rows)]
    average = [statistics.mean(column) if column else None for column in columns]
    return [show(x) for x in average[:6]] + [f"{x:.0f}" for x in average[6:]]


if __name__ == "__main__":
    main()
