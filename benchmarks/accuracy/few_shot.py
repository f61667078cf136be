"""Image AUROC and AUPRO with few good images, or none.

Seed s of k shots is fitted on rows s * k to s * k + k - 1 of the sorted training
images. With 0 images, the test images are compared with each other by ``score_batch``,
with its default rule, the rule of the official code, and the two additional steps of
MuSc. Each row of the CSV file is one run, and existing runs are not repeated; maps are
computed for the first seed only. The table shows means over categories of means over
seeds; "ms" is the time per image beyond the network, whose features are cached before.
The short table is also written to ``results/few_shot.md``.

    python benchmarks/accuracy/few_shot.py --root ../shared/data
    python benchmarks/accuracy/few_shot.py --tables
"""

import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import (
    append_rows,
    categories,
    environment,
    known_masks,
    print_table,
    read_rows,
    table_parser,
)

from skdinoad import (
    AnomalyDINO,
    DinoFeatures,
    DinoPatch,
    PCAAligner,
    Pipeline,
    SubspaceAD,
)
from skdinoad.features._store import clear_memory
from skdinoad.metrics import aupro_score, image_auroc_score

KEY = ["method", "shots", "category", "seed"]
FIGURES = ["image AUROC", "AUPRO", "ms"]

#: Resizes images of slightly different sizes to the same size, for DinoPatch.
_SAME = {"mode": "none", "output_size": 224}

DETECTORS = {
    "AnomalyDINO": AnomalyDINO,
    "SubspaceAD": SubspaceAD,
    "DinoPatch": lambda: Pipeline([PCAAligner(**_SAME), DinoPatch()]),
}

#: Rules for comparing the images of a batch with each other.
RULES = {
    "score_batch": {},
    "score_batch, official rule": {"neighbors": 0.001},
    "score_batch, MuSc's windows": {"aggregation": (1, 3, 5)},
    "score_batch, MuSc's windows and re-scoring": {
        "aggregation": (1, 3, 5),
        "rescoring": 3,
    },
}


def main():
    options = table_parser(__doc__, "few_shot.csv")
    options.add_argument("--shots", nargs="*", type=int, default=[1, 2, 4, 8])
    options.add_argument("--seeds", type=int, default=3)
    options = options.parse_args()
    path = options.results
    if not options.tables:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.with_suffix(".txt").write_text(environment() + "\n")
        run(options, path)
    print_tables(path)


# -- running --------------------------------------------------------------------------


def run(options, path):
    """Run what is missing, one category after the other to share cached features."""
    done = {tuple(row[: len(KEY)]) for row in read_rows(path)}
    for name, data in categories(options.root, options.categories):
        clear_memory()
        same = PCAAligner(**_SAME).fit(data.train)
        for images in (data.test, same.transform(data.test)):
            DinoFeatures().fit().transform(images)  # cached
        for method, shots, seed in plan(options):
            key = (method, str(shots), name, str(seed))
            if key not in done:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    figures = measure(method, shots, seed, data)
                append_rows(path, KEY + FIGURES, [[*key, *figures]])
                print(*key, *figures, flush=True)


def plan(options):
    """Yield method, shots and seed."""
    for method in RULES:
        yield method, 0, 0
    for method in DETECTORS:
        for shots in options.shots:
            for seed in range(options.seeds):
                yield method, shots, seed


def measure(method, shots, seed, data):
    """Return the figures of one run; AUPRO is empty if it is not requested."""
    masks = known_masks(data) if seed == 0 else {}
    if method in RULES:
        start = time.perf_counter()
        scores, maps = AnomalyDINO().score_batch(
            data.test, return_maps=True, **RULES[method]
        )
        seconds = time.perf_counter() - start
        maps = [maps[i] for i in masks]
    else:
        detector = DETECTORS[method]().fit(chosen(data.train, shots, seed))
        start = time.perf_counter()
        scores = detector.score_samples(data.test)
        seconds = time.perf_counter() - start
        maps = [detector.predict_map([data.test[i]])[0] for i in masks]
    auroc = image_auroc_score(data.y, scores)
    aupro = f"{aupro_score(list(masks.values()), maps):.4f}" if masks else ""
    return [f"{auroc:.4f}", aupro, f"{1000 * seconds / len(data.test):.1f}"]


def chosen(train, shots, seed):
    """Return the training images of a seed; after the last, start from the first."""
    return [train[(seed * shots + i) % len(train)] for i in range(shots)]


# -- tables ---------------------------------------------------------------------------


def print_tables(path):
    """Print image AUROC by category, and the means."""
    text = path.with_suffix(".txt")
    print(text.read_text() if text.exists() else "")
    found = defaultdict(list)
    for row in read_rows(path):
        run = dict(zip(KEY + FIGURES, row))
        found[run["method"], run["shots"], run["category"]].append(run)
    names = list(dict.fromkeys(key[2] for key in found))
    rows, short = [], []
    for method, shots in dict.fromkeys(key[:2] for key in found):
        runs = [found[method, shots, name] for name in names]
        cells = [spread(values(part, "image AUROC")) for part in runs]
        means = [average(runs, figure) for figure in FIGURES]
        rows.append([method, shots, *cells, *means])
        short.append([method, shots, *means])
    print_table(["method", "images known", *names, *FIGURES], rows)
    lines = [["method", "images known", *FIGURES], ["---"] * 5, *short]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    path.with_suffix(".md").write_text(text)


def values(runs, figure):
    return [float(run[figure]) for run in runs if run[figure]]


def spread(numbers):
    """Return mean and standard deviation over seeds."""
    if not numbers:
        return "-"
    text = f"{mean(numbers):.3f}"
    return f"{text} ± {stdev(numbers):.3f}" if len(numbers) > 1 else text


def average(runs, figure):
    """Return the mean over the categories for which the figure was measured."""
    parts = [mean(found) for part in runs if (found := values(part, figure))]
    if not parts:
        return "-"
    return f"{mean(parts):.0f}" if figure == "ms" else f"{mean(parts):.3f}"


if __name__ == "__main__":
    main()
