"""AnomalyDINO fitted on 1 to 200 photographs of 512 pixels: seconds and peak memory.

Rendered screws at the default input size, each case in a separate process. The memory
is the peak of the whole process: Python, torch, network, images, features and bank.

    python benchmarks/speed/few_and_many.py
"""

import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table

from skdinoad import AnomalyDINO, MemoryBank
from skdinoad.datasets import make_screws

CASES = [(1, 4000), (8, 4000), (200, 4000), (200, None)]


def child(n, size):
    """Print seconds of fit, seconds of scoring one image, peak MiB, vectors."""
    X, _ = make_screws(n + 5, size=512, random_state=0)
    warnings.simplefilter("ignore")
    detector = AnomalyDINO(bank=MemoryBank(size=size))
    start = time.perf_counter()
    detector.fit(X[:n])
    fitted = time.perf_counter()
    detector.score_samples(X[n:])
    scored = (time.perf_counter() - fitted) / 5
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([fitted - start, scored, peak, len(detector.bank_)]))


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--child", help="internal")
    options = options.parse_args()
    if options.child:
        return child(*json.loads(options.child))
    print(environment() + "\n")
    rows = []
    for case in CASES:
        command = [sys.executable, __file__, "--child", json.dumps(case)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
        fit, score, peak, vectors = json.loads(out.stdout.splitlines()[-1])
        cells = [f"{fit:.1f}", f"{score:.2f}", f"{peak:.0f}", str(vectors)]
        rows.append([str(case[0]), str(case[1]), *cells])
    header = ["images", "bank_size", "fit s", "score s per image", "peak MiB"]
    print_table([*header, "vectors"], rows)


if __name__ == "__main__":
    main()
