"""
Compare methods without a single defect
=======================================

What is learned: how to plant defects in held-out good parts, compare detectors by what
they see of them, and why that says nothing of parts that are wrong but whole.

The screws are rendered, in any pose, so that the example needs no download.
"""

# %%
# Twenty good parts to learn from, ten more to plant scratches and blobs in.
import numpy as np

from skdinoad import DFR, AnomalyDINO, DinoPatch, PCAAligner, Pipeline, SubspaceAD
from skdinoad.datasets import make_screws, plant_defects
from skdinoad.metrics import aupro_score, image_auroc_score

X, _ = make_screws(30, size=224, random_state=0)
good = X[20:]
planted, masks = plant_defects(good, size=0.1, random_state=0)[:2]
images = np.concatenate([good, planted])
y = np.repeat([1, -1], len(good))

# %%
# Methods that do not mind places, and DinoPatch, which needs the parts in one pose.
methods = {
    "AnomalyDINO": AnomalyDINO(rotations="informed"),
    "SubspaceAD": SubspaceAD(),
    "DFR": DFR(autoencoder="linear", holdout=None),
    "aligned DinoPatch": Pipeline([PCAAligner(), DinoPatch()]),
}
print(f"{'':18} image AUROC  AUPRO of planted marks")
for name, method in methods.items():
    method.fit(X[:20])
    auroc = image_auroc_score(y, method.score_samples(images))
    aupro = aupro_score(list(masks), list(method.predict_map(planted)))
    print(f"{name:18} {auroc:11.3f}  {aupro:.3f}")

# %%
# Planted marks lie anywhere, on the ground too, which the aligned detector does not
# look at: that is what its low figures say. Real defects are on the part.
# ``plant_defects`` takes ``where``, the places that matter.
#
# Nor do planted marks know what can be wrong with a part that is whole. A screw without
# its washer is told best by the detector that knows where things belong.
wrong, _ = make_screws(10, size=224, defect="no_washer", random_state=3)
for name, method in methods.items():
    scores = method.score_samples(np.concatenate([good, wrong]))
    print(f"{name:18} missing washers: {image_auroc_score(y, scores):.3f}")
