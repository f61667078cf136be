"""Compare the blocks of the installed weights, to choose those of ``layers="auto"``.

Measures image AUROC on every category below a folder, by block and final norm. "plain"
is a plain baseline: unit length, cosine distance to the nearest patch anywhere in at
most 30 training images, mean of the largest 1 %. "DinoPatch" is the detector with
default settings and all training images. All test images are used; one pass through the
network computes all blocks.

    python benchmarks/accuracy/layers.py ../shared/data
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, parser, print_table

from skdinoad import DinoFeatures, DinoPatch, PCAAligner
from skdinoad._arrays.maps import aggregate
from skdinoad.metrics import image_auroc_score

BLOCKS = [6, 8, 9, 10, 11]

#: Blocks joined, and whether the final norm is applied.
CHOICES = [([b], False) for b in BLOCKS] + [([11], True), ([8, 10], False)]


def plain(train, test):
    """Return the normality of test images by the plain baseline."""
    bank = _unit(train[:30].reshape(-1, train.shape[-1]))
    bank = bank[np.isfinite(bank).all(axis=-1)]
    nearest = [(_unit(F) @ bank.T).max(axis=-1) for F in test]
    return -aggregate(1 - np.stack(nearest))


def dinopatch(train, test):
    return DinoPatch().fit(train).score_samples(test)


def _unit(F):
    return F / np.linalg.norm(F, axis=-1, keepdims=True)


DETECTORS = {"plain": plain, "DinoPatch": dinopatch}


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
    # Only resizes images of slightly different sizes to the same size.
    same = PCAAligner(mode="none", output_size=size).fit(data.train)
    images = same.transform(data.train), same.transform(data.test)
    for norm in (False, True):
        features = DinoFeatures(layers=BLOCKS, norm=norm, image_size=size, cache=False)
        train, test = (features.transform(X) for X in images)
        for kind, detect in DETECTORS.items():
            for blocks, normed in CHOICES:
                if normed == norm:
                    scores = detect(pick(train, blocks), pick(test, blocks))
                    out[kind, tuple(blocks), norm] = image_auroc_score(data.y, scores)
    return dict(sorted(out.items(), key=lambda item: item[0][0], reverse=True))


def pick(F, blocks):
    """Return the features of some blocks, joined along the channels."""
    places = [BLOCKS.index(block) for block in blocks]
    return np.concatenate([F[..., place, :] for place in places], axis=-1)


if __name__ == "__main__":
    main()
