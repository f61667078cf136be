"""
Small defects on large photographs
==================================

This example shows how a small defect vanishes if a photograph is downscaled, and how
tiles keep the full resolution with one heat map per image.

The brushed metal is rendered, so the example needs no download.
"""

# %%
# A scratch of 16 x 2 pixels on an image of 448 x 1344 pixels.
import matplotlib.pyplot as plt
import numpy as np

from skdinoad import DinoFeatures, SubspaceAD, Tiles


def metal(seed):
    rng = np.random.default_rng(seed)
    lines = rng.normal(130, 10, (448, 1)) + rng.normal(0, 4, (448, 1344))
    return np.repeat(lines.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


X = np.stack([metal(seed) for seed in range(3)])
scratched = metal(9)
scratched[200:202, 900:916] = 30

# %%
# Downscaled to 112 pixels, the scratch covers four pixels by half a pixel. Tiles are
# not downscaled. Layer 6 of the packaged network localises fine marks best.
small = SubspaceAD(features=DinoFeatures(image_size=112, layers=[6]))
tiled = SubspaceAD(
    features=DinoFeatures(image_size=None, layers=[6], tiles=Tiles(size=224))
)
figure, axes = plt.subplots(2, 1, figsize=(9, 6), layout="constrained")
for axis, (name, detector) in zip(axes, {"reduced": small, "tiles": tiled}.items()):
    heat = detector.fit(X).predict_map([scratched])[0]
    place = np.unravel_index(heat.argmax(), heat.shape)
    axis.imshow(heat, cmap="inferno")
    axis.set_title(f"{name}: hottest at row {place[0]}, column {place[1]}")

# %%
# The computing time grows with the number of pixels: use tiles for small defects, and a
# smaller ``image_size`` otherwise.
