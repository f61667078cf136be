"""Which block of the installed weights serves best: the registry's choice for "auto".

Image AUROC on every category below a folder, by block and final norm. "plain" is the
protocol of a plain baseline (unit length, nearest neighbour anywhere in the training
images); "DinoPatch" is the library's default detector. All training normals and all
test images; one pass through the network for all blocks.

    python benchmarks/layers.py ../shared/data
"""

import numpy as np
from _common import categories, environment, image_auroc, parser, print_table

from skdinoad import DinoFeatures, DinoPatch, PCAAligner

BLOCKS = [6, 8, 9, 10, 11]

#: Blocks joined, and whether the final norm is applied.
CHOICES = [([b], False) for b in BLOCKS] + [([11], True), ([8, 10], False)]

DETECTORS = {
    "plain": {"metric": "cosine", "neighborhood": 999},
    "DinoPatch": {},
}


def main():
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=224)
    options = options.parse_args()
    print(environment() + f"; {options.size} pixels\n")
    table = {}
    names = []
    for name, data in categories(options.root, options.categories):
        names.append(name)
        for key, auroc in measure(data, options.size).items():
            table.setdefault(key, []).append(auroc)
    rows = [
        [kind, "+".join(map(str, blocks)), "yes" if norm else "no", *row, np.mean(row)]
        for (kind, blocks, norm), row in table.items()
    ]
    print_table(["detector", "block", "final norm", *names, "mean"], rows)


def measure(data, size):
    """Return image AUROC by (detector, blocks, norm) for one category."""
    out = {}
    # Only to bring images of slightly different sizes to one.
    same = PCAAligner(mode="none", output_size=size).fit(data.train)
    images = same.transform(data.train), same.transform(data.test)
    for norm in (False, True):
        features = DinoFeatures(
            layers=BLOCKS, norm=norm, concatenate=False, image_size=size, cache=False
        )
        train, test = (features.transform(X) for X in images)
        for kind, parameters in DETECTORS.items():
            for blocks, normed in CHOICES:
                if normed == norm:
                    detector = DinoPatch(**parameters).fit(pick(train, blocks))
                    scores = detector.score_samples(pick(test, blocks))
                    out[kind, tuple(blocks), norm] = image_auroc(data.y, scores)
    return dict(sorted(out.items(), key=lambda item: item[0][0], reverse=True))


def pick(F, blocks):
    """Return the features of some blocks, joined along the channels."""
    places = [BLOCKS.index(block) for block in blocks]
    return np.concatenate([F[..., place, :] for place in places], axis=-1)


if __name__ == "__main__":
    main()
