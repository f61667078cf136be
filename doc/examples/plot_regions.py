"""
Bounding boxes of defects, and their sensitivity
================================================

This example shows how to compute boxes from heat maps, how to change their number, and
how to write the regions to a table and the pictures to files.

The screws are rendered in random poses, so the example needs no download.
"""

# %%
import tempfile

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from skdinoad import DinoPatch, PCAAligner, Pipeline, find_regions, regions_table
from skdinoad.datasets import make_screws
from skdinoad.plotting import save_maps

X, _ = make_screws(15, size=256, random_state=0)
X_new, _ = make_screws(3, size=256, defect="scratch", random_state=1)
pipe = Pipeline([PCAAligner(), DinoPatch()]).fit(X)
maps = pipe.predict_map(X_new)

# %%
# ``pixel_threshold_`` is estimated from heat maps of held-out good parts, which rarely
# exceed it.
regions = find_regions(maps, pipe.pixel_threshold_, min_area=20)
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for axis, image, found in zip(axes, X_new, regions):
    axis.imshow(image)
    for region in found:
        top, left, bottom, right = region.box
        corner, size = (left, top), (right - left, bottom - top)
        axis.add_patch(Rectangle(corner, *size, fill=False, color="lime"))
    axis.axis("off")

# %%
# A table of the regions, in the format of ``pandas.DataFrame`` and ``csv.DictWriter``.
for row in regions_table(regions, names=["a.png", "b.png", "c.png"])[:4]:
    print(row)

# %%
# Reduce the sensitivity by a higher threshold. A saved model keeps it.
pipe.pixel_threshold_ *= 1.5
fewer = find_regions(maps, pipe.pixel_threshold_, min_area=20)
print(
    "pixels in regions:", *(sum(r.area for r in x) for x in regions), "before,", end=" "
)
print(*(sum(r.area for r in x) for x in fewer), "now")

# %%
# Save the images with their heat maps as files, with the same colour limits for all.
for path in save_maps(tempfile.mkdtemp(), X_new, maps, limits=pipe.map_limits_):
    print(path.name)
