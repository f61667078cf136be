"""
Detect defective screws with a dozen good ones
==============================================

This example shows how to fit a detector on good parts only, predict and localise
defects, and choose parameters without using the test images.

The screws are rendered in random poses, so the example needs no download.
"""

# %%
# Fit on twelve good parts.
import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skdinoad import DinoFeatures, DinoPatch, PCAAligner, Pipeline
from skdinoad.datasets import make_screws
from skdinoad.plotting import AnomalyMapDisplay

X, _ = make_screws(12, random_state=0)
features = DinoFeatures(image_size=336)
pipe = Pipeline([PCAAligner(output_size=336), DinoPatch(features=features)])
pipe.fit(X)

# %%
# New parts: two good ones, one without its washer, and one with a second washer.
good, _ = make_screws(2, random_state=1)
bad = [
    make_screws(1, defect=d, random_state=2)[0] for d in ("no_washer", "second_washer")
]
X_new = np.concatenate([good, *bad])
AnomalyMapDisplay.from_estimator(pipe, X_new)

# %%
# A few labelled defects allow a parameter search. The search uses only the first set;
# the reported AUROC is computed on a second set.


def labelled(seed):
    good, _ = make_screws(9, random_state=seed)
    bad, _ = make_screws(6, defect="scratch", random_state=seed + 1)
    return np.concatenate([good, bad]), np.array([1] * 9 + [-1] * 6)


search = GridSearchCV(
    pipe,
    {"dinopatch__bank__neighborhood": [0, 1], "dinopatch__aggregate": ["max", 0.02]},
    scoring="roc_auc",
    cv=StratifiedKFold(3, shuffle=True, random_state=0),
)
search.fit(*labelled(10))
X_test, y_test = labelled(20)
auroc = roc_auc_score(y_test, search.decision_function(X_test))
print(search.best_params_, f"AUROC on images never searched: {auroc:.3f}")

# %%
# A dozen good parts in any pose are enough to detect parts with missing or additional
# components, and the heat map shows where they are.
