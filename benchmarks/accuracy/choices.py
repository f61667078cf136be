"""Choose the defaults of AnomalyDINO by leave-one-category-out.

Every patch is compared once with the patches of every training image, block by block
(unit length, cosine distance, no final norm, no coreset). Then

- "layers": image AUROC, and recall at 5 % false alarms on the test images, for all sets
  of up to three blocks and several shares of patches that the score averages. Each
  category is evaluated with the set that is best on all *other* categories;
- "threshold": recall and false alarms of thresholds that are estimated from held-out
  scores of few or many training images, for several constants of the estimate
  (``skdinoad/_arrays/normal_scores.py``), with the default layers.

    python benchmarks/accuracy/choices.py ../shared/data --keep distances/

``--keep`` names a folder in which the distances are stored, so that a second run takes
seconds.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from _common import categories, environment, parser, print_table

from skdinoad import AnomalyDINO, DinoFeatures
from skdinoad._arrays import normal_scores
from skdinoad._arrays.maps import unit
from skdinoad._arrays.masks import (
    foreground,
    mask_statistics,
    masking_helps,
    median_of,
)
from skdinoad.metrics import image_auroc_score, recall_at_fpr_score

#: Blocks and share of the default, and of the previous default.
DEFAULT, BEFORE = ((4, 6, 10), 0.02), ((6, 8, 10, 11), 0.01)

BLOCKS = (4, 6, 7, 8, 10, 11)
FRACTIONS = (0.01, 0.02, 0.05)

#: (degrees of freedom, prior spread, widening for few images).
RULES = [
    (tails, prior, few)
    for tails in (3, 4, 6)
    for prior, few in ((0.05, 4), (0.15, 1.57), (0.15, 4), (0.2, 4))
]
NUMBERS = (3, 5, 10, 24, 50, 0)
DRAWS = 4


def main():
    options = parser(__doc__)
    options.add_argument("--most", type=int, default=60, help="training images used")
    options.add_argument("--keep", type=Path, help="folder for distances")
    options = options.parse_args()
    print(environment() + f"; at most {options.most} training images\n", flush=True)
    known = {}
    for name, data in categories(options.root, options.categories):
        path = options.keep and options.keep / f"{name}.npz"
        if path and path.exists():
            known[name] = dict(np.load(path))
            continue
        known[name] = distances(data, options.most)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **known[name])
        print(f"({name}: distances known)", file=sys.stderr, flush=True)
    layers(known)
    threshold(known)


# -- distances ------------------------------------------------------------------------


def distances(data, most):
    """Return the distances of each patch to each training image, by block.

    "D" (b, n, p, m), float16: block, image (training images first), patch, training
    image; "scored" (n, p): patches inside the mask; "y" (n - m,).
    """
    rows = np.linspace(0, len(data.train) - 1, min(most, len(data.train))).astype(int)
    extractor = DinoFeatures(layers=BLOCKS, norm=False, cache=False)
    # Some categories have images of slightly different sizes.
    size = data.train[:1]
    extractor.set_params(image_size=extractor.fit().transform(size).shape[1:3])
    extractor.set_params(image_size=tuple(14 * k for k in extractor.image_size)).fit()
    images = [*(data.train[i] for i in rows), *data.test]
    starts = range(0, len(images), 8)
    F = np.concatenate(
        [extractor.transform(images[s : s + 8]).astype(np.float16) for s in starts]
    )
    n, h, w, b, c = F.shape
    m = len(rows)
    D = np.empty((b, n, h * w, m), np.float16)
    for j in range(b):
        vectors = torch.from_numpy(unit(F[..., j, :].astype(np.float32)))
        bank = vectors[:m].reshape(-1, c).T.contiguous()
        for i in range(n):
            cosines = vectors[i].reshape(-1, c) @ bank
            D[j, i] = 1 - cosines.reshape(h * w, m, h * w).amax(-1)
    return {"D": D, "scored": scored(F[..., -2, :].astype(np.float32), m), "y": data.y}


def scored(F, m):
    """Return which patches AnomalyDINO's ``masking="auto"`` scores."""
    masks = [foreground(grid, "relative", "grid") for grid in F]
    seen = [mask_statistics(F[i], masks[i]) for i in range(m)]
    helps = masking_helps(median_of(seen))
    masks = [m if helps and m.any() else np.ones_like(m) for m in masks]
    return np.stack(masks).reshape(len(F), -1)


