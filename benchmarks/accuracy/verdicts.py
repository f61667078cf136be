"""Recall and false alarms at the default threshold.

Each method is fitted on good images only, with default settings, and labels the test
images with its own threshold (``predict``, ``pixel_threshold_``). Nothing is chosen on
test images. ``--images`` sets the numbers of good training images (several random draws
of small numbers), ``--contaminate`` the shares of unlabelled defects among them;
defects used for training are not scored.

Writes a row for each run to ``results/verdicts.csv``. Existing runs are not repeated.
``--tables`` only prints the tables of this file.

    python benchmarks/accuracy/verdicts.py --root ../shared/data
    python benchmarks/accuracy/verdicts.py --root ../shared/data --images 3 5 10 24 50
    python benchmarks/accuracy/verdicts.py --root ../shared/data --contaminate .05 .1 .2
    python benchmarks/accuracy/verdicts.py --tables

- recall: share of defective images that ``predict`` flags; false alarms: share of good
  images that it flags;
- AUROC: of the images; AUPRO: of the heat maps, up to 30 % of the good pixels;
- regions: share of the marked defects that a region above ``pixel_threshold_``
  overlaps; false regions: regions per good image;
- suspects: number of training images in ``suspects_``; bad found: number of defects
  among them.
"""

import csv
import statistics
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from _common import (
    append_rows,
    categories,
    environment,
    known_masks,
    print_table,
    show,
    table_parser,
)

from skdinoad import (
    DFR,
    DMAD,
    AnomalyDINO,
    Dinomaly,
    DinoPatch,
    PCAAligner,
    Pipeline,
    ReverseDistillation,
    SubspaceAD,
    find_regions,
    iter_maps,
)
from skdinoad.metrics import aupro_score, image_auroc_score


def same_size(detector):
    """Resize images of slightly different sizes to the same size."""
    return Pipeline([PCAAligner(output_size=448, mode="none"), detector])


METHODS = {
    "AnomalyDINO": AnomalyDINO,
    "DinoPatch": lambda: same_size(DinoPatch()),
    "AnomalyDINO without texture": lambda: AnomalyDINO(texture=None),
    "DinoPatch without texture": lambda: same_size(DinoPatch(texture=None)),
    "SubspaceAD": SubspaceAD,
    "DFR": DFR,
    "DFR vit": lambda: DFR(preset="vit"),
    "reverse distillation": ReverseDistillation,
    "reverse distillation vit": lambda: ReverseDistillation(preset="vit"),
    "Dinomaly": Dinomaly,
    "DMAD": DMAD,
    "DMAD vit": lambda: DMAD(preset="vit"),
}

#: Settings from which a default is chosen by leave-one-category-out.
CHOICES = [
    ["AnomalyDINO", "AnomalyDINO without texture"],
    ["DinoPatch", "DinoPatch without texture"],
    ["DFR", "DFR vit"],
    ["reverse distillation", "reverse distillation vit"],
    ["DMAD", "DMAD vit"],
]

KEY = ["method", "category", "images", "contaminated", "draw"]
FIGURES = [
    "recall",
    "false alarms",
    "AUROC",
    "AUPRO",
    "regions",
    "false regions",
    "suspects",
    "bad found",
]

#: Columns that are omitted in the README.
LONG = ("categories", "suspects", "bad found", "regions", "false regions")

#: (draws, largest number of images); larger numbers have one draw.
DRAWS, FEW = 3, 10


def main():
    options = table_parser(__doc__, "verdicts.csv")
    options.set_defaults(
        results=Path(__file__).parent.parent / "results" / "verdicts.csv"
    )
    options.add_argument("--methods", nargs="*", default=["AnomalyDINO"])
    options.add_argument(
        "--images", nargs="*", type=int, default=[0], help="0 = all there are"
    )
    options.add_argument("--contaminate", nargs="*", type=float, default=[0.0])
    options = options.parse_args()
    if not options.tables:
        if options.root is None:
            sys.exit("usage: python benchmarks/accuracy/verdicts.py --root FOLDER")
        run(options)
    tables(options.results)


# -- running --------------------------------------------------------------------------


def run(options):
    print(environment() + "\n", flush=True)
    done = {tuple(row[k] for k in KEY) for row in read(options.results)}
    for category, data in categories(options.root, options.categories):
        for method in options.methods:
            for n in options.images:
                if n > len(data.train):
                    continue
                for share in options.contaminate:
                    if n and share:  # defects are added to all good images only
                        continue
                    draws = DRAWS if 0 < n <= FEW or share else 1
                    for draw in range(draws):
                        key = (method, category, str(n), f"{share:g}", str(draw))
                        if key in done:
                            continue
                        figures = measure(METHODS[method](), data, n, share, draw)
                        row = [*key, *map(shown, figures)]
                        append_rows(options.results, [*KEY, *FIGURES], [row])
                        print(*row, flush=True)


