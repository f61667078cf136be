"""Compare the settings that ``suggest`` selects from good images with the defaults.

For each category, ``suggest`` selects settings by planted defects of a given size. The
table lists them with image AUROC and AUPRO on the test images, which ``suggest`` does
not use, next to the figures of the defaults.

    python benchmarks/accuracy/suggest.py ../shared/data
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, known_masks, parser, print_table

from skdinoad import AnomalyDINO, suggest
from skdinoad.metrics import aupro_score, image_auroc_score


def main():
    options = parser(__doc__)
    options.add_argument("--size", type=float, default=0.1, help="of planted defects")
    options = options.parse_args()
    warnings.simplefilter("ignore")
    print(environment() + "\n")
    rows = []
    for name, data in categories(options.root, options.categories):
        search = suggest(data.train, size=options.size)
        best = search.best_params_
        text = f"{best['features__image_size']} px, {best['features__layers']}"
        chosen = quality(search.best_estimator_, data)
        rows.append(
            [name, text, *chosen, *quality(AnomalyDINO().fit(data.train), data)]
        )
    header = ["category", "chosen", "image AUROC", "AUPRO"]
    print_table([*header, "default: image AUROC", "default: AUPRO"], rows)


def quality(detector, data):
    """Return image AUROC and AUPRO, None without masks."""
    auroc = image_auroc_score(data.y, detector.score_samples(data.test))
    masks = known_masks(data)
    maps = detector.predict_map([data.test[i] for i in masks]) if masks else []
    return auroc, aupro_score(list(masks.values()), list(maps)) if masks else None


if __name__ == "__main__":
    main()
