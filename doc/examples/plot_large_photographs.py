"""
Small defects on large photographs
==================================

What is learned: what a small defect becomes when a photograph is reduced, and how tiles
keep it at full resolution with one heat map.

The brushed metal is rendered, so that the example needs no download.
"""

# %%
# A scratch of 16 x 2 pixels on 448 x 1344.
import matplotlib.pyplot as plt
import numpy as np

from skdinoad import DinoFeatures, SubspaceAD


def metal(seed):
    rng = np.random.default_rng(seed)
    lines = rng.normal(130, 10, (448, 1)) + rng.normal(0, 4, (448, 1344))
    return np.repeat(lines.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


X = np.stack([metal(seed) for seed in range(3)])
scratched = metal(9)
scratched[200:202, 900:916] = 30

# %%
# Reduced to 112 pixels, the scratch is four pixels by half a one. In tiles nothing is
# reduced; layer 6 of the packaged network shows fine marks best.
small = SubspaceAD(features=DinoFeatures(image_size=112, layers=[6]))
tiled = SubspaceAD(features=DinoFeatures(image_size=None, tile_size=224, layers=[6]))
figure, axes = plt.subplots(2, 1, figsize=(9, 6), layout="constrained")
for axis, (name, detector) in zip(axes, {"reduced": small, "tiles": tiled}.items()):
    heat = detector.fit(X).predict_map([scratched])[0]
    place = np.unravel_index(heat.argmax(), heat.shape)
    axis.imshow(heat, cmap="inferno")
    axis.set_title(f"{name}: hottest at row {place[0]}, column {place[1]}")

# %%
# The work grows with the pixels: take tiles where defects are small, and a smaller
# ``image_size`` where they are not.
