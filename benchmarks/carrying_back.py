"""Heat maps of large photographs: what carrying a grid home costs beside OpenCV.

python benchmarks/carrying_back.py
"""

import time

import cv2
import numpy as np
from _common import environment, parser, print_table

from skdinoad._arrays.geometry import pose_frame, resize_frame, warp_back


def main():
    parser(__doc__, root=False).parse_args()
    print(environment(weights=False) + "\n")
    rows = [[name, f"{a:.1f}", f"{b:.1f}", b / a] for name, a, b in measure()]
    print_table(["frame", "OpenCV ms", "ours ms", "ratio"], rows)


def measure():
    """Yield the kind of frame, and the milliseconds of OpenCV and of ours."""
    size, cells = (3000, 4000), (16, 21)
    grid = np.random.default_rng(0).random(cells, dtype=np.float32)
    turned = pose_frame((2000, 1500), angle=0.5, zoom=0.005, size=cells)
    pairs = {
        "scaled": (resize_frame(size, cells), lambda: cv2.resize(grid, size[::-1])),
        "turned": (turned, lambda: cv2.warpAffine(grid, turned[:2], size[::-1])),
    }
    for name, (frame, bare) in pairs.items():
        ours = best(lambda frame=frame: warp_back(grid, frame, size))
        theirs = best(bare)
        yield name, 1000 * theirs, 1000 * ours


def best(call, repeats=5):
    """Return the least of several times, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
