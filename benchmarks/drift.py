"""How soon a dirty lens or a new lamp is noticed, and how often good images alarm.

Good photographs of each category, in many random orders: a DriftMonitor learns from
twenty, sees half of the others as they are, and the rest changed. "noticed" is the
share of orders in which the alarm came, "delay" the median number of changed images
until then; "false" the share in which it came before any change. Changes come in
three strengths.

    python benchmarks/drift.py ../shared/data
"""

import warnings

import cv2
import numpy as np
from _common import categories, environment, parser, print_table

from skdinoad._inputs.images import as_images
from skdinoad.monitoring import DriftMonitor, _with_distance

LEARNED = 20


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
    """Specks of a hundredth of the image, always in the same places."""
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
    options.add_argument("--every", type=float, default=1000)
    options = options.parse_args()
    warnings.simplefilter("ignore")
    print(environment() + f"; false_alarm_every={options.every:g}\n")
    rows = []
    for name, data in categories(options.root, options.categories):
        good = [*as_images([*data.train, *data.test[data.y == 1]])]
        good = [np.ascontiguousarray(image[..., :3]) for image in good]
        monitor = DriftMonitor(false_alarm_every=options.every).fit(good[:LEARNED])
        same = monitor._described(as_images(good))
        for change, make in CHANGES.items():
            for strength in (1, 2, 4):
                changed = as_images([make(image, strength) for image in good])
                found = tried(monitor, same, monitor._described(changed), options)
                rows.append([name, str(len(good)), change, str(strength), *found])
    header = ["category", "images", "change", "strength", "false", "noticed", "delay"]
    print_table(header, rows)


def tried(monitor, same, changed, options):
    """Return the shares of false alarms and of changes noticed, and the delay."""
    n, false, delays = len(same[0]), 0, []
    for order in range(options.orders):
        rows = np.random.default_rng(order).permutation(n)
        middle = (LEARNED + n) // 2
        monitor._learn(*(part[rows[:LEARNED]] for part in same))
        early = alarm(monitor, same, rows[LEARNED:middle])
        false += early is not None
        if early is None:
            delays.append(alarm(monitor, changed, rows[middle:]))
    noticed = [delay for delay in delays if delay is not None]
    shares = false / options.orders, len(noticed) / max(1, len(delays))
    delay = f"{np.median(noticed):.0f} of {n - middle}" if noticed else "-"
    return [*shares, delay]


def alarm(monitor, described, rows):
    """Return after how many images the alarm comes, or None."""
    pooled, pixels = (part[rows] for part in described)
    for t, row in enumerate(_with_distance(pooled - monitor.mean_, pixels), start=1):
        if monitor._bet(row):
            return t
    return None


if __name__ == "__main__":
    main()
