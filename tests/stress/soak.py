"""Memory over a long run of new images: make check-soak.

Small photographs, each another, go as files through ``skdinoad score`` and through
``score_samples`` in batches, by a tiny network, without a cache and with a folder of a
limited size. ``--real`` lets the packaged network score as many at 56 pixels, and a
twentieth of them as ``skdinoad fit`` would have it. It prints the process's memory
(RSS) when a tenth, half and all are scored, and fails if that grows after the first
tenth by more than ``--allowed``, or the folder passes its limit.

    python tests/stress/soak.py --real
    python tests/stress/soak.py --images 300
"""

import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _common import environment, parser, print_table
from PIL import Image

from skdinoad import AnomalyDINO, DinoFeatures, DiskCache, load, save
from skdinoad.cli import main as skdinoad
from skdinoad.datasets import make_screws

TINY = {"model": "test_vit", "weights": "random:0", "image_size": 64}
BATCH = 16

#: Bytes: a few hundred images, so that most of them make room for others.
CACHE_SIZE = 10**6


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--images", type=int, default=10_000)
    options.add_argument("--allowed", type=float, default=32, help="MiB of growth")
    options.add_argument("--real", action="store_true", help="the packaged network too")
    options = options.parse_args()
    os.environ["SKDINOAD_OFFLINE"] = "1"
    print(environment(weights=options.real) + "\n")
    n, rows = options.images, []
    with tempfile.TemporaryDirectory() as folder:
        for way, kept, mib in soak(Path(folder), n):
            rows.append(["tiny", way, kept, n, mib])
        if options.real:
            rows += real(Path(folder), n)
    header = ["network", "images go through", "features kept", "images"]
    header += ["MiB at 10 %", "50 %", "100 %"]
    print_table(header, [[*x, str(n), *(f"{y:.0f}" for y in z)] for *x, n, z in rows])
    sys.exit(any(max(mib) - mib[0] > options.allowed for *_, mib in rows))


def soak(folder, n):
    """Yield (way, cache, MiB at each mark)."""
    images, _ = make_screws(8, size=96)
    paths = list(written(folder, images, n))
    (folder / "list.txt").write_text("\n".join(paths))
    for name, kept in {
        "nowhere": {"cache": False},
        "folder": {"cache": DiskCache(folder / "kept", max_size=CACHE_SIZE)},
    }.items():
        features = DinoFeatures(**TINY, **kept)
        model = save(AnomalyDINO(features=features).fit(images), folder / "m.skd")
        for way in (score_command, score_samples):
            yield way.__name__, name, way(model, folder / "list.txt", n)
    size = sum(path.stat().st_size for path in (folder / "kept").rglob("*.npy"))
    if size > CACHE_SIZE:
        sys.exit(f"The folder has {size} bytes, and its limit is {CACHE_SIZE}.")


def real(folder, n):
    """Yield (network, way, cache, n, MiB at each mark) of the packaged network."""
    images, _ = make_screws(8, size=96)
    paths, few = folder / "list.txt", folder / "few.txt"
    few.write_text("\n".join(paths.read_text().splitlines()[: n // 20]))
    small = AnomalyDINO(features=DinoFeatures(image_size=56, cache=False))
    for name, detector, kept, files, m in [
        ("packaged, 56 pixels", small, "nowhere", paths, n),
        ("packaged, defaults", AnomalyDINO(), "memory", few, n // 20),
    ]:
        model = save(detector.fit(images), folder / "m.skd")
        yield name, "score_command", kept, m, score_command(model, files, m)


def written(folder, images, n):
    """Write n images, no two alike, and yield their paths."""
    rng = np.random.default_rng(0)
    for i in range(n):
        noise = rng.integers(0, 8, images[0].shape, np.uint8)
        path = str(folder / f"{i:06d}.jpg")
        Image.fromarray(images[i % len(images)] // 2 + noise).save(path)
        yield path


def score_command(model, paths, n):
    marks = Marks(n)
    with redirect_stdout(marks):
        if skdinoad(["score", str(model), f"@{paths}", "--csv", f"{paths}.csv"]):
            sys.exit("skdinoad score failed.")
    return marks.mib


def score_samples(model, paths, n):
    marks, detector, batch = Marks(n), load(model), []
    with paths.open() as lines:
        for path in map(str.strip, lines):
            batch.append(path)
            if len(batch) == BATCH:
                marks.add(len(detector.score_samples(batch)))
                batch.clear()
    if batch:
        marks.add(len(detector.score_samples(batch)))
    return marks.mib


class Marks:
    """Notes the process's memory when shares of n images are done; a line each."""

    def __init__(self, n):
        self.done, self.left, self.mib = 0, [n // 10, n // 2, n], []

    def write(self, text):
        self.add(text.count("\n"))

    def add(self, count):
        self.done += count
        while self.left and self.done >= self.left[0]:
            del self.left[0]
            self.mib.append(rss_mib())

    def flush(self):
        pass


def rss_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
