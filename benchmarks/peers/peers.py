"""Compare other libraries with this one: seconds, memory and accuracy.

All methods use the same images and run one after the other, each in a fresh process,
with the same weights, the same number of threads, uint8 images in memory, an input of
224 x 224 pixels, batches of 8, and float32 unless our default differs. Peers are called
through their own torch modules, without a data loader, logging or thresholds; only the
input size is passed to their preprocessing. Other settings are defaults, except: ViT-S
instead of larger networks; the same decoder depth, batch size and number of steps for
both Dinomalys, with a warm-up over the first tenth of the steps; windows of 224 pixels
that overlap by 14 for SuperADD, which is designed for DINOv3.

"fit s" starts from images in memory; "score + map s" is for all test images, where maps
of peers have the size of the network's input and ours the size of the photograph. "MiB"
is the peak of both beyond the process with its libraries, images and network. AUROC and
AUPRO are computed by our code, from maps resized to the photograph. A ratio above 1
means that the peer is slower or needs more memory; a difference above 0 means that it
is more accurate. Packages that are not installed are skipped, and so are networks whose
features differ from ours by more than 1e-3. Rows are appended to
``results/peers.csv``.

    pip install -c constraints.txt -r benchmarks/peers/requirements.txt
    python benchmarks/peers/peers.py ../shared/data --categories hazelnut paper_gla01
    python benchmarks/peers/peers.py ../shared/data --repeats 3 --steps 1000
    python benchmarks/peers/peers.py ../shared/data --clone FOLDER   # the authors' code
    python benchmarks/peers/peers.py ../shared/data --images 8 --results trial.csv
"""

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "accuracy"))

from _common import (
    append_rows,
    categories,
    commit,
    environment,
    known_masks,
    parser,
    print_table,
    processor,
)
from _peers import AUTHORS, METHODS, PAIRS
from PIL import Image
from sklearn.utils import Bunch
from table import peak_memory

from skdinoad.metrics import aupro_score, image_auroc_score

COSTS, QUALITY = ["fit s", "score + map s", "MiB"], ["image AUROC", "AUPRO"]
FIGURES = [*COSTS, *QUALITY]
PLACE = ["date", "commit", "machine", "threads"]
HEADER = [*PLACE, "category", "fitted", "judged", "steps", "method", *FIGURES]


def main():
    options = arguments()
    everything = dict(categories(options.root, options.categories))
    if options.method:
        [data] = everything.values()
        method = METHODS[options.method][0](options)
        return print(json.dumps(measure(method, some(data, options.images))))
    print(f"{environment()}; {versions()}\n")
    methods = [method for method in options.methods if can_run(method, options)]
    for name, data in everything.items():
        found = repeated(methods, name, some(data, options.images), options)
        print_table([name, *FIGURES], [[m, *shown(row)] for m, row in found.items()])
        print()
        header = ["peer / ours", "ours", *COSTS[:2], "together", "MiB", *QUALITY]
        print_table(header, list(ratios(found)))
        print()


def arguments():
    out = parser(__doc__)
    out.formatter_class = argparse.RawDescriptionHelpFormatter
    out.add_argument("--methods", nargs="*", default=[*METHODS], choices=METHODS)
    out.add_argument("--method", choices=METHODS, help="one, here; prints JSON")
    out.add_argument(
        "--repeats", type=int, default=1, help="in turn; medians are shown"
    )
    out.add_argument("--images", type=int, help="to fit and to judge; default: all")
    out.add_argument("--depth", type=int, default=8, help="of Dinomaly's decoder")
    out.add_argument("--steps", type=int, default=50, help="of Dinomaly's training")
    out.add_argument("--batch", type=int, default=4, help="images in each of them")
    out.add_argument("--clone", help="folder of github.com/dammsi/AnomalyDINO")
    out.add_argument("--masking", action="store_true", help="by the authors' code")
    results = Path(__file__).parents[1] / "results" / "peers.csv"
    out.add_argument("--results", type=Path, default=results, help="the CSV file")
    return out.parse_args()


