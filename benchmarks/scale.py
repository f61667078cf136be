"""Many files on one machine: images per second of one process, of two, and of Dask's.

``score_files`` on rendered screws of 512 pixels (JPEG), AnomalyDINO at default
settings, scores and regions written as CSV. Each worker computes in one thread. The
first run is ``score_samples`` and ``predict_map`` in this process, also in one thread;
"efficiency" is images per second and process beside that. Processes are up and have
loaded the model when the clock starts. Parts are shared out whole: let their number be
a multiple of two.

    python benchmarks/scale.py
"""

import pickle
import tempfile
import time
from pathlib import Path

import joblib
import torch
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
    options = options.parse_args()
    torch.set_num_threads(1)
    print(environment() + "\n")
    with tempfile.TemporaryDirectory() as folder:
        print_rows(Path(folder), options)


def print_rows(folder, options):
    detector = AnomalyDINO().fit(make_screws(20, size=512, random_state=1)[0])
    model = save(detector, folder / "model.skd")
    paths = write(folder, options.images)
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
    moved = len(pickle.dumps(paths)) / len(paths)
    print(f"\n{moved:.0f} bytes per image go to a worker, beside the files.")


def write(folder, n):
    paths = [str(folder / f"{i:05d}.jpg") for i in range(n)]
    for path, image in zip(paths, make_screws(n, size=512)[0]):
        Image.fromarray(image).save(path, quality=95)
    return paths


def plain(detector, paths):
    """As a part is scored: a few files at a time, scores and then maps."""
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
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        return timed(model, paths, folder, options, client=client)


def timed(model, paths, folder, options, **how):
    """Return the seconds of all files, workers warm."""
    few = paths[: 2 * len(paths) // options.part_size or 1]
    score_files(model, few, folder / "warm", part_size=1, **how)
    clear_memory()
    start = time.perf_counter()
    score_files(model, paths, folder / "all", part_size=options.part_size, **how)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
