"""Throughput of many files on one machine: one process, two processes, and Dask.

Runs ``score_files`` on rendered screws of 512 pixels (JPEG) with AnomalyDINO at default
settings and writes scores and regions as CSV. Each worker computes in one thread. The
first run is ``score_samples`` and ``predict_map`` in this process, also in one thread;
"efficiency" is the throughput per process relative to it. All processes have started
and loaded the model before timing begins. Each part is scored by one process, so choose
an even number of parts. The second table lists bytes per image; it does not depend on
the machine, and --bytes prints only this table.

    python benchmarks/speed/scale.py
"""

import os
import pickle
import sys
import tempfile
import time
from pathlib import Path

import joblib
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table
from PIL import Image

from skdinoad import AnomalyDINO, save
from skdinoad.datasets import make_screws
from skdinoad.features._store import clear_memory
from skdinoad.scale import score_files


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--part-size", type=int, default=25)
    options.add_argument("--bytes", action="store_true")
    options = options.parse_args()
    torch.set_num_threads(1)
    print(environment() + "\n")
    with tempfile.TemporaryDirectory() as folder:
        print_rows(Path(folder), options)


def print_rows(folder, options):
    detector = AnomalyDINO().fit(make_screws(20, size=512, random_state=1)[0])
    model = save(detector, folder / "model.skd")
    paths = write(folder, make_screws(options.images, size=512)[0])
    if not options.bytes:
        print_speed(detector, model, paths, folder, options)
    print_bytes(detector, model, paths, folder)


def print_speed(detector, model, paths, folder, options):
    seconds = {("this process", 1): plain(detector, paths)}
    for engine in (on_joblib, on_dask):
        for n in (1, 2):
            name = engine.__name__.removeprefix("on_")
            seconds[name, n] = engine(n, model, paths, folder / f"{name}{n}", options)
    rows = []
    for (name, n), total in seconds.items():
        speed = len(paths) / total
        efficiency = speed / n / (len(paths) / seconds["this process", 1])
        rows.append([name, str(n), f"{speed:.1f}", f"{efficiency:.2f}"])
    print_table(["engine", "processes", "images/s", "efficiency"], rows)
    print()


def print_bytes(detector, model, paths, folder):
    n = len(paths)
    total = {
        "image file": sum(os.path.getsize(path) for path in paths),
        "path, to a worker": len(pickle.dumps(paths)),
        "features": n * detector.features_.transform(paths[:1]).nbytes,
    }
    for kind in ("csv", "parquet"):
        total[f"scores, {kind}"] = of_scores(kind, model, paths, folder)
    rows = [[name, f"{value / n:.0f}"] for name, value in total.items()]
    print_table(["bytes of an image", "mean"], rows)
    print(f"\nThe model file: {os.path.getsize(model) / 1e6:.0f} MB.")


def of_scores(kind, model, paths, folder):
    """Return the bytes of all scores, written as one part."""
    out = folder / kind
    with joblib.parallel_config("loky", n_jobs=1, inner_max_num_threads=1):
        score_files(model, paths, out, part_size=len(paths), format=kind)
    return sum(os.path.getsize(file) for file in (out / "scores").iterdir())


def write(folder, images):
    paths = [str(folder / f"{i:05d}.jpg") for i in range(len(images))]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path, quality=95)
    return paths


def plain(detector, paths):
    """Score files as a part is scored: a few at a time, scores and then maps."""
    clear_memory()
    start = time.perf_counter()
    for k in range(0, len(paths), 16):
        detector.score_samples(paths[k : k + 16])
        detector.predict_map(paths[k : k + 16])
    return time.perf_counter() - start


def on_joblib(n, model, paths, folder, options):
    with joblib.parallel_config("loky", n_jobs=n, inner_max_num_threads=1):
        return timed(model, paths, folder, options)


def on_dask(n, model, paths, folder, options):
    import dask
    from distributed import Client, LocalCluster

    # As in doc/scale.rst; before the first cluster of a process.
    memory = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
    dask.config.set({memory: None})
    cluster = LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        return timed(model, paths, folder, options, client=client)


def timed(model, paths, folder, options, **how):
    """Return the seconds for all files with warm workers."""
    few = paths[: 2 * len(paths) // options.part_size or 1]
    score_files(model, few, folder / "warm", part_size=1, **how)
    clear_memory()
    start = time.perf_counter()
    score_files(model, paths, folder / "all", part_size=options.part_size, **how)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
