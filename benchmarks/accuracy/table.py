"""All methods on every category below a folder: accuracy, seconds and memory.

Writes ``results/table.csv`` (a row for each method, category and seed), ``table.json``
(the same with the environment), ``table.md`` (tables with categories as columns) and
``means.md`` (one table of means, for README and documentation).
Existing rows are not measured again. All methods use default settings, or 448 pixels if
the name says so; test images are only scored, after ``fit``. Methods without random
numbers run once.

    python benchmarks/accuracy/table.py --root ../shared/data
    python benchmarks/accuracy/table.py --root ../shared/data --methods DFR DMAD \
        --seeds 42 43 44
    python benchmarks/accuracy/table.py --tables
    python benchmarks/accuracy/table.py --picture        # -> doc/images/methods.png

Trained methods use ``holdout=None``, so their seconds are those of one network. "fit s"
and "score ms" (per image) include reading files and the network. Features that another
method computed for the same category before are not computed again; the time that they
took is counted instead and shown as "network ms" (per image). "MiB" is the peak memory
of fitting and scoring beyond that of the process before, including such features
(Linux).
"""

import ctypes
import gc
import json
import platform
import statistics
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy
import sklearn
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import (
    append_rows,
    categories,
    image_figures,
    known_masks,
    processor,
    read_rows,
    show,
    table_parser,
)
from sklearn.utils import Bunch

from skdinoad import (
    DFR,
    DMAD,
    AnomalyDINO,
    CNNFeatures,
    DinoFeatures,
    Dinomaly,
    DinoPatch,
    LinearDFR,
    PCAAligner,
    Pipeline,
    SubspaceAD,
    __version__,
)
from skdinoad._compat.timm import timm
from skdinoad.features._extractor import Extractor
from skdinoad.features._store import clear_memory
from skdinoad.metrics import (
    aupro_score,
    pixel_ap_score,
    pixel_auroc_score,
    pixel_f1_max_score,
)

DISTILLATION = {"scales": (), "vq": False, "holdout": None}


def same_size(detector):
    """Resize images of slightly different sizes to the same size."""
    return Pipeline([PCAAligner(output_size=448, mode="none"), detector])


def at_448():
    """Return features at twice the default size, which cost four times as much."""
    return DinoFeatures(image_size=448)


METHODS = {
    "DinoPatch": lambda: same_size(DinoPatch()),
    "AnomalyDINO": AnomalyDINO,
    "SubspaceAD": SubspaceAD,
    "Dinomaly": lambda: Dinomaly(holdout=None),
    "DFR": lambda: DFR(holdout=None),
    "DMAD": lambda: DMAD(holdout=None),
    "reverse distillation": lambda: DMAD(**DISTILLATION),
    "DFR linear": lambda: LinearDFR(holdout=None),
    "DFR vit": lambda: DFR(preset="vit", holdout=None),
    "DFR vit linear": lambda: LinearDFR(preset="vit", holdout=None),
    "DMAD pdm": lambda: DMAD(variant="pdm", holdout=None),
    "DMAD vit": lambda: DMAD(preset="vit", holdout=None),
    "reverse distillation vit": lambda: DMAD(preset="vit", **DISTILLATION),
    "DinoPatch 448": lambda: same_size(DinoPatch(features=at_448())),
    "AnomalyDINO 448": lambda: AnomalyDINO(features=at_448()),
    "SubspaceAD 448": lambda: SubspaceAD(features=at_448()),
}

KEY = ["method", "category", "seed"]
IMAGE = ["image AUROC", "AP", "F1-max"]
PIXEL = ["pixel AUROC", "pixel AP", "pixel F1-max", "AUPRO"]
COSTS = ["network ms", "fit s", "score ms", "MiB"]
FIGURES = [*IMAGE, *PIXEL, *COSTS]

#: Figures that papers report; then the others. Categories are columns.
TABLES = ["image AUROC", "pixel AUROC", "pixel F1-max"]

#: Columns of ``means.md``.
SHORT = ["image AUROC", "AUPRO", "fit s", "score ms", "MiB"]

PICTURE = Path(__file__).parents[2] / "doc/images/methods.png"


