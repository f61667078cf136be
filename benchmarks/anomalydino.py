"""AnomalyDINO by shots, image size and masking, on every category below a folder.

Seed s of k shots trains on rows s * k to s * k + k - 1 of the sorted training images,
starting again from the first where they end; "all" trains on all of them. Each row of
the CSV file is one run, and runs already in it are not repeated. The tables are means
over seeds, with the standard deviation between them.

    python benchmarks/anomalydino.py --root ../shared/data --sizes 224 448
    python benchmarks/anomalydino.py --tables
"""

import copy
import statistics
import time
import warnings
from collections import defaultdict

from _common import (
    append_rows,
    categories,
    environment,
    image_figures,
    known_masks,
    print_table,
    read_rows,
    table_parser,
)

from skdinoad import AnomalyDINO, DinoFeatures
from skdinoad._arrays.masks import without_ground
from skdinoad.metrics import aupro_score, pixel_auroc_score

FIELDS = ["category", "pixels", "shots", "seed", "masking"]
FIGURES = ["image AUROC", "AP", "F1-max", "pixel AUROC", "AUPRO"]
OTHERS = ["verdict", "vectors", "fit s", "score s"]


def main():
    options = table_parser(__doc__, "anomalydino.csv")
    options.add_argument("--sizes", nargs="*", type=int, default=[224, 448])
    options.add_argument("--shots", nargs="*", default=["1", "2", "4", "8", "all"])
    options.add_argument("--seeds", type=int, default=3)
    options = options.parse_args()
    path = options.results
    if not options.tables:
        run_all(options, path)
    print_tables(path)


# -- running ------------------------------------------------------------------------


def run_all(options, path):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.with_suffix(".txt").write_text(environment() + "\n")
    done = {key(row) for row in read_rows(path)}
    for size in options.sizes:
        for name, data in categories(options.root, options.categories):
            plan = list(runs(name, size, options, len(data.train)))
            if all(key(row) in done for row in plan):
                continue
            test = Test(data, size)
            for row in plan:
                if key(row) not in done:
                    done.update(key(new) for new in measure(data, test, row, path))


def runs(name, size, options, n):
    """Yield one row for each training set; "all" has no seeds."""
    for shots in options.shots:
        for seed in range(1 if shots == "all" else options.seeds):
            if shots == "all" or int(shots) < n:
                yield [name, str(size), shots, str(seed), "off"]


class Test:
    """A test split, with its features, computed once."""

    def __init__(self, data, size):
        self.extractor = DinoFeatures(image_size=size, cache=False, batch_size=4)
        self.extractor.fit()
        self.X, self.y = data.test, data.y
        parts = [self.extractor.transform_frames([path]) for path in self.X]
        self.grids = [part[0][0] for part in parts]
        self.frames = [part[1][0] for part in parts]
        self.masks = known_masks(data)


def measure(data, test, row, path):
    """Fit once, score with and without masks, append both to the file."""
    _, _, shots, seed, _ = row
    n = len(data.train)
    k = n if shots == "all" else int(shots)
    rows = [(int(seed) * k + i) % n for i in range(k)]
    detector = AnomalyDINO(features=test.extractor, bank_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        detector.fit([data.train[i] for i in rows])
        fitting = time.perf_counter() - start
        start = time.perf_counter()
        whole = distances(detector, test)
        scoring = (time.perf_counter() - start) / len(whole)
        out = []
        for masking, D in (("off", whole), ("on", masked(detector, test, whole))):
            figures = evaluate(detector, test, D)
            extra = [detector.masking_, len(detector.bank_)]
            times = [f"{fitting:.2f}", f"{scoring:.3f}"]
            out.append([*row[:4], masking, *figures, *extra, *times])
    append_rows(path, FIELDS + FIGURES + OTHERS, out)
    print(*out[0], "|", *out[1][4:6], flush=True)
    return out


def distances(detector, test):
    """Return the distances of all patches, masked or not: both rows share them."""
    open_ = copy.copy(detector)
    open_.masking_, open_.features_, open_.features = False, None, "passthrough"
    return [grid for part, _ in open_._scored(test.grids, "score") for grid in part]


def masked(detector, test, whole):
    """Return them with NaN for the ground."""
    masks = [detector._mask(grid) for grid in test.grids]
    return [without_ground(D[..., None], m)[..., 0] for D, m in zip(whole, masks)]


def evaluate(detector, test, D):
    """Return the five figures, the last two empty where there are no masks."""
    scores = detector._aggregate(D)
    image = image_figures(test.y, -scores)
    if not test.masks:
        return [f"{x:.4f}" for x in image] + ["", ""]
    masks = list(test.masks.values())
    maps = [
        detector._map(D[i], test.frames[i], mask.shape)
        for i, mask in test.masks.items()
    ]
    pixel = [pixel_auroc_score(masks, maps), aupro_score(masks, maps)]
    return [f"{x:.4f}" for x in image + pixel]


# -- tables -------------------------------------------------------------------------


def key(row):
    return tuple(row[:4])


def print_tables(path):
    """Print image AUROC by category, and all figures averaged over categories."""
    text = path.with_suffix(".txt")
    print(text.read_text() if text.exists() else "")
    groups = defaultdict(list)
    for row in read_rows(path):
        figures = dict(zip(FIGURES, row[5:10]))
        verdict = "on" if row[10] == "True" else "off"
        modes = [row[4], *(["auto"] if row[4] == verdict else [])]
        for mode in modes:
            groups[int(row[1]), row[2], mode, row[0]].append(figures)
    settings = sorted({group[:3] for group in groups}, key=order)
    names = list(dict.fromkeys(group[3] for group in groups))
    rows = [
        [*map(str, s), *[cell(groups.get((*s, n)), FIGURES[0]) for n in names]]
        for s in settings
    ]
    print_table(["pixels", "shots", "masking", *names], rows)
    print()
    rows = [[*map(str, s), *[mean(groups, s, f) for f in FIGURES]] for s in settings]
    print_table(["pixels", "shots", "masking", *FIGURES], rows)


def order(setting):
    pixels, shots, mode = setting
    shots = 10**6 if shots == "all" else int(shots)
    return pixels, shots, ["off", "on", "auto"].index(mode)


def cell(runs, figure):
    """Mean and spread over seeds."""
    values = [float(run[figure]) for run in runs or [] if run[figure]]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def mean(groups, setting, figure):
    """Mean over the categories that have the figure, of means over seeds."""
    values = [
        statistics.mean(float(run[figure]) for run in runs)
        for group, runs in groups.items()
        if group[:3] == setting and runs[0][figure]
    ]
    return f"{statistics.mean(values):.3f} ({len(values)})" if values else "-"


if __name__ == "__main__":
    main()
