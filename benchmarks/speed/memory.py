"""Peak memory with 20, 200 and 1000 photographs of 512 pixels given as paths.

Each measurement runs in a fresh process; the figure is its peak beyond its memory after
loading the network and scoring one image.

    python benchmarks/speed/memory.py
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table
from PIL import Image

from skdinoad import DinoFeatures, DinoPatch
from skdinoad.datasets import make_screws


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(paths, task, size, cache):
    """Print the extra peak memory of one task and the size of its bank."""
    features = DinoFeatures(image_size=size, cache=cache)
    detector = DinoPatch(features=features).fit(paths[:20])
    detector.score_samples(paths[:8])
    before = peak_mib()
    if task == "fit":
        detector.fit(paths)
    elif task == "score_samples":
        detector.score_samples(paths)
    bank = detector.bank_.vectors.nbytes / 2**20
    print(json.dumps([before, peak_mib() - before, bank]))


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--sizes", nargs="*", type=int, default=[20, 200, 1000])
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--child", nargs=4, help="internal")
    options = options.parse_args()
    if options.child:
        folder, n, task, cache = options.child
        paths = sorted(str(p) for p in Path(folder).iterdir())[: int(n)]
        child(paths, task, options.image_size, None if cache == "on" else False)
        return
    print(environment() + f"; network input {options.image_size} pixels\n")
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder, max(options.sizes))
        rows = [
            measure(folder, n, task, cache, options.image_size)
            for cache in ("off", "on")
            for task in ("score_samples", "fit")
            for n in options.sizes
        ]
    header = ["task", "images", "feature cache", "before, MiB", "extra peak, MiB"]
    print_table([*header, "bank, MiB"], rows)


def write_images(folder, n):
    for start in range(0, n, 50):
        X, _ = make_screws(50, size=512, random_state=start)
        for i, image in enumerate(X):
            Image.fromarray(image).save(f"{folder}/{start + i:05d}.jpg", quality=92)


def measure(folder, n, task, cache, size):
    arguments = ["--image-size", str(size), "--child", folder, str(n), task, cache]
    out = subprocess.run(
        [sys.executable, __file__, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    figures = [f"{x:.0f}" for x in json.loads(out.stdout.splitlines()[-1])]
    return [task, str(n), cache, *figures]


if __name__ == "__main__":
    main()