def main():
    options = table_parser(__doc__, "table.csv")
    options.add_argument("--methods", nargs="*", default=[*METHODS], choices=METHODS)
    options.add_argument("--seeds", nargs="*", type=int, default=[42])
    options.add_argument("--picture", action="store_true", help="only draw it")
    options = options.parse_args()
    path = options.results
    if not options.tables and not options.picture:
        if options.root is None:
            sys.exit("usage: python benchmarks/accuracy/table.py --root FOLDER")
        path.parent.mkdir(exist_ok=True, parents=True)
        check_environment(path.with_suffix(".json"))
        run(options, path)
    if not path.exists():
        sys.exit(f"{path} does not exist: nothing was measured yet; pass --root.")
    rows = write(path)
    if options.picture:
        return draw(rows)
    print(path.with_suffix(".md").read_text())


# -- running --------------------------------------------------------------------------


def run(options, path):
    """Run what is missing, one category after the other to share cached features."""
    done = {tuple(row[:3]) for row in read_rows(path)}
    for name, data in categories(options.root, options.categories):
        costs = {}
        clear_memory()
        for method, seed in plan(options):
            if (method, name, str(seed)) not in done:
                figures = measure(seeded(METHODS[method](), seed), data, costs)
                row = [method, name, seed, *figures]
                append_rows(path, [*KEY, *FIGURES], [row])
                print(*row, flush=True)


def plan(options):
    """Yield methods and seeds; methods without random numbers run with one seed."""
    for method in options.methods:
        for seed in options.seeds[: None if draws(METHODS[method]()) else 1]:
            yield method, seed


def draws(estimator):
    """Return whether results depend on the seed: training, or a random subset."""
    parameters = detector_of(estimator).get_params(deep=False)
    return "training" in parameters


def seeded(estimator, seed):
    if "random_state" in detector_of(estimator).get_params(deep=False):
        detector_of(estimator).set_params(random_state=seed)
    return estimator


def detector_of(estimator):
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def measure(estimator, data, costs):
    """Return all figures of a method on a category; pixel figures need masks."""
    with warnings.catch_warnings(), peak_memory() as peak:
        warnings.simplefilter("ignore")
        fitting = timed(lambda: estimator.fit(data.train), costs)
        scoring = timed(lambda: estimator.score_samples(data.test), costs)
    n, m = len(data.train), len(data.test)
    network = per_image(fitting.used, costs)
    seconds = fitting.rest + n * network, (scoring.rest + m * network) / m
    figures = image_figures(data.y, scoring.result)
    figures += pixel_figures(estimator, data)
    times = [1000 * network or "", seconds[0], 1000 * seconds[1], peak.mib]
    return [x if x == "" else f"{x:.4f}" for x in [*figures, *times]]


def pixel_figures(estimator, data):
    masks = known_masks(data)
    if not masks:
        return [""] * len(PIXEL)
    maps = [estimator.predict_map([data.test[i]])[0] for i in masks]
    scores = (pixel_auroc_score, pixel_ap_score, pixel_f1_max_score, aupro_score)
    return [score(list(masks.values()), maps) for score in scores]


def timed(call, costs):
    """Return the ``result`` of a call, its seconds without features, and ``used``.

    ``used`` are the settings of the features that the call needed; ``costs`` collects
    {settings: [seconds, images]} of features.
    """
    inside, used = [0.0], set()
    forward = Extractor._forward

    def watched(self, images):
        start = time.perf_counter()
        out = forward(self, images)
        seconds = time.perf_counter() - start
        inside[0] += seconds
        used.add(self._settings())
        cost = costs.setdefault(self._settings(), [0.0, 0])
        cost[0], cost[1] = cost[0] + seconds, cost[1] + len(images)
        return out

    Extractor._forward = watched
    try:
        start = time.perf_counter()
        result = call()
        rest = time.perf_counter() - start - inside[0]
        return Bunch(result=result, rest=rest, used=used)
    finally:
        Extractor._forward = forward


def per_image(used, costs):
    """Return the seconds to compute the features of one image."""
    return sum(costs[settings][0] / max(1, costs[settings][1]) for settings in used)


@contextmanager
def peak_memory():
    """Measure the growth of the process's peak memory; NaN if it is not available."""
    peak = Bunch()
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory would otherwise hide the growth
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        before = None
    yield peak
    peak.mib = "" if before is None else (_status("VmHWM") - before) / 1024


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


