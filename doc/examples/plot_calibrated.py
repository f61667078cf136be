"""
Probabilities from a few labelled defects
=========================================

This example shows how to use detectors where scikit-learn expects classifiers: to
calibrate probabilities, and to stack two detectors.

The screws are rendered in random poses, so the example needs no download.
"""

# %%
# Twenty good and twelve scratched parts. Detectors are fitted on the good ones only.
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from skdinoad import DinoPatch, PCAAligner, Pipeline, SubspaceAD, as_classifier
from skdinoad.datasets import make_screws


def labelled(n_good, n_bad, seed):
    good, _ = make_screws(n_good, size=224, random_state=seed)
    bad, _ = make_screws(n_bad, size=224, defect="scratch", random_state=seed + 1)
    return np.concatenate([good, bad]), np.repeat([1, -1], [n_good, n_bad])


X, y = labelled(20, 12, 0)
X_new, y_new = labelled(8, 8, 10)
pipe = Pipeline([PCAAligner(), DinoPatch()])

# %%
# A probability for each new part, from Platt's sigmoid fitted to held-out scores.
calibrated = CalibratedClassifierCV(as_classifier(pipe), cv=3).fit(X, y)
p = calibrated.predict_proba(X_new)[:, list(calibrated.classes_).index(1)]
print("good ones:", p[:8].round(2), "scratched:", p[8:].round(2), sep="\n")
print(f"Brier score {brier_score_loss(y_new, p, pos_label=1):.3f}")

# %%
# Stack two detectors into one classifier. ``StackingClassifier`` encodes the labels -1
# and +1 as 0 and 1, so ``normal=1`` tells ``as_classifier`` which of them is normal.
parts = [
    ("place", as_classifier(pipe, normal=1)),
    ("subspace", as_classifier(SubspaceAD(), normal=1)),
]
stacked = StackingClassifier(parts, LogisticRegression(), cv=3).fit(X, y)
print(f"right on {(stacked.predict(X_new) == y_new).mean():.0%} of new parts")
