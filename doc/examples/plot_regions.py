"""
Boxes for a reject station, and their sensitivity
=================================================

What is learned: how heat maps become boxes, how to make them fewer or more, and how to
write them to a table and the pictures to files.

The screws are rendered, in any pose, so that the example needs no download.
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
# ``pixel_threshold_`` is what heat maps of good parts, each held out, do not exceed.
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
# As a table, which ``pandas.DataFrame`` and ``csv.DictWriter`` take as it is.
for row in regions_table(regions, names=["a.png", "b.png", "c.png"])[:4]:
    print(row)

# %%
# Less sensitive: the threshold may be set, and a saved model keeps it.
pipe.pixel_threshold_ *= 1.5
fewer = find_regions(maps, pipe.pixel_threshold_, min_area=20)
print(
    "pixels in regions:", *(sum(r.area for r in x) for x in regions), "before,", end=" "
)
print(*(sum(r.area for r in x) for x in fewer), "now")

# %%
# Heat maps over their images as files, one colour scale for all.
for path in save_maps(tempfile.mkdtemp(), X_new, maps, limits=pipe.map_limits_):
    print(path.name)
