"""
Notice a dirty lens before the verdicts are worthless
=====================================================

What is learned: how a DriftMonitor watches whole images beside a detector, and how soon
it tells of a lamp that grows dim and a lens that is smeared.

The screws are rendered, in any pose, so that the example needs no download.
"""

# %%
# The monitor learns from the good parts that the detector learns from.
import cv2
import matplotlib.pyplot as plt
import numpy as np

from skdinoad.datasets import make_screws
from skdinoad.monitoring import DriftMonitor

X, _ = make_screws(70, size=224, random_state=0)
monitor = DriftMonitor(false_alarm_every=1000).fit(X[:20])

# %%
# Thirty parts as usual, then a smeared lens: each step a little more.
usual = X[20:50]
smeared = [cv2.GaussianBlur(x, (0, 0), 0.5 + 0.1 * i) for i, x in enumerate(X[50:])]
evidence, alarms = [], []
for image in [*usual, *smeared]:
    alarms.append(bool(monitor.update([image])[-1]))
    evidence.append(monitor.evidence_)
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.semilogy(np.maximum(evidence, 1e-3))
axis.axhline(monitor.false_alarm_every, color="black", ls="--", label="alarm")
axis.axvline(len(usual) - 0.5, color="C3", label="lens smeared")
axis.set(xlabel="image", ylabel="evidence of a change")
axis.legend()
print(f"alarms before the change: {sum(alarms[:30])}")
print(f"alarm after {alarms.index(True) + 1 - len(usual)} smeared images")

# %%
# What has changed? The statistic with most evidence says.
print(max(monitor.evidence_of_, key=monitor.evidence_of_.get))

# %%
# Clean the lens, and begin anew. ``save`` keeps the monitor, so that a restart of the
# line's computer forgets nothing.
monitor.reset()
print(monitor.alarm_, monitor.n_seen_)
