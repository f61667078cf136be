"""Compare values of ``nearest_images`` for one bank of several products.

One memory bank of AnomalyDINO keeps all vectors of the good training images of all
categories, and scores the test images of each category. Each test image is compared
with the "images" of the bank that are most similar to it as a whole; "thinned" is the
default bank, a coreset of 4000 vectors without this selection. "ms" is the time per
image beyond the network, whose features are cached before.

    python benchmarks/accuracy/nearest_images.py ../shared/data
"""

import sys
import time
import warnings
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, known_masks, parser, print_table

from skdinoad import AnomalyDINO, DinoFeatures
from skdinoad.metrics import aupro_score, image_auroc_score


def main():
    options = parser(__doc__)
    options.add_argument("--images", nargs="*", type=int, default=[1, 4, 16, 64])
    options = options.parse_args()
    print(environment() + "\n")
    data = dict(categories(options.root, options.categories))
    train = [image for one in data.values() for image in one.train]
    print(f"{len(train)} good images of {len(data)} categories\n")
    features = DinoFeatures().fit()
    for one in data.values():
        features.transform(one.test)  # cached
    settings = {"thinned": {}, "all": {"bank__size": None}}
    settings |= {
        str(k): {"bank__size": None, "bank__nearest_images": k} for k in options.images
    }
    rows = [[name, *measure(how, train, data)] for name, how in settings.items()]
    print_table(["images", "vectors", "image AUROC", "AUPRO", "fit s", "ms"], rows)


def measure(parameters, train, data):
    """Return the size of the bank, means over categories, and the cost."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = AnomalyDINO(masking=None).set_params(**parameters).fit(train)
    fit, figures, seconds = time.perf_counter() - start, [], 0
    for one in data.values():
        start = time.perf_counter()
        scores = detector.score_samples(one.test)
        seconds += time.perf_counter() - start
        figures.append([image_auroc_score(one.y, scores), aupro(detector, one)])
    auroc, aupros = zip(*figures)
    known = [value for value in aupros if value is not None]
    ms = 1000 * seconds / sum(len(one.test) for one in data.values())
    cells = [str(len(detector.bank_)), mean(auroc), mean(known) if known else None]
    return [*cells, f"{fit:.1f}", f"{ms:.0f}"]


def aupro(detector, data):
    masks = known_masks(data)
    if not masks:
        return None
    maps = detector.predict_map([data.test[i] for i in masks])
    return aupro_score(list(masks.values()), maps)


if __name__ == "__main__":
    main()