# -- environment ----------------------------------------------------------------------


def check_environment(path):
    """Record the environment; exit if the file has rows of another one."""
    now = environment()
    if path.exists() and json.loads(path.read_text())["environment"] != now:
        sys.exit(
            f"{path} was measured elsewhere or by other versions; pass another file "
            "as --results, or remove it and the .csv beside it."
        )
    if not path.exists():
        path.write_text(json.dumps({"environment": now, "rows": []}, indent=1) + "\n")


def environment():
    cnn, vit = CNNFeatures(standardize=False).fit(), DinoFeatures().fit()
    return {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "skdinoad": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        **{f.weights_name_: f"sha256 {f.weights_digest_[:12]}" for f in (vit, cnn)},
    }


# -- tables ---------------------------------------------------------------------------


def write(path):
    """Write the JSON and the Markdown file from the rows of the CSV file."""
    rows = [dict(zip([*KEY, *FIGURES], row)) for row in read_rows(path)]
    for row in rows:
        row["seed"] = int(row["seed"])
        row.update({f: float(row[f]) if row[f] else None for f in FIGURES})
    where = path.with_suffix(".json")
    known = json.loads(where.read_text())["environment"]
    whole = {"environment": known, "rows": rows}
    where.write_text(json.dumps(whole, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(rows, known))
    methods, names = axes_of(rows)
    means = [[m, *(mean(rows, m, names, f) for f in SHORT)] for m in methods]
    path.with_name("means.md").write_text(table(["default settings", *SHORT], means))
    return rows


def markdown(rows, known):
    """Return all tables: the three figures of papers, the means, and the rest."""
    methods, names = axes_of(rows)
    text = ", ".join(f"{k} {v}" for k, v in known.items()) + "\n"
    for figure in TABLES:
        text += table(
            [figure, *names, "mean"], by_category(rows, methods, names, figure)
        )
    means = [[m, *(mean(rows, m, names, f) for f in FIGURES)] for m in methods]
    text += table(["mean over categories", *FIGURES], means)
    for figure in [f for f in FIGURES if f not in TABLES]:
        text += table(
            [figure, *names, "mean"], by_category(rows, methods, names, figure)
        )
    return text


def axes_of(rows):
    """Return the methods and the categories that were measured."""
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    return methods, list(dict.fromkeys(row["category"] for row in rows))


def by_category(rows, methods, names, figure):
    return [
        [m, *(cell(rows, m, n, figure) for n in names), mean(rows, m, names, figure)]
        for m in methods
    ]


def values(rows, method, name, figure):
    """Return a figure for all seeds, [] if it was not measured."""
    key = (method, name)
    found = [r[figure] for r in rows if (r["method"], r["category"]) == key]
    return [value for value in found if value is not None]


def cell(rows, method, name, figure):
    """Return mean, and standard deviation over seeds if there are several."""
    found = values(rows, method, name, figure)
    if not found:
        return "-"
    spread = f" ± {shown(figure, statistics.stdev(found))}" if len(found) > 1 else ""
    return shown(figure, statistics.mean(found)) + spread


def mean(rows, method, names, figure):
    """Return the mean over categories, "-" if one of them lacks the figure."""
    has = [n for n in names if any(values(rows, m, n, figure) for m in METHODS)]
    found = [values(rows, method, n, figure) for n in has]
    if not found or not all(found):
        return "-"
    return shown(figure, statistics.mean(statistics.mean(part) for part in found))


def shown(figure, value):
    return f"{value:.0f}" if figure in COSTS else show(value)


def draw(rows):
    """Plot the accuracy of each method over the time per image."""
    methods, names = axes_of(rows)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, quality in zip(axes, ("image AUROC", "AUPRO")):
        for method in methods:
            found = [mean(rows, method, names, f) for f in ("score ms", quality)]
            if "-" in found:
                continue
            x, y = map(float, found)
            ax.plot(x, y, "s" if method.endswith("448") else "o", label=method)
        ax.set(xlabel="score, ms per image", ylabel=f"{quality}, mean over categories")
        ax.margins(0.1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(PICTURE, dpi=110)
    print(PICTURE)


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