def can_run(method, options):
    """Return whether the requirements of a method are met; print those that are not."""
    _, package = METHODS[method]
    there = installed(package)
    if there and (method != AUTHORS or options.clone):
        return True
    reason = "no --clone is given" if there else f"{package} is not installed"
    print(f"{method}, left out: {reason}\n")
    return False


def installed(package):
    return importlib.util.find_spec(package) is not None


def versions():
    names = [name for name in ("anomalib", "imgad") if installed(name)]
    return ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)


def some(data, n):
    """Return the first training images and n test images of all kinds; None = all."""
    if n is None:
        return data
    rows = np.linspace(0, len(data.test) - 1, min(n, len(data.test))).astype(int)
    test, masks = [data.test[i] for i in rows], data.masks[rows]
    return Bunch(train=data.train[:n], test=test, y=data.y[rows], masks=masks)


# -- running --------------------------------------------------------------------------


def repeated(methods, category, data, options):
    """Return the figures of each method that has run, as medians over repeats."""
    found, at = {}, commit()
    work = [category, len(data.train), len(data.test), options.steps]
    for method in methods * options.repeats:
        row = run(method, category, options)
        if row:
            found.setdefault(method, []).append(row)
            where = [date.today().isoformat(), at, processor(), row["threads"]]
            cells = [row[figure] for figure in FIGURES]
            append_rows(options.results, HEADER, [[*where, *work, method, *cells]])
    return {method: medians(rows) for method, rows in found.items()}


def run(method, category, options):
    """Return the figures of a method in a fresh process, None if it failed."""
    command = [sys.executable, __file__, options.root, "--categories", category]
    for name in ("images", "depth", "steps", "batch", "clone"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    command += ["--masking"] * options.masking + ["--method", method]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        said = out.stderr.strip().splitlines() or [f"status {out.returncode}"]
        print(f"{method}, left out: {said[-1]}\n")
        return None
    return json.loads(out.stdout.splitlines()[-1])


def medians(rows):
    columns = {figure: [row[figure] for row in rows] for figure in FIGURES}
    return {f: None if None in x else statistics.median(x) for f, x in columns.items()}


def measure(method, data):
    """Return all figures of a method; maps are computed again for the accuracy."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    train, test = read(data.train), read(data.test)
    with peak_memory() as peak:
        start = time.perf_counter()
        method.fit(train)
        fitted = time.perf_counter()
        for _ in method.judge(test):
            pass
        end = time.perf_counter()
    costs = fitted - start, end - fitted, peak.mib
    figures = dict(zip(FIGURES, [*costs, *quality(method, test, data)]))
    return {**figures, "threads": torch.get_num_threads()}


def read(paths):
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def quality(method, X, data):
    """Return image AUROC, and AUPRO or None."""
    scores, maps = zip(*method.judge(X))
    masks = known_masks(data)
    auroc = image_auroc_score(data.y, np.array(scores))
    if not masks or maps[0] is None:
        return auroc, None
    maps = [cv2.resize(maps[i], mask.shape[::-1]) for i, mask in masks.items()]
    return auroc, aupro_score(list(masks.values()), maps)


# -- tables ---------------------------------------------------------------------------


def shown(row):
    digits = dict(zip(FIGURES, (1, 1, 0, 3, 3)))
    return ["-" if row[f] is None else f"{row[f]:.{digits[f]}f}" for f in FIGURES]


def ratios(found):
    """Yield ratios of time and memory of each peer, and differences of accuracy."""
    for ours, peer in PAIRS:
        if ours in found and peer in found:
            a, b = found[ours], found[peer]
            fit, judge, memory = ([row[f] for row in (a, b)] for f in COSTS)
            together = [sum(pair) for pair in zip(fit, judge)]
            costs = [f"{y / x:.2f}" for x, y in (fit, judge, together)]
            memory = f"{memory[1] / max(1, memory[0]):.2f}"
            yield [peer, ours, *costs, memory, *(more(a, b, f) for f in QUALITY)]


def more(a, b, figure):
    return "-" if b[figure] is None else f"{b[figure] - a[figure]:+.3f}"


if __name__ == "__main__":
    main()
