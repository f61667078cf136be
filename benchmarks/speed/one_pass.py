"""Cost of heat maps, regions, a report and pictures in addition to scores.

Each image is aligned, embedded and compared once, whatever results are requested.
Therefore

- ``iter_results`` should take at most 1.05 times as long as ``score_samples`` plus the
  enlarging of heat maps;
- ``skdinoad score`` with ``--report``, ``--maps`` and ``--regions`` at most 1.15 times
  as long as ``skdinoad score`` plus the writing of these files.

All runs alternate in one process, and the median of the ratios is printed. Features are
not cached.

    python benchmarks/speed/one_pass.py                     # 100 rendered photographs
    python benchmarks/speed/one_pass.py --images 20 --repeats 1
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from _common import environment

from skdinoad import AnomalyDINO, DinoFeatures, iter_results, save
from skdinoad._inputs.images import as_shown
from skdinoad.cli import main as command
from skdinoad.datasets import make_screws
from skdinoad.plotting import save_maps
from skdinoad.report import ScoringReport


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=100)
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args()
    print(environment())
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.images, options.repeats)


def measure(folder, n, repeats):
    X, _ = make_screws(24, size=448)
    new = [
        make_screws(1, size=448, defect="second_washer", random_state=i)[0][0]
        for i in range(n)
    ]
    paths = [str(folder / f"{i:03}.png") for i in range(n)]
    for path, image in zip(paths, new):
        Image.fromarray(image).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector = AnomalyDINO(features=DinoFeatures(cache=False)).fit(X)
    model = save(detector, folder / "model.skd")
    grids = [grid for D, _ in detector._iter_score_grids(paths) for grid in D]
    ratios = {"iter_results": [], "skdinoad score": []}
    for _ in range(repeats):
        scores = seconds(detector.score_samples, paths)
        enlarging = seconds(enlarged, detector, grids)
        results = seconds(lambda: list(iter_results(detector, paths)))
        ratios["iter_results"].append(results / (scores + enlarging))
        plain = seconds(run, "score", model, *paths)
        known = list(iter_results(detector, paths, regions=True))
        writing = seconds(write, detector, paths, known, folder)
        outputs = ["--report", folder / "r.html", "--maps", folder / "m"]
        outputs += ["--regions", folder / "r.json"]
        everything = seconds(run, "score", model, *paths, *outputs)
        ratios["skdinoad score"].append(everything / (plain + writing))
        print(
            f"score_samples {scores:.2f} s, enlarging {enlarging:.2f}, iter_results "
            f"{results:.2f}; skdinoad score {plain:.2f}, writing {writing:.2f}, with "
            f"all files {everything:.2f}",
            flush=True,
        )
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.3f} times the sum of its parts")


def enlarged(detector, grids):
    for grid in grids:
        detector._map(grid, np.diag([28.0, 28.0, 1.0]), (448, 448))


def write(detector, paths, results, folder):
    """Write the files that the command writes."""
    limits = detector.map_limits_
    report = ScoringReport(threshold=detector.offset_, map_limits=limits)
    for path, result in zip(paths, results):
        (image,) = as_shown([path])
        names = [Path(path).stem]
        save_maps(folder / "w", [image], [result.heat], limits=limits, names=names)
        row = {"path": path, "score": result.score}
        report.add(row, image, result.heat, result.regions)
    report.write(folder / "w.html")


def seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def run(*arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        assert command([str(argument) for argument in arguments]) == 0


if __name__ == "__main__":
    main()
