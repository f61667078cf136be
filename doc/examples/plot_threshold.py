"""
From scores to decisions: thresholds without labels, with labels, and nested
============================================================================

This example shows how to guarantee a false alarm rate with good parts only, how to
choose a better threshold with a few labelled defects, how to evaluate both on new
parts, and how to compute boxes of the defects.

The screws are rendered in random poses, so the example needs no download.
"""

# %%
# Forty good parts. A false alarm rate of 5 % needs 19 good parts, 1 % needs 99; with
# fewer, ``fit`` raises an error that states the number needed.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, cross_validate

from skdinoad import (
    DinoFeatures,
    DinoPatch,
    PCAAligner,
    Pipeline,
    ThresholdTunerCV,
    find_regions,
)
from skdinoad.datasets import make_screws
from skdinoad.plotting import (
    AlignmentDisplay,
    AnomalyMapDisplay,
    ScoreHistogramDisplay,
)

X, _ = make_screws(40, random_state=0)
detector = DinoPatch(features=DinoFeatures(image_size=224))
pipe = Pipeline([PCAAligner(output_size=224), detector])
tuner = ThresholdTunerCV(pipe, target_fpr=0.05, target_pixel_fpr=0.03).fit(X)

# %%
# The blue bars are held-out scores: each part was scored by a model fitted without it.
# The new parts, ten good and ten with a scratch, were not used for fitting.
good, _ = make_screws(10, random_state=1)
bad, masks = make_screws(10, defect="scratch", random_state=2)
X_new, y_new = np.concatenate([good, bad]), np.repeat([1, -1], 10)
ScoreHistogramDisplay.from_estimator(tuner, X_new, y_new)
flagged = tuner.predict(X_new) == -1
print(
    f"false alarms: {flagged[:10].sum()} of 10, missed: {(~flagged[10:]).sum()} of 10"
)

# %%
# Ten good parts are too few to measure a rate of 5 %: none, one and two false alarms
# are all likely. The guarantee is a mean over many draws of forty parts; the benchmarks
# on decisions list the rates realised over hundreds of draws.

# %%
# The p-value is the share of good parts that score at least as badly.
print(
    "good:", tuner.p_values(good[:5]).round(2), "bad:", tuner.p_values(bad[:5]).round(2)
)

# %%
# Connected pixels above ``pixel_threshold_`` form regions.
AnomalyMapDisplay.from_estimator(
    tuner, X_new[[0, 1, 10, 11]], masks=[None, None, *masks[:2]]
)
for found in find_regions(tuner.predict_map(bad[:2]), tuner.pixel_threshold_):
    print([(r.box, r.area, round(r.peak, 2)) for r in found[:2]])

# %%
# The images before and after alignment.
AlignmentDisplay.from_estimator(tuner.estimator_[0], X_new[[0, 1, 10, 11]])

# %%
# With labels
# -----------
# With eight labelled defects, choose the threshold with the best F1, or the lowest cost
# if a missed defect costs as much as twenty false alarms. The detector is not fitted on
# the defects.
known, _ = make_screws(8, defect="scratch", random_state=3)
X_all, y_all = np.concatenate([X, known]), np.repeat([1, -1], [40, 8])
by_f1 = ThresholdTunerCV(pipe, scoring="f1").fit(X_all, y_all)
by_cost = ThresholdTunerCV(pipe, scoring="cost", cost_matrix=[[0, 20], [1, 0]])
by_cost.fit(X_all, y_all)
for name, model in (("5 % promised", tuner), ("F1", by_f1), ("cost", by_cost)):
    f1 = f1_score(y_new, model.predict(X_new), pos_label=-1)
    print(f"{name:13} threshold {model.offset_:.3f}, F1 on new parts {f1:.3f}")

# %%
# Nested cross-validation
# -----------------------
# The F1 on the images that chose the threshold is too optimistic. With the tuner inside
# ``cross_validate``, each figure comes from parts that were used neither to fit the
# model nor to choose its threshold.


def f1_of_defects(model, X, y):
    return f1_score(y, model.predict(X), pos_label=-1)


folds = StratifiedKFold(4, shuffle=True, random_state=0)
outer = cross_validate(
    ThresholdTunerCV(pipe, scoring="f1"),
    X_all,
    y_all,
    cv=folds,
    scoring=f1_of_defects,
)
chosen = np.where(by_f1.holdout_scores_ < by_f1.offset_, -1, 1)
print(f"F1 on the images that chose: {f1_score(y_all, chosen, pos_label=-1):.3f}")
print(f"F1 nested: {outer['test_score'].mean():.3f}")

# %%
# A guaranteed rate needs good parts only. Labels give a better threshold if the known
# defects resemble future ones.
plt.show()
