"""Time and memory of the memory bank: exact search, coreset, approximate index.

Search: 1024 queries with 384 components (one image at 448 pixels) in banks of random
unit vectors, compared with a bare ``torch.mm`` and ``min`` of the same size in the same
process. Extra memory is the growth of the peak of a separate process.

    python benchmarks/speed/bank.py
    python benchmarks/speed/bank.py --only search
"""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table
from overhead import clock

from skdinoad import DinoFeatures
from skdinoad._arrays.maps import unit
from skdinoad._neighbors import k_centre, nearest, squared_norms
from skdinoad._neighbors._index import build_index, search_index
from skdinoad.datasets import make_screws

BANKS = [1024, 32 * 1024, 256 * 1024]


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--only", choices=["search", "coreset", "index", "image"])
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--peak", nargs=3, help=argparse_hidden())
    options = options.parse_args()
    if options.peak:
        return print(peak(*options.peak))
    parts = {"search": search, "coreset": coreset, "index": index, "image": image}
    print(environment(weights=options.only not in ("search", "coreset")) + "\n")
    for name, part in parts.items():
        if options.only in (None, name):
            part(options.repeats)
            print()


def argparse_hidden():
    import argparse

    return argparse.SUPPRESS


def vectors(n, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((n, 384), np.float32))


def bare(queries, bank):
    """Compute all distances at once, as the official code of several methods does."""
    return torch.mm(queries, bank.T).max(1)


# -- exact search -------------------------------------------------------------------


def search(repeats):
    rows = []
    for m in BANKS:
        for dtype in ("float32", "float16"):
            bank, queries = vectors(m).astype(dtype), vectors(1024, 1)
            squares, q = squared_norms(bank), torch.from_numpy(queries)
            whole = torch.from_numpy(bank).float()
            pairs = [
                (
                    clock(lambda q=q, whole=whole: bare(q, whole)),
                    clock(lambda a=queries, b=bank, c=squares: nearest(a, b, c)),
                )
                for _ in range(repeats + 1)
            ][1:]
            ours = statistics.median(b for _, b in pairs)
            ratio = statistics.median(b / a for a, b in pairs)
            extra = [run_peak(kind, m, dtype) for kind in ("bare", "ours")]
            seconds = [f"{statistics.median(a for a, _ in pairs):.4f}", f"{ours:.4f}"]
            cells = [str(m), dtype, *seconds, f"{ratio:.3f}", *map(str, extra)]
            rows.append(cells)
    header = ["vectors", "storage", "bare s", "ours s", "ratio", "bare MB", "ours MB"]
    print_table(header, rows)


def run_peak(kind, m, dtype):
    command = [sys.executable, __file__, "--peak", kind, str(m), dtype]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def peak(kind, m, dtype):
    """Return the growth of the peak memory during one search, in MB."""
    bank, queries = vectors(int(m)), vectors(1024, 1)
    squares = squared_norms(bank)
    if kind == "bare":
        q, whole = torch.from_numpy(queries), torch.from_numpy(bank)
        call, small = lambda: bare(q, whole), lambda: bare(q[:8], whole[:256])
    else:
        bank = bank.astype(dtype)

        def call():
            return nearest(queries, bank, squares)

        def small():
            return nearest(queries[:8], bank[:256], squares[:256])

    small()  # libraries allocate their buffers in the first call
    fill = np.ones(max(0, _peak_kib() - _now_kib()) * 1024, np.uint8)
    before = _peak_kib()
    call()
    return round((_peak_kib() - before) / 1024) + 0 * len(fill)


def _peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _now_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


# -- coreset, index, one image ------------------------------------------------------


def coreset(_):
    rows = []
    for m, share in ((50_000, 0.1), (200_000, 0.01), (200_000, 0.1)):
        X = vectors(m)
        seconds = clock(lambda X=X, n=int(m * share): k_centre(X, n))
        flop = 2 * m * int(m * share) * 384
        cells = [
            str(m),
            f"{share:.0%}",
            f"{seconds:.1f}",
            f"{flop / seconds / 1e9:.0f}",
        ]
        rows.append(cells)
    print_table(["vectors of 384", "kept", "seconds", "GFLOP/s"], rows)


def real_vectors(n):
    """Return patch features of n rendered screws at 448 pixels, 1024 each."""
    features = DinoFeatures(cache=False)
    X, _ = make_screws(n, size=448, random_state=0)
    return unit(features.fit().transform(X)).reshape(-1, 384)


def index(repeats):
    data = real_vectors(72)
    bank, queries = data[: 64 * 1024], data[64 * 1024 :]
    squares = squared_norms(bank)
    start = time.perf_counter()
    exact, rows = nearest(queries, bank, squares)
    exact_s = (time.perf_counter() - start) / 8
    start = time.perf_counter()
    built = build_index(bank, 0)
    build_s = time.perf_counter() - start
    start = time.perf_counter()
    found, ids = search_index(built, queries)
    fast_s = (time.perf_counter() - start) / 8
    recall = (ids == rows).mean()
    error = np.median(found / np.maximum(exact, 1e-12)) - 1
    worst = np.quantile(found / np.maximum(exact, 1e-12), 0.99) - 1
    header = ["vectors", "exact s per image", "build s", "approximate s per image"]
    header += ["recall", "excess distance, median", "99 %"]
    cells = [str(len(bank)), f"{exact_s:.3f}", f"{build_s:.1f}", f"{fast_s:.3f}"]
    print_table(header, [[*cells, f"{recall:.3f}", f"{error:.4f}", f"{worst:.4f}"]])


def image(repeats):
    """Time the search of one image in 16 shots with 8 rotations at 448 pixels."""
    bank, queries = vectors(16 * 8 * 1024), vectors(1024, 1)
    squares = squared_norms(bank)
    features = DinoFeatures(cache=False).fit()
    X, _ = make_screws(1, size=448)
    forward = statistics.median(clock(lambda: features.transform(X)) for _ in range(5))
    rows = []
    for m in (8 * 1024, 64 * 1024, 128 * 1024):
        part, norms = bank[:m], squares[:m]
        seconds = statistics.median(
            clock(lambda a=part, b=norms: nearest(queries, a, b))
            for _ in range(repeats)
        )
        rows.append([str(m // 8192), str(m), f"{seconds:.3f}", f"{forward:.3f}"])
    print_table(["shots x 8", "vectors", "search s", "network s"], rows)


if __name__ == "__main__":
    main()
