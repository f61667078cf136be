"""
One model for several products
==============================

What is learned: how Dinomaly is trained on a few products at once, how its threshold is
found without a defect, and how to stop and go on with the training.

The products are three textures of scikit-image, so that the example needs no download.
"""

# %%
# Tiles of three walls and lawns; the lower part of each picture is kept for testing.
import matplotlib.pyplot as plt
import numpy as np
from skimage import data
from sklearn.metrics import roc_auc_score

from skdinoad import Dinomaly
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
# Nothing tells the model which tile is which product. One network learns; one image in
# five is kept from it, and their scores give the threshold.
detector = Dinomaly(n_iter=200, holdout=0.2).fit(X)
print(f"{detector.n_iter_} iterations, threshold {detector.offset_:.4f}")
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.semilogy(detector.loss_curve_)
axis.set(xlabel="iteration", ylabel="loss")

# %%
# Scores are compared within a product: what is usual for grass is odd for brick.
test, y = np.concatenate([good, bad]), np.repeat([1, -1], len(good))
scores = detector.score_samples(test)
product = np.tile(np.repeat(list(textures), 4), 2)
for name in textures:
    rows = product == name
    print(f"{name}: AUROC {roc_auc_score(y[rows], scores[rows]):.3f}")

# %%
# Heat maps have one scale for all images, taken from tiles that were held out: a good
# tile stays pale.
shown = test[[0, 12, 4, 16, 8, 20]]
figure, axes = plt.subplots(1, 6, figsize=(12, 2.4), layout="constrained")
for axis, image, heat in zip(axes, shown, detector.predict_map(shown)):
    axis.imshow(overlay_map(image, heat, limits=detector.map_limits_))
    axis.axis("off")

# %%
# A training that was stopped goes on with ``warm_start``; ``n_iter`` is the number of
# iterations altogether.
detector.set_params(warm_start=True, n_iter=220).fit(X)
print(f"{detector.n_iter_} iterations")
