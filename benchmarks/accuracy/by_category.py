"""DinoPatch with and without alignment on every category below a folder.

All categories use the same default settings; test images are only scored. ``--layers``
uses the given blocks, without the final norm, instead of the default blocks.

    python benchmarks/accuracy/by_category.py ../shared/data
    python benchmarks/accuracy/by_category.py ../shared/data \
        --posed hazelnut aliens screws --kinds plain aligned learned
    python benchmarks/accuracy/by_category.py ../shared/data --neighborhoods 0 1 2 16
"""

import sys
import warnings
from itertools import product
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import (
    categories,
    environment,
    known_masks,
    parser,
    print_table,
    show,
)
from sklearn.utils import Bunch

from skdinoad import (
    AffineAligner,
    DinoFeatures,
    DinoPatch,
    LocalBank,
    PCAAligner,
    Pipeline,
)
from skdinoad._inputs.images import as_images
from skdinoad.datasets import make_screws
from skdinoad.metrics import image_auroc_score, pixel_auroc_score


def build(kind, size, neighborhood, mixed, layers):
    blocks = {"layers": layers, "norm": False} if layers else {}
    features = DinoFeatures(image_size=size, **blocks)
    detector = DinoPatch(features=features, bank=LocalBank(neighborhood=neighborhood))
    if kind == "plain":
        # Only resizes images of slightly different sizes to the same size.
        same = PCAAligner(output_size=size, mode="none")
        return Pipeline([same, detector]) if mixed else Pipeline([detector])
    if kind == "learned":
        return Pipeline([AffineAligner(output_size=size), detector])
    polarity = {"aligned": "moment", "aligned by features": "features"}[kind]
    extractor = DinoFeatures(image_size=224) if polarity == "features" else None
    aligner = PCAAligner(output_size=size, polarity=polarity, features=extractor)
    return Pipeline([aligner, detector])


def mixed(data):
    """Return whether the images of a category differ in size."""
    images = [as_images(part) for part in (data.train, data.test)]
    return len({part.size(i) for part in images for i in range(len(part))}) > 1


def measure(pipe, data):
    """Return image and pixel AUROC, false alarms and misses at its threshold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.fit(data.train)
    decision = pipe.decision_function(data.test)
    alarms = (decision < 0)[data.y == 1].mean()
    misses = (decision >= 0)[data.y == -1].mean()
    pixel = pixel_auroc(data, pipe.predict_map(data.test))
    return image_auroc_score(data.y, decision), pixel, alarms, misses


def posed(data, seed=0):
    """Return the data on square canvases, each test image rotated and shifted.

    If any mask is missing, all masks are empty, and pixel metrics are not computed.
    """
    rng = np.random.default_rng(seed)
    test, masks = [], []
    for i, image in enumerate(as_images(data.test)):
        angle, shift = rng.uniform(0, 360), rng.uniform(-0.05, 0.05, 2)
        test.append(move(image[..., :3], angle, shift, cv2.BORDER_REPLICATE))
        known = data.masks.known.all()
        mask = data.masks[i] if known else np.zeros(image.shape[:2], bool)
        masks.append(move(mask.astype(np.uint8), angle, shift, cv2.BORDER_CONSTANT) > 0)
    train = [
        move(image[..., :3], 0, (0, 0), cv2.BORDER_REPLICATE)
        for image in as_images(data.train)
    ]
    return Bunch(train=train, test=test, y=data.y, masks=masks)


def move(image, angle, shift, border):
    """Rotate an image on a square canvas of 1.2 times its longer edge."""
    height, width = image.shape[:2]
    side = round(1.2 * max(height, width))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    matrix[:, 2] += [(side - width) / 2, (side - height) / 2] + side * np.array(shift)
    nearest = image.ndim == 2
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=border)


def chosen(options):
    """Yield (name, data); rendered screws have all orientations in training too."""
    if not options.posed:
        yield from categories(options.root, options.categories)
        return
    names = [name for name in options.posed if name != "screws"]
    for name, data in categories(options.root, names) if names else ():
        yield f"{name}, turned", posed(data)
    if "screws" in options.posed:
        yield "screws, rendered", screws()


def screws():
    """Return rendered screws: 20 for training, 15 good and 15 scratched for testing."""
    good, _ = make_screws(35, size=512, random_state=0)
    bad, masks = make_screws(15, size=512, defect="scratch", random_state=1)
    y = np.repeat([1, -1], 15)
    test = [*good[20:], *bad]
    masks = [*np.zeros_like(masks), *masks]
    return Bunch(train=list(good[:20]), test=test, y=y, masks=masks)


def main():
    options = parser(__doc__)
    options.add_argument("--sizes", nargs="*", type=int, default=[224, 448])
    options.add_argument("--kinds", nargs="*", default=["plain", "aligned"])
    options.add_argument("--neighborhoods", nargs="*", type=int, default=[1])
    options.add_argument("--posed", nargs="*", help="turn and shift these categories")
    options.add_argument("--layers", nargs="*", type=int, help="blocks to compare")
    options = options.parse_args()
    print(environment() + "\n")
    header = ["category", "pixels", "pipeline", "neighborhood", "image AUROC"]
    print_table([*header, "pixel AUROC", "false alarms", "misses"], [])
    for name, data in chosen(options):
        choices = product(options.sizes, options.kinds, options.neighborhoods)
        for size, kind, radius in choices:
            pipe = build(kind, size, radius, mixed(data), options.layers)
            figures = measure(pipe, data)
            row = [name, str(size), kind, str(radius), *map(show, figures)]
            print("| " + " | ".join(row) + " |", flush=True)


def pixel_auroc(data, maps):
    """Return the pixel AUROC over images with known masks, None if there are none."""
    known = known_masks(data)
    rows = sorted(known)
    if not any(known[row].any() for row in rows):
        return None
    return pixel_auroc_score([known[row] for row in rows], [maps[row] for row in rows])


if __name__ == "__main__":
    main()
