"""
Compare methods without defective images
========================================

This example shows how to plant defects in held-out good parts, how to compare detectors
on them, and why this comparison does not apply to parts with missing components.

The screws are rendered in random poses, so the example needs no download.
"""

# %%
# Twenty good parts for fitting, and ten more in which scratches and blobs are planted.
import numpy as np

from skdinoad import (
    AnomalyDINO,
    DinoPatch,
    LinearDFR,
    PCAAligner,
    Pipeline,
    SubspaceAD,
)
from skdinoad.datasets import make_screws, plant_defects
from skdinoad.metrics import aupro_score, image_auroc_score

X, _ = make_screws(30, size=224, random_state=0)
good = X[20:]
planted, masks = plant_defects(good, size=0.1, random_state=0)[:2]
images = np.concatenate([good, planted])
y = np.repeat([1, -1], len(good))

# %%
# Three methods that ignore positions, and DinoPatch, which needs all parts in the same
# pose.
methods = {
    "AnomalyDINO": AnomalyDINO(rotations="informed"),
    "SubspaceAD": SubspaceAD(),
    "DFR": LinearDFR(holdout=None),
    "aligned DinoPatch": Pipeline([PCAAligner(), DinoPatch()]),
}
print(f"{'':18} image AUROC  AUPRO of planted marks")
for name, method in methods.items():
    method.fit(X[:20])
    auroc = image_auroc_score(y, method.score_samples(images))
    aupro = aupro_score(list(masks), list(method.predict_map(planted)))
    print(f"{name:18} {auroc:11.3f}  {aupro:.3f}")

# %%
# Planted marks may lie anywhere, including the background, which the aligned detector
# does not inspect. This explains its low figures. Real defects are on the part:
# ``plant_defects`` has a parameter ``where`` for the places that matter.
#
# Planted marks also do not represent missing components. A screw without its washer is
# detected best by the detector that compares patches location by location.
wrong, _ = make_screws(10, size=224, defect="no_washer", random_state=3)
for name, method in methods.items():
    scores = method.score_samples(np.concatenate([good, wrong]))
    print(f"{name:18} missing washers: {image_auroc_score(y, scores):.3f}")
