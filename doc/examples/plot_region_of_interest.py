"""
Restrict the inspection to a region of interest
===============================================

This example shows how a mask excludes a part of every photograph, so that changes there
do not affect scores and heat maps.

The screws are rendered, so the example needs no download.
"""

# %%
# The photographs also show a label on the belt, which differs in each photograph.
import matplotlib.pyplot as plt
import numpy as np

from skdinoad import AnomalyDINO, Pipeline, RegionMask
from skdinoad.datasets import make_screws, plant_defect

rng = np.random.default_rng(0)


def photographs(n, seed):
    X, _ = make_screws(n, size=224, random_state=seed)
    for image in X:
        image[190:, :90] = rng.integers(0, 255, (34, 90, 3), dtype=np.uint8)
    return X


X, X_new = photographs(12, 0), photographs(6, 1)
X_new[3:] = [
    plant_defect(x, size=0.15, random_state=i)[0] for i, x in enumerate(X_new[3:])
]

# %%
# The mask is True inside the region of interest. It can also be the path of a mask
# image (white inside); on the command line use ``skdinoad fit good/ --roi roi.png``.
region = np.full((224, 224), True)
region[185:, :95] = False
whole = AnomalyDINO().fit(X)
masked = Pipeline([RegionMask(region), AnomalyDINO()]).fit(X)

# %%
# Pixels outside of the region do not affect scores: other labels do not change them.
other = X_new.copy()
other[:, 190:, :90] = 255 - other[:, 190:, :90]
for name, model in (("whole", whole), ("region", masked)):
    moved = np.abs(model.score_samples(other) - model.score_samples(X_new)).max()
    print(f"{name:7} scores change by {moved:.3f} with other labels")

# %%
# Heat maps are 0 outside of the region.
figure, axes = plt.subplots(2, 2, figsize=(6, 6), layout="constrained")
for row, model in zip(axes, (whole, masked)):
    for axis, heat in zip(row, model.predict_map(X_new[[0, 3]])):
        axis.imshow(heat, vmin=0, cmap="inferno")
        axis.axis("off")