def measure(model, data, n, share, draw):
    """Return the figures of one run; pixel figures for the first draw only."""
    pixels = not share and not draw
    rng = np.random.default_rng(draw)
    good = rng.permutation(len(data.train))[: n or None]
    good = [data.train[i] for i in (np.sort(good) if n else range(len(data.train)))]
    bad = np.flatnonzero(data.y == -1)
    learned = rng.permutation(bad)[: round(len(good) * share / (1 - share))]
    rows = np.setdiff1d(np.arange(len(data.test)), learned)
    X, y = [data.test[i] for i in rows], data.y[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit([*good, *(data.test[i] for i in learned)])
    scores = model.score_samples(X)
    flagged = scores < model.offset_
    suspects = (model[-1] if isinstance(model, Pipeline) else model).suspects_
    return [
        flagged[y == -1].mean(),
        flagged[y == 1].mean(),
        image_auroc_score(y, scores),
        *(pixel_figures(model, data, rows) if pixels else [None] * 3),
        len(suspects),
        sum(s.row >= len(good) for s in suspects),
    ]


def pixel_figures(model, data, rows):
    """Return AUPRO, share of defects overlapped by regions, regions per good image."""
    known = known_masks(data)
    rows = [i for i in rows if i in known]
    if not rows:
        return [None] * 3
    maps = list(iter_maps(model, [data.test[i] for i in rows]))
    masks = [known[i] for i in rows]
    found = marked = false = good = 0
    for heat, mask in zip(maps, masks):
        if not mask.any():
            good += 1
            false += len(find_regions(heat, model.pixel_threshold_))
            continue
        n, defects = cv2.connectedComponents(mask.astype(np.uint8))
        marked += n - 1
        found += len(np.setdiff1d(defects[heat > model.pixel_threshold_], [0]))
    return aupro_score(masks, maps), found / marked, false / good


def shown(figure):
    return "" if figure is None else f"{figure:.4f}"


# -- tables ---------------------------------------------------------------------------


def read(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tables(path):
    """Print all tables, and write them next to the file of rows."""
    rows = read(path)
    everywhere = [r for r in rows if r["images"] == "0" and r["contaminated"] == "0"]
    methods = list(dict.fromkeys(row["method"] for row in everywhere))
    known = ["categories", *FIGURES]
    out = {"means": (["method", *known], by(everywhere, "method", n=True))}
    for method in methods:
        mine = [row for row in everywhere if row["method"] == method]
        out[method] = (["category", *FIGURES], by(mine, "category"))
    out["left_out"] = (
        ["category", "chosen on the others", "recall", "false alarms", "AUROC"],
        [line for choices in CHOICES for line in left_out(everywhere, choices)],
    )
    clean = [row for row in rows if row["contaminated"] == "0"]
    for name, column, part in (
        ("images", "images", clean),
        ("contaminated", "contaminated", [r for r in rows if r["images"] == "0"]),
    ):
        lines = []
        for method in methods:
            mine = [row for row in part if row["method"] == method]
            values = {row[column] for row in mine}
            if len(values) > 1:
                mine.sort(
                    key=lambda row: float(row[column]) or 9999 * (name == "images")
                )
                lines += [[method, *line] for line in by(mine, column, n=True)]
        out[name] = (["method", column, *known], lines)
    for name, (header, lines) in out.items():
        if not lines:
            continue
        print(f"\n{name}\n")
        print_table(header, lines)
        file = f"{path.stem}_{name.replace(' ', '_')}.csv"
        with path.with_name(file).open("w", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerows([header, *([show(x) for x in line] for line in lines)])
    path.with_name(f"{path.stem}_means.md").write_text(markdown(*out["means"]))


def left_out(rows, choices):
    """Return for each category the setting that is best on all others, and its figures.

    The best has the highest mean of AUROC + 0.3 (recall - false alarms).
    """
    of = {(row["method"], row["category"]): row for row in rows}
    names = list(dict.fromkeys(row["category"] for row in rows))
    if any((method, name) not in of for method in choices for name in names):
        return []

    def worth(method, name):
        row = of[method, name]
        rate = float(row["recall"]) - float(row["false alarms"])
        return float(row["AUROC"]) + 0.3 * rate

    lines = []
    for name in names:
        others = [other for other in names if other != name]
        best = max(choices, key=lambda m: sum(worth(m, other) for other in others))
        row = of[best, name]
        figures = [float(row[key]) for key in ("recall", "false alarms", "AUROC")]
        lines.append([name, best, *figures])
    columns = list(zip(*lines))[2:]
    return [*lines, ["mean", "", *(statistics.mean(c) for c in columns)]]


def markdown(header, lines):
    """Return the table for the README."""
    columns = [i for i, name in enumerate(header) if name not in LONG]
    rows = [header, ["---"] * len(header), *lines]
    text = ("| " + " | ".join(show(row[i]) for i in columns) + " |" for row in rows)
    return "\n".join(text) + "\n"


def by(rows, name, *, n=False):
    """Return the means of the figures for each value of a column.

    Draws of a category are averaged first, so that each category has equal weight.
    """
    out = []
    for value in dict.fromkeys(row[name] for row in rows):
        mine = [row for row in rows if row[name] == value]
        names = list(dict.fromkeys(row["category"] for row in mine))
        line = [value, *([str(len(names))] if n else [])]
        for figure in FIGURES:
            means = [
                statistics.mean(float(x) for x in values)
                for category in names
                if (values := [r[figure] for r in mine if r["category"] == category])
                and all(values)
            ]
            line.append(statistics.mean(means) if means else None)
        out.append(line)
    if name == "category" and out:
        columns = [
            [row[k] for row in out if row[k] is not None] for k in range(1, len(out[0]))
        ]
        out.append(["mean", *(statistics.mean(c) if c else None for c in columns)])
    return out


if __name__ == "__main__":
    main()
