"""Time the resampling of a score grid to a large photograph, compared with OpenCV.

Memory is the peak of allocated arrays in units of one map of the photograph's size, and
includes the returned map.

    python benchmarks/speed/carrying_back.py
"""

import sys
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table

from skdinoad._arrays.geometry import pose_affine, resize_affine, warp_back


def main():
    parser(__doc__, root=False).parse_args()
    print(environment(weights=False) + "\n")
    rows = [
        [name, f"{a:.1f}", f"{b:.1f}", b / a, maps_held(name)]
        for name, a, b in measure()
    ]
    print_table(["frame", "OpenCV ms", "ours ms", "ratio", "memory, maps"], rows)


SIZE, CELLS = (3000, 4000), (16, 21)

FRAMES = {
    "scaled": resize_affine(SIZE, CELLS),
    "turned": pose_affine((2000, 1500), angle=0.5, zoom=0.005, size=CELLS),
}


def scores():
    return np.random.default_rng(0).random(CELLS, dtype=np.float32)


def measure():
    """Yield the kind of frame, and the milliseconds of OpenCV and of ours."""
    grid, turned = scores(), FRAMES["turned"]
    bare = {
        "scaled": lambda: cv2.resize(grid, SIZE[::-1]),
        "turned": lambda: cv2.warpAffine(grid, turned[:2], SIZE[::-1]),
    }
    for name, affine in FRAMES.items():
        ours = best(lambda affine=affine: warp_back(grid, affine, SIZE))
        yield name, 1000 * best(bare[name]), 1000 * ours


def maps_held(name):
    """Return the peak memory of one call, in maps."""
    tracemalloc.start()
    try:
        warp_back(scores(), FRAMES[name], SIZE)
        return tracemalloc.get_traced_memory()[1] / (4 * SIZE[0] * SIZE[1])
    finally:
        tracemalloc.stop()


def best(call, repeats=5):
    """Return the shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
