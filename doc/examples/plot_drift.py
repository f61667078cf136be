"""
Detect a dirty lens before verdicts become unreliable
=====================================================

This example shows how a DriftMonitor monitors whole images next to a detector, and how
soon it raises an alarm when the lens becomes smeared.

The screws are rendered in random poses, so the example needs no download.
"""

# %%
# Fit the monitor on the same good parts as the detector.
import cv2
import matplotlib.pyplot as plt
import numpy as np

from skdinoad.datasets import make_screws
from skdinoad.monitoring import DriftMonitor

X, _ = make_screws(70, size=224, random_state=0)
monitor = DriftMonitor(false_alarm_every=1000).fit(X[:20])

# %%
# Thirty unchanged images, followed by images through a lens that is gradually smeared.
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
# The statistic with the most evidence shows what has changed.
print(max(monitor.evidence_of_, key=monitor.evidence_of_.get))

# %%
# After cleaning the lens, reset the monitor. ``save`` stores the state of the monitor,
# so that it survives a restart of the computer.
monitor.reset()
print(monitor.alarm_, monitor.n_seen_)
