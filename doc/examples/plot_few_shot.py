"""
Start with two good photographs, or with none
=============================================

This example shows the accuracy of AnomalyDINO with two good parts, how it masks the
background, and how to score a set of photographs without any good reference.

The screws are rendered in random poses, so the example needs no download.
"""

# %%
# Two good parts. Their rotated copies are added to the memory bank to cover all poses.
import matplotlib.pyplot as plt
import numpy as np
from skimage import data
from sklearn.metrics import roc_auc_score

from skdinoad import AnomalyDINO, DinoFeatures, ForegroundMask
from skdinoad.datasets import make_screws, plant_defect
from skdinoad.plotting import overlay_map

features = DinoFeatures(image_size=336)
X, _ = make_screws(2, size=320, random_state=0)
detector = AnomalyDINO(features=features).fit(X)
print(f"{len(detector.angles_)} angles, {len(detector.bank_)} vectors")

# %%
# AnomalyDINO decides from the good parts whether to mask the background.
print(detector.masking_, detector.mask_statistics_)
masked = ForegroundMask(features=features, masking=True).fit(X).transform(X)
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for axis, image in zip(axes, [X[0], masked[0], X[1], masked[1]]):
    axis.imshow(image)
    axis.axis("off")

# %%
# Four new good parts, and four with a scratch.
good, _ = make_screws(8, size=320, random_state=1)
bad = [plant_defect(part, random_state=i)[0] for i, part in enumerate(good[4:])]
X_new, y = np.concatenate([good[:4], bad]), np.repeat([1, -1], 4)
scores = detector.score_samples(X_new)
print(f"two references: AUROC {roc_auc_score(y, scores):.3f}")
shown = X_new[[0, 1, 4, 5]]
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for axis, image, heat in zip(axes, shown, detector.predict_map(shown)):
    axis.imshow(overlay_map(image, heat, limits=detector.map_limits_))
    axis.axis("off")

# %%
# Without any reference: tiles of a brick wall are compared with each other. Most of
# them must be good.
wall = data.brick()
corners = [(i, j) for i in range(0, 512, 128) for j in range(0, 512, 128)]
tiles = np.stack([wall[i : i + 128, j : j + 128] for i, j in corners])
tiles = np.repeat(tiles[..., np.newaxis], 3, axis=-1)
tiles[3] = plant_defect(tiles[3], random_state=0)[0]
tiles[9] = plant_defect(tiles[9], kind="blob", random_state=1)[0]
scores = AnomalyDINO(features=DinoFeatures(image_size=224)).score_batch(tiles)
print("least normal tiles:", np.argsort(scores)[:2])

# %%
# A part with a missing washer contains no patch that the good parts lack. To detect it,
# use more references, an aligner and DinoPatch. A reliable threshold needs a dozen or
# more good parts, each scored with a memory bank that does not contain it.
