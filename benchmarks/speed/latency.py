"""Latency of one image, in a warm process and in a new one.

The first table compares ``score_samples([image])`` with default settings and without a
cache to the bare network on a tensor of the same size, as provided by timm and as run
by skdinoad; all alternate in this process, and medians of many runs are reported. The
second table runs commands in new processes with weights on disk: seconds until they
print a result (or are ready, if they print none), and until they end. The third table
is that of the README: milliseconds per image for score and heat map in a batch of
twenty.

    python benchmarks/speed/latency.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table
from overhead import SUMMARY, clock, networks, raw, seen, summary
from PIL import Image

from skdinoad import (
    DFR,
    AnomalyDINO,
    DinoFeatures,
    DinoPatch,
    PCAAligner,
    Pipeline,
    SubspaceAD,
    iter_results,
    save,
)
from skdinoad.datasets import make_screws


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--repeats", type=int, default=30)
    options.add_argument("--starts", type=int, default=3, help="new processes")
    options = options.parse_args()
    print(environment() + "\n")
    X, _ = make_screws(21, size=512)
    rows = [[n, *warm(m, X, options.repeats)] for n, m in estimators().items()]
    print_table(["estimator", *SUMMARY], rows)
    print()
    with tempfile.TemporaryDirectory() as folder:
        runs = commands(Path(folder), X)
        rows = [[name, *cold(c, options.starts)] for name, c in runs.items()]
    print_table(["a new process", "first word, seconds", "end, seconds"], rows)
    print()
    X, _ = make_screws(40, size=512)
    rows = in_a_batch(X, max(1, options.repeats // 10))
    print_table(["method", "ms for each image in a batch"], [*rows])


def estimators():
    def features():
        return DinoFeatures(cache=False)

    return {
        "DinoPatch(texture=None)": DinoPatch(features=features(), texture=None),
        "AnomalyDINO(texture=None)": AnomalyDINO(features=features(), texture=None),
        "PCAAligner() + DinoPatch(texture=None)": Pipeline(
            [PCAAligner(), DinoPatch(features=features(), texture=None)]
        ),
    }


def in_a_batch(X, repeats):
    """Yield the methods of the README and their milliseconds per image."""
    methods = {
        "AnomalyDINO": AnomalyDINO(features=DinoFeatures(cache=False)),
        "DinoPatch": DinoPatch(features=DinoFeatures(cache=False)),
        "AnomalyDINO without texture": AnomalyDINO(
            features=DinoFeatures(cache=False), texture=None
        ),
        "DinoPatch without texture": DinoPatch(
            features=DinoFeatures(cache=False), texture=None
        ),
        "SubspaceAD": SubspaceAD(features=DinoFeatures(cache=False)),
        "DFR": DFR(holdout=0.2).set_params(features__cache=False),
    }
    for name, detector in methods.items():
        fitted = detector.fit(X[:20])
        times = [
            clock(lambda fitted=fitted: [*iter_results(fitted, X[20:])])
            for _ in range(repeats)
        ]
        yield name, f"{1000 * statistics.median(times) / len(X[20:]):.0f}"


def warm(estimator, X, repeats):
    """Return milliseconds of both networks and of the score, and median ratios."""
    fitted, image = estimator.fit(X[:20]), X[20:]
    features, size = seen(fitted, image)
    calls = [
        *(lambda b=b: raw(features, 1, size, b) for b in networks(features)),
        lambda: fitted.score_samples(image),
    ]
    times = [[clock(call) for call in calls] for _ in range(repeats + 3)]
    return summary(times[3:])


def commands(folder, X):
    """Return the commands for new processes, by name."""
    image, model = folder / "image.png", folder / "model.skd"
    Image.fromarray(X[20]).save(image)
    save(AnomalyDINO().fit(X[:12]), model)
    first = (
        "from skdinoad import load; "
        f"print(load({str(model)!r}).score_samples([{str(image)!r}]), flush=True)"
    )
    return {
        "import skdinoad": [sys.executable, "-c", "import skdinoad"],
        "import torch": [sys.executable, "-c", "import torch"],
        "load a model and score one image": [sys.executable, "-c", first],
        "skdinoad score MODEL IMAGE": [
            *(sys.executable, "-m", "skdinoad", "score", str(model), str(image))
        ],
    }


def cold(command, starts):
    """Return median seconds until something is printed, and until the end."""
    timed(command)  # loads files into the page cache
    times = zip(*(timed(command) for _ in range(starts)))
    return [f"{statistics.median(part):.2f}" for part in times]


def timed(command):
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        said = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{command} failed.")
    return said, time.perf_counter() - start


if __name__ == "__main__":
    main()
