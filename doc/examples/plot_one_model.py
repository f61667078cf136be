"""
One model for several products
==============================

This example shows how to train Dinomaly on several products together, how it estimates
a threshold without defects, and how to continue a training.

The products are three textures from scikit-image, so the example needs no download.
"""

# %%
# Tiles of three textures. The lower part of each picture is kept for testing.
import matplotlib.pyplot as plt
import numpy as np
from skimage import data
from sklearn.metrics import roc_auc_score

from skdinoad import Dinomaly, Training
from skdinoad.datasets import plant_defect
from skdinoad.plotting import overlay_map

textures = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}


def tiles(picture, rows):
    """Return tiles of 128 pixels, in three channels."""
    parts = [
        picture[i : i + 128, j : j + 128] for i in rows for j in range(0, 512, 128)
    ]
    return np.stack([np.stack(parts)] * 3, axis=-1)


X = np.concatenate([tiles(t, (0, 128, 256)) for t in textures.values()])
good = np.concatenate([tiles(t, (384,)) for t in textures.values()])
bad = np.stack([plant_defect(tile, random_state=i)[0] for i, tile in enumerate(good)])
print(
    f"{len(X)} tiles to learn from, {len(good)} good and {len(bad)} scratched to test"
)

# %%
# The model does not know which tile belongs to which product. One network is trained on
# four fifths of the images; the scores of the others determine the threshold.
detector = Dinomaly(holdout=0.2, training=Training(n_iter=200)).fit(X)
print(f"{detector.n_iter_} iterations, threshold {detector.offset_:.4f}")
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.semilogy(detector.loss_curve_)
axis.set(xlabel="iteration", ylabel="loss")

# %%
# Compare scores within a product only, because their typical values differ.
test, y = np.concatenate([good, bad]), np.repeat([1, -1], len(good))
scores = detector.score_samples(test)
product = np.tile(np.repeat(list(textures), 4), 2)
for name in textures:
    rows = product == name
    print(f"{name}: AUROC {roc_auc_score(y[rows], scores[rows]):.3f}")

# %%
# All heat maps have the same colour limits, which come from held-out tiles, so that
# good tiles stay pale.
shown = test[[0, 12, 4, 16, 8, 20]]
figure, axes = plt.subplots(1, 6, figsize=(12, 2.4), layout="constrained")
for axis, image, heat in zip(axes, shown, detector.predict_map(shown)):
    axis.imshow(overlay_map(image, heat, limits=detector.map_limits_))
    axis.axis("off")

# %%
# ``warm_start`` continues the training; ``n_iter`` is the total number of iterations.
detector.set_params(training__warm_start=True, training__n_iter=220).fit(X)
print(f"{detector.n_iter_} iterations")
