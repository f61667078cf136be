"""Compare settings of Dinomaly: one model per category, and one for all categories.

Each row of the CSV file is one category with one setting; existing rows are not
measured again. With ``holdout=None`` all training images are used, and the seconds are
those of one network; features are computed beforehand and not counted. "decoder not
reversed" is an intentional mistake that shows the effect of the order.

    python benchmarks/accuracy/dinomaly.py --root ../shared/data
    python benchmarks/accuracy/dinomaly.py --root ../shared/data --settings "depth 8"
    python benchmarks/accuracy/dinomaly.py --tables
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import (
    append_rows,
    categories,
    environment,
    image_figures,
    known_masks,
    print_table,
    read_rows,
    show,
    table_parser,
)

from skdinoad import Dinomaly
from skdinoad.metrics import aupro_score, pixel_ap_score, pixel_auroc_score
from skdinoad.networks import Reconstructor

FIELDS = ["setting", "category"]
FIGURES = ["image AUROC", "AP", "F1-max", "pixel AUROC", "pixel AP", "AUPRO"]
OTHERS = ["train s", "score ms", "loss", "false alarms", "misses"]

#: Parameters of the detector; those of the extractor start with "features__".
SETTINGS = {
    "fast": {},
    "fast, threshold by 3 folds": {"holdout": 3},
    "fast, 3 folds, target_fpr 0.1": {"holdout": 3, "target_fpr": 0.1},
    "one for all": {},
    "one for all, 1200 iterations": {"training__n_iter": 1200},
    "blocks 2 to 9": {"features__layers": tuple(range(2, 10))},
    "blocks 5 to 10": {"features__layers": tuple(range(5, 11))},
    "depth 4": {"depth": 4},
    "depth 8": {"depth": 8},
    "batches of 8": {"training__batch_size": 8},
    "100 iterations": {"training__n_iter": 100},
    "300 iterations": {"training__n_iter": 300},
    "1200 iterations": {"training__n_iter": 1200},
    "float32": {"training__precision": "float32"},
    "280 pixels": {"features__image_size": (280, 280)},
    "recentred": {"recenter": True},
    "4 images": {},
    "4 images, dihedral copies": {"augmentation": "dihedral"},
    "4 images, crops": {"augmentation": "crops"},
    "no dropout": {"dropout": 0.0},
    "one group": {"features__groups": 1},
    "decoder not reversed": {},
}


#: Settings that are printed as separate tables.
MAIN = ("fast", "one for all, 1200 iterations")


def main():
    options = table_parser(__doc__, "dinomaly.csv")
    options.add_argument("--settings", nargs="*", default=[*MAIN])
    options = options.parse_args()
    path = options.results
    if not options.tables:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.with_suffix(".txt").write_text(environment() + "\n")
        everything = list(categories(options.root, options.categories))
        for setting in options.settings:
            run(setting, everything, path)
    print_tables(path)


def run(setting, everything, path):
    """Train one model per category, or one for all, and append its figures."""
    known = {tuple(row[:2]) for row in read_rows(path)}
    if setting.startswith("one for all"):
        if all((setting, name) in known for name, _ in everything):
            return
        X = [image for _, data in everything for image in data.train]
        detector, seconds = train(setting, X)
        for name, data in everything:
            write(path, [setting, name, *evaluate(detector, data, seconds)])
        return
    for name, data in everything:
        if (setting, name) not in known:
            few = 4 if setting.startswith("4 images") else None
            detector, seconds = train(setting, data.train[:few])
            write(path, [setting, name, *evaluate(detector, data, seconds)])


def train(setting, X):
    """Return a fitted detector and the seconds of its training, without features."""
    detector = Dinomaly(holdout=None).set_params(**SETTINGS[setting])
    extractor = detector.features or detector.default_features()
    extractor.fit().transform(X)  # cached from now on
    start, forward = time.perf_counter(), Reconstructor.forward
    if setting == "decoder not reversed":
        Reconstructor.forward = lambda *args: forward(*args).flip(1)
    detector.fit(X)
    Reconstructor.forward = forward
    return detector, time.perf_counter() - start


def evaluate(detector, data, seconds):
    """Return all figures of a category; pixel figures are empty without masks."""
    detector.features_.transform(data.test)
    start = time.perf_counter()
    scores = detector.score_samples(data.test)
    times = [seconds, (time.perf_counter() - start) / len(scores) * 1000]
    figures = image_figures(data.y, scores)
    masks = known_masks(data)
    if masks:
        maps = [detector.predict_map([data.test[i]])[0] for i in masks]
        masks = list(masks.values())
        scores_of = (pixel_auroc_score, pixel_ap_score, aupro_score)
        figures += [score(masks, maps) for score in scores_of]
    else:
        figures += [""] * 3
    loss = statistics.mean(detector.loss_curve_[-20:])
    out = [x if x == "" else f"{x:.4f}" for x in [*figures, *times, loss]]
    if np.isnan(detector.offset_):
        return [*out, "", ""]
    good = scores[data.y == 1] < detector.offset_
    bad = scores[data.y == -1] >= detector.offset_
    return [*out, f"{good.sum()} of {good.size}", f"{bad.sum()} of {bad.size}"]


def write(path, row):
    append_rows(path, FIELDS + FIGURES + OTHERS, [row])
    print(*row, flush=True)


def print_tables(path):
    """Print the image AUROC of all settings, and all figures of the main ones."""
    print(path.with_suffix(".txt").read_text())
    rows = read_rows(path)
    names = list(dict.fromkeys(row[1] for row in rows))
    settings = list(dict.fromkeys(row[0] for row in rows))
    table = []
    for setting in settings:
        cells = {row[1]: row for row in rows if row[0] == setting}
        aurocs = [float(cells[n][2]) if n in cells else None for n in names]
        found = [x for x in aurocs if x is not None]
        mean = statistics.mean(found) if len(found) == len(names) else None
        seconds = statistics.mean(float(row[8]) for row in cells.values())
        table.append([setting, *aurocs, mean, f"{seconds:.0f}"])
    print_table(["image AUROC", *names, "mean", "train s"], table)
    for setting in MAIN:
        print()
        table = [
            [row[1], *[show(float(x) if x else None) for x in row[2:8]], *rounded(row)]
            for row in rows
            if row[0] == setting
        ]
        print_table([setting, *FIGURES, *OTHERS[:2]], table)
    print()
    table = [[*row[:2], *row[11:], rounded(row)[0]] for row in rows if row[11]]
    print_table(["threshold", "category", *OTHERS[3:], OTHERS[0]], table)


def rounded(row):
    """Return training seconds and scoring milliseconds of a row, rounded."""
    return [f"{float(x):.0f}" for x in row[8:10]]


if __name__ == "__main__":
    main()
