"""Cost of computing features of JPEG files of 1024 pixels.

Measures the seconds of reading the files alone; of the bare network on prepared pixels,
as timm provides it and as skdinoad runs it; and of
``DinoFeatures(cache=False).transform(paths)``. All alternate in this process, and the
best of several rounds is reported. The ratios divide the last time by the larger of
reading and each network.

    python benchmarks/speed/overlap.py --root <folder of MVTec-style categories>

``--draft`` compares scores instead: libjpeg can decode at 1/2, 1/4 or 1/8 of the size,
which is faster and averages pixels in blocks. The output is the change of scores.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, parser, print_table
from overhead import clock, networks, raw
from PIL import Image

from skdinoad import AnomalyDINO, DinoFeatures, DinoPatch
from skdinoad._inputs.images import as_images
from skdinoad.datasets import make_screws

EDGE = 1024


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--root", help="else screws are rendered")
    options.add_argument(
        "--categories", nargs="*", help="the first of these, or of all"
    )
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--draft", action="store_true", help="only compare scores")
    options = options.parse_args()
    print(environment() + "\n")
    with tempfile.TemporaryDirectory() as folder:
        X, n = photographs(options), options.images
        if options.draft:  # no repeats: known images score 0
            drafted(written(Path(folder), X, min(n, len(X))))
        else:
            timed(written(Path(folder), X, n), options.repeats)


def photographs(options):
    """Return the training images of a category, as arrays or paths."""
    if options.root is None:
        return make_screws(min(20, options.images), size=EDGE)[0]
    return next(categories(options.root, options.categories))[1].train


def written(folder, X, n):
    """Return n JPEG files of enlarged images, repeating them if there are fewer."""
    images, paths = as_images(X), [str(folder / f"{i:05}.jpg") for i in range(n)]
    for i, path in enumerate(paths):
        image = Image.fromarray(images[i % len(images)][..., :3])
        image.resize((EDGE, EDGE), Image.BICUBIC).save(path, quality=95)
    return paths


def timed(paths, repeats):
    features, images = DinoFeatures(cache=False).fit(), as_images(paths)
    size = features._plan((EDGE, EDGE))[0]
    timms, ours = networks(features)
    work = {
        "reading": lambda: read(images),
        "timm's network": lambda: raw(features, len(paths), size, timms),
        "our network": lambda: raw(features, len(paths), size, ours),
        "transform": lambda: features.transform(paths),
    }
    features.transform(paths[:20])  # warm-up
    rounds = [[clock(call) for call in work.values()] for _ in range(repeats)]
    best = dict(zip(work, map(min, zip(*rounds))))
    longest = [max(best["reading"], best[f"{n} network"]) for n in ("timm's", "our")]
    ratios = [best["transform"] / seconds for seconds in longest]
    header = ["files", *(f"{name} s" for name in work), "/ timm's", "/ ours"]
    cells = [f"{number:.2f}" for number in (*best.values(), *ratios)]
    print_table(header, [[str(len(paths)), *cells]])


def read(images):
    """Read all images one after the other, in this thread."""
    for i in range(len(images)):
        images[i]


def drafted(paths):
    """Print how much draft decoding changes the scores of images not fitted on."""
    half, rows = len(paths) // 2, []
    known, new = paths[:half], paths[half:]
    for detector in (AnomalyDINO(), DinoPatch()):
        usual = detector.fit(known).score_samples(new)
        for part in (2, 4):
            X = [draft(path, EDGE // part) for path in new]
            moved = np.abs(detector.score_samples(X) - usual).max()
            cells = (f"1/{part}", f"{moved:.1e}", f"{np.ptp(usual):.1e}")
            rows.append([f"{type(detector).__name__}()", *cells])
    print_table(["scores", "decoded at", "largest change", "range of scores"], rows)


def draft(path, edge):
    """Return the pixels that libjpeg decodes at about that edge length."""
    with Image.open(path) as image:
        image.draft("RGB", (edge, edge))
        return np.asarray(image)


if __name__ == "__main__":
    main()
