"""Which block of the installed weights serves best: the registry's choice for "auto".

Image AUROC on every category below a folder, by block and norm. "plain" is the
protocol of the data pack (unit length, nearest neighbour anywhere in the training
images, 224 pixels); "DinoPatch" is the library's default detector at the same size
and at 448. All training normals, all test images.

    python benchmarks/layers.py ../shared/data
"""

import numpy as np
from _common import categories, environment, image_auroc, parser, print_table

from skdinoad import DinoFeatures, DinoPatch, PCAAligner, Pipeline

CHOICES = [(6, False), (8, False), (9, False), (10, False), (11, False), (11, True)]
CHOICES += [((8, 10), False), ((9, 10), False)]


def build(kind, layers, norm, size):
    features = DinoFeatures(layers=layers, norm=norm, image_size=size, cache=False)
    detector = DinoPatch(features=features)
    if kind == "plain":
        detector.set_params(metric="cosine", neighborhood=999)
    # mode="none" only brings images of slightly different sizes to one.
    return Pipeline([PCAAligner(mode="none", output_size=size), detector])


def main():
    options = parser(__doc__)
    options.add_argument("--kinds", nargs="*", default=["plain", "DinoPatch"])
    options.add_argument("--sizes", nargs="*", type=int, default=[224])
    options = options.parse_args()
    print(environment() + "\n")
    data = dict(categories(options.root, options.categories))
    header = ["detector", "pixels", "blocks", "final norm", *data, "mean"]
    print_table(header, [])
    for kind in options.kinds:
        for size in options.sizes:
            for layers, norm in CHOICES:
                aurocs = [
                    image_auroc(
                        d.y,
                        build(kind, layers, norm, size)
                        .fit(d.train)
                        .score_samples(d.test),
                    )
                    for d in data.values()
                ]
                row = [kind, str(size), str(layers), "yes" if norm else "no"]
                figures = [f"{x:.3f}" for x in [*aurocs, np.mean(aurocs)]]
                print("| " + " | ".join(row + figures) + " |", flush=True)


if __name__ == "__main__":
    main()
