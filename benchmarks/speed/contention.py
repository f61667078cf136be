"""Time a training next to a process that keeps one core busy.

Threads that wait for each other at barriers are slowed down most if one of them has no
core. Each fit runs in a separate process: alone, then next to a busy process; with
default settings, and with threads that sleep while waiting
(``OMP_WAIT_POLICY=PASSIVE``).

    python benchmarks/speed/contention.py
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import busy, environment, parser, print_table

METHODS = {
    "DFR": "DFR(holdout=None, training=Training(n_iter=300))",
    "DMAD": "DMAD(holdout=None, training=Training(n_iter=8))",
    "Dinomaly": "Dinomaly(holdout=None, training=Training(n_iter=30))",
}

#: Prints the seconds of a second fit, which uses cached features.
FIT = """
import time, warnings
warnings.simplefilter("ignore")
from skdinoad import *
from skdinoad.datasets import make_screws
X, _ = make_screws(12, size=256)
detector = {detector}
detector.fit(X)
start = time.perf_counter()
detector.fit(X)
print(time.perf_counter() - start)
"""


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--methods", nargs="*", default=[*METHODS], choices=METHODS)
    options = options.parse_args()
    print(environment() + "\n")
    rows = []
    for name in options.methods:
        for setting in ("", "OMP_WAIT_POLICY=PASSIVE"):
            alone, beside = measure(name, setting)
            cells = f"{alone:.1f}", f"{beside:.1f}", f"{beside / alone:.1f}"
            rows.append([name, setting or "as it is", *cells])
    print_table(["fit", "waiting", "alone s", "beside s", "ratio"], rows)


def measure(name, setting):
    """Return the seconds of a fit alone, and next to a busy process."""
    alone = seconds(name, setting)
    with busy(1):
        return alone, seconds(name, setting)


def seconds(name, setting):
    command = [sys.executable, "-c", FIT.format(detector=METHODS[name])]
    settings = {**os.environ, **dict([setting.split("=")] if setting else [])}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=settings
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