class Scores:
    """Anomaly scores of held-out training images, and of test images."""

    def __init__(self, known, blocks, fraction, rows=None):
        m = known["D"].shape[-1]
        rows = np.arange(m) if rows is None else rows
        self.y = known["y"]
        D = [known["D"][BLOCKS.index(b)] for b in blocks]
        held = [np.stack([d[i][:, rows[rows != i]].min(-1) for i in rows]) for d in D]
        test = [d[m:][:, :, rows].min(-1) for d in D]
        counted = known["scored"][rows]
        scales = [h.astype(np.float32)[counted].mean() for h in held]
        self.held = self._scores(held, scales, counted, fraction)
        self.test = self._scores(test, scales, known["scored"][m:], fraction)

    @staticmethod
    def _scores(D, scales, counted, fraction):
        fused = sum(d / scale for d, scale in zip(D, scales)) / len(D)
        count = max(1, int(fraction * fused.shape[1]))
        fused = np.sort(np.where(counted, fused, 0), axis=1)[:, -count:]
        return fused.mean(1)

    def figures(self, limit):
        """Return recall and false alarms at a threshold."""
        flagged = self.test > limit
        return flagged[self.y == -1].mean(), flagged[self.y == 1].mean()


# -- layers and share -----------------------------------------------------------------


def layers(known):
    sets = [s for k in (1, 2, 3) for s in itertools.combinations(BLOCKS, k)]
    choices = [*itertools.product(sets, FRACTIONS), BEFORE]
    found = {}
    for choice in choices:
        rows = [Scores(k, *choice) for k in known.values()]
        found[choice] = np.array(
            [
                (image_auroc_score(s.y, -s.test), recall_at_fpr_score(s.y, -s.test))
                for s in rows
            ]
        )
    quality = {choice: f[:, 0] + 0.3 * f[:, 1] for choice, f in found.items()}
    best = sorted(choices, key=lambda choice: -quality[choice].mean())[:10]
    shown = [*best, DEFAULT, BEFORE]
    print("Layers and share of patches, the best ten, the default, and the old one\n")
    header = ["blocks", "share", *known, "mean AUROC", "recall at 5 % false alarms"]
    print_table(
        header,
        [
            ["+".join(map(str, s)), str(f), *found[s, f][:, 0], *found[s, f].mean(0)]
            for s, f in shown
        ],
    )
    print("\nEach category by the choice that is best on all others\n")
    rows, totals = [], []
    for i, name in enumerate(known):
        s, f = max(choices, key=lambda c: np.delete(quality[c], i).sum())
        totals.append([*found[s, f][i], *found[DEFAULT][i]])
        rows.append([name, "+".join(map(str, s)), str(f), *totals[-1]])
    rows.append(["mean", "", "", *np.mean(totals, axis=0)])
    columns = ["AUROC", "recall", "AUROC of the default", "its recall"]
    print_table(["left out", "blocks", "share", *columns], rows)


# -- threshold ------------------------------------------------------------------------


def threshold(known):
    layers_ = DinoFeatures().fit().layers_
    fraction = AnomalyDINO().aggregate
    draws = {}
    for name, n in itertools.product(known, NUMBERS):
        m = known[name]["D"].shape[-1]
        if n <= m:
            draws[name, n] = [
                Scores(
                    known[name],
                    layers_,
                    fraction,
                    np.sort(np.random.default_rng(draw).permutation(m)[: n or m]),
                )
                for draw in range(DRAWS if n else 1)
            ]
    numbers = [n for n in NUMBERS if any(k == n for _, k in draws)]
    names = ["tails", "prior", "few"]
    text = [f"n = {n or 'all'}: recall, false alarms, worst" for n in numbers]
    print(f"\nEstimates of the threshold, layers {layers_}, share {fraction}\n")
    rows = []
    for rule in [*RULES, None]:
        row = list(map(str, rule or ("highest", "held-out", "score")))
        for n in numbers:
            means = [
                np.mean([s.figures(limit(s.held, rule)) for s in scores], axis=0)
                for (_, k), scores in draws.items()
                if k == n
            ]
            recall, alarms = np.mean(means, axis=0)
            row.append(f"{recall:.3f} {alarms:.3f} {np.max(means, axis=0)[1]:.3f}")
        rows.append(row)
    print_table([*names, *text], rows)
    print(f"\nMeans over {DRAWS} draws of the training images; one draw of all.")


def limit(held, rule):
    """Return the estimated threshold, or the highest held-out score."""
    if rule is None:
        return held.max()
    constants = ("_TAILS", "_PRIOR_SPREAD", "_FEW")
    usual = [getattr(normal_scores, name) for name in constants]
    try:
        for name, value in zip(constants, rule):
            setattr(normal_scores, name, value)
        return normal_scores.NormalScores(held).threshold(0.05)
    finally:
        for name, value in zip(constants, usual):
            setattr(normal_scores, name, value)


if __name__ == "__main__":
    main()
