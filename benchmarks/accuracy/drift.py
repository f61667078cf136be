"""Measure the false alarms and the detection delay of DriftMonitor.

Good photographs of each category are drawn in random orders without repetition, and a
DriftMonitor is fitted on the first twenty. False alarms: the monitor receives all other
images unchanged; "allowed" is the number of orders in which the guarantee permits a
false alarm, a share of (images seen) / ``false_alarm_every``. Delay: it receives a
quarter of the other images unchanged and the rest with a change of strength 1, 2 or 4.
The table lists the share of orders that end with an alarm and, if this is at least
half, the median number of changed images until the alarm. Features are computed once
for each change, in one thread.

    python benchmarks/accuracy/drift.py ../shared/data
"""

import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, parser, print_table

from skdinoad import DinoFeatures
from skdinoad._inputs.images import as_images
from skdinoad.monitoring import DriftMonitor, _with_distance

LEARNED = 20
STRENGTHS = 1, 2, 4


def blur(image, strength):
    return cv2.GaussianBlur(image, (0, 0), strength * min(image.shape[:2]) / 400)


def dim(image, strength):
    return (image * (1 - 0.1 * strength)).astype(np.uint8)


def cast(image, strength):
    gain = 1 + 0.05 * strength * np.array([1, 0, -1])
    return (image * gain).clip(0, 255).astype(np.uint8)


def shift(image, strength):
    step = round(strength * 0.03 * image.shape[1])
    rows = np.clip(np.arange(image.shape[1]) - step, 0, None)
    return image[:, rows]


def dust(image, strength):
    """Add specks of a hundredth of the image, always at the same positions."""
    rng, out = np.random.default_rng(0), image.copy()
    radius = max(1, min(image.shape[:2]) // 100)
    for _ in range(4 * strength):
        place = rng.integers(0, image.shape[1]), rng.integers(0, image.shape[0])
        cv2.circle(out, tuple(map(int, place)), radius, (30, 30, 30), -1)
    return cv2.GaussianBlur(out, (0, 0), radius / 3)


CHANGES = {"blur": blur, "dim light": dim, "colour cast": cast, "shift": shift}
CHANGES["dust"] = dust


def main():
    options = parser(__doc__)
    options.add_argument("--orders", type=int, default=100)
    options.add_argument("--every", type=float, default=200)
    options.add_argument("--size", type=int, default=112, help="pixels of the features")
    options = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{environment()}; {options.size} pixels, {options.orders} orders\n")
    rows, seen = [], []
    for name, data in categories(options.root, options.categories):
        good = [*as_images([*data.train, *data.test[data.y == 1]])]
        good = [np.ascontiguousarray(image[..., :3]) for image in good]
        features = DinoFeatures(image_size=options.size, cache=False)
        monitor = DriftMonitor(features=features, false_alarm_every=options.every)
        monitor.fit(good[:LEARNED])
        same = monitor._described(as_images(good))
        seen.append([name, str(len(good)), *false_alarms(monitor, same, options)])
        for change, make in CHANGES.items():
            found = [noticed(monitor, same, make, s, good, options) for s in STRENGTHS]
            rows.append([name, change, *found])
    print_table(["category", "images", "false alarms", "allowed"], seen)
    print()
    print_table(["category", "change", *(f"strength {s}" for s in STRENGTHS)], rows)


def false_alarms(monitor, same, options):
    """Return the number of orders with a false alarm, and the number allowed."""
    n = len(same[0])
    streams = (learned(monitor, same, order) for order in range(options.orders))
    found = sum(alarm(monitor, same, rest) is not None for rest in streams)
    allowed = options.orders * (n - LEARNED) / options.every
    return str(found), f"{allowed:.0f}"


def noticed(monitor, same, make, strength, good, options):
    """Return the share of orders with an alarm after the change, and the delay."""
    changed = monitor._described(as_images([make(image, strength) for image in good]))
    delays = []
    for order in range(options.orders):
        rest = learned(monitor, same, order)
        middle = len(rest) // 4
        if alarm(monitor, same, rest[:middle]) is None:
            delays.append(alarm(monitor, changed, rest[middle:]))
    found = [delay for delay in delays if delay is not None]
    share = len(found) / len(delays)
    return f"{share:.0%}" + (f", {np.median(found):.0f}" if share >= 0.5 else "")


def learned(monitor, same, order):
    """Fit a monitor on twenty images; return the other rows in random order."""
    rows = np.random.default_rng(order).permutation(len(same[0]))
    monitor._learn(*(part[rows[:LEARNED]] for part in same))
    return rows[LEARNED:]


def alarm(monitor, described, rows):
    """Return the number of images until the alarm, or None."""
    pooled, pixels = (part[rows] for part in described)
    for t, row in enumerate(_with_distance(pooled - monitor.mean_, pixels), start=1):
        if monitor._bet(row):
            return t
    return None


if __name__ == "__main__":
    main()
