"""Photographs of 12 megapixels at full resolution, in tiles: seconds and memory.

Rendered brushed metal of 4000 x 3000 pixels, one image with a scratch of 24 x 4 pixels;
each detector runs in a separate process. The peak is that of the whole process: Python,
torch, network, the images of ``fit``, features and bank.

    python benchmarks/speed/tiling.py
"""

import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table

from skdinoad import AnomalyDINO, DinoFeatures, SubspaceAD, Tiles

SIZE, PLACE = (3000, 4000), (1234, 2345)
DETECTORS = {
    "SubspaceAD": SubspaceAD,
    "AnomalyDINO": lambda features: AnomalyDINO(features=features, masking=None),
}


def photograph(seed, *, scratched=False):
    """Return brushed metal (3000, 4000, 3), uint8."""
    rng = np.random.default_rng(seed)
    lines = rng.normal(130, 12, (SIZE[0], 1)) + rng.normal(0, 4, SIZE)
    image = np.repeat(lines.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    if scratched:
        row, column = PLACE
        image[row : row + 4, column : column + 24] = 20
    return image


def child(name, n):
    """Print seconds of fit per image and of a map, peak MiB, and error in pixels."""
    warnings.simplefilter("ignore")
    features = DinoFeatures(
        image_size=None, layers=[6], cache=False, tiles=Tiles(size=448)
    )
    detector = DETECTORS[name](features=features)
    X = [photograph(seed) for seed in range(n)]
    start = time.perf_counter()
    detector.fit(X)
    fitting = (time.perf_counter() - start) / n
    bad = photograph(99, scratched=True)
    start = time.perf_counter()
    heat = detector.predict_map([bad])[0]
    mapping = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    away = np.linalg.norm(np.subtract(hottest, PLACE) - (2, 12))
    print(json.dumps([fitting, mapping, peak, away]))


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--images", type=int, default=3)
    options.add_argument("--child", help="internal")
    options = options.parse_args()
    if options.child:
        return child(options.child, options.images)
    print(environment() + "\n")
    rows = []
    for name in DETECTORS:
        command = [sys.executable, __file__, "--child", name]
        command += ["--images", str(options.images)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
        fit, heat, peak, away = json.loads(out.stdout.splitlines()[-1])
        cells = [f"{fit:.0f}", f"{heat:.0f}", f"{peak:.0f}", f"{away:.0f}"]
        rows.append([name, str(options.images), *cells])
    header = ["detector", "images", "fit s per image", "map s", "peak MiB"]
    print_table([*header, "map's maximum beside the scratch, px"], rows)


if __name__ == "__main__":
    main()
