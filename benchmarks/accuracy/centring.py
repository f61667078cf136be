"""Why DMAD scales the teacher's channels and does not centre them.

Compares reverse distillation with channels scaled, centred and scaled, or raw. Test
images are not used: a third of the training images is held out, and defects are planted
in them.

    python benchmarks/accuracy/centring.py ../shared/data \
        --categories paper_bdp01 hazelnut
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, parser, print_table
from sklearn.metrics import roc_auc_score

from skdinoad import ReverseDistillation
from skdinoad._inputs.images import as_images
from skdinoad.datasets import plant_defect
from skdinoad.metrics import pixel_auroc_score
from skdinoad.networks import Distiller

SCALED = Distiller.learn_scales, Distiller.scaled


def main():
    options = parser(__doc__).parse_args()
    print(environment(weights=False) + "\n")
    rows = []
    for name, data in categories(options.root, options.categories):
        train, good, bad, masks = planted(data)
        for how in ("scaled", "centred and scaled", "raw"):
            Distiller.learn_scales, Distiller.scaled = SCALED
            if how == "centred and scaled":
                Distiller.learn_scales, Distiller.scaled = learn_both, centred
            detector = ReverseDistillation(holdout=None)
            detector.set_params(scale_channels=how != "raw").fit(train)
            scores = detector.score_samples(good + bad)
            image = roc_auc_score([1] * len(good) + [-1] * len(bad), scores)
            maps = [detector.predict_map([x])[0] for x in bad]
            rows.append([name, how, image, pixel_auroc_score(masks, maps)])
    print_table(["category", "channels", "image AUROC", "pixel AUROC"], rows)


@torch.no_grad()
def learn_both(self, maps, _=None):
    self.means = []
    for i, level in enumerate(maps):
        values = level.double().transpose(0, 1).flatten(1)
        self.means.append(values.mean(1)[:, None, None].float())
        getattr(self, f"scale{i}")[:, 0, 0] = values.std(1)
    Distiller.means = self.means  # the copy used for scoring has no means


def centred(self, maps):
    return [
        (level - mean) / getattr(self, f"scale{i}")
        for i, (level, mean) in enumerate(zip(maps, self.means))
    ]


def planted(data):
    """Return training images, held-out good images, and the latter with defects."""
    X = [image[..., :3] for image in as_images(data.train)]
    order = np.random.default_rng(0).permutation(len(X))
    held = [X[i] for i in order[: len(X) // 3]]
    pairs = [
        plant_defect(x, kind=kind, random_state=10 * i + j)
        for i, x in enumerate(held)
        for j, kind in enumerate(("blob", "scratch"))
    ]
    bad, masks = zip(*pairs)
    return [X[i] for i in order[len(X) // 3 :]], held, list(bad), list(masks)


if __name__ == "__main__":
    main()
