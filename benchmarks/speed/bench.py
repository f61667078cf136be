"""Measure quick ratios and compare them with those of the last measured commit.

Each ratio is our time divided by the time of a reference, measured alternately on the
same machine: lower is better. Rows are appended to ``results/history.csv``. They are
compared with the last other commit on the same processor with the same number of
threads ("+" means uncommitted changes), and ratios that grew by more than a tenth are
reported. This may be noise, so run the benchmark again.

    python benchmarks/speed/bench.py
    python benchmarks/speed/bench.py --only latency search
"""

import sys
from datetime import date
from pathlib import Path

import carrying_back
import contention
import latency
import overhead
import search
import step
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import (
    append_rows,
    commit,
    environment,
    parser,
    print_table,
    processor,
    read_rows,
)

from skdinoad.datasets import make_screws

HEADER = ["date", "commit", "machine", "name", "ratio"]
RESULTS = Path(__file__).parents[1] / "results"

#: Ratios that grow by more than this factor are reported.
WORSE = 1.1


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--only", nargs="*", default=[*GROUPS], choices=GROUPS)
    history = RESULTS / "history.csv"
    options.add_argument("--results", type=Path, default=history, help="the CSV file")
    options = options.parse_args()
    print(environment() + "\n")
    where = [commit(), f"{processor()}, {torch.get_num_threads()} threads"]
    known = read_rows(options.results)
    table = []
    for group in options.only:
        rows = [[f"{group}: {name}", ratio] for name, ratio in GROUPS[group]()]
        table += [[*row, *before(known, where, row[0])] for row in rows]
        keep(options.results, where, rows)
    print_table(["name", "ratio", "before", "commit"], table)
    for name, ratio, then, other in table:
        if then is not None and ratio > WORSE * then:
            print(f"SLOWER: {name} by {ratio / then - 1:.0%} since {other}")


def keep(path, where, rows):
    """Append the rows of a group at once, because a later group may fail."""
    today = date.today().isoformat()
    rows = [[today, *where, name, f"{ratio:.3f}"] for name, ratio in rows]
    append_rows(path, HEADER, rows)


def before(known, where, name):
    """Return the last ratio of another commit on the same machine, and the commit."""
    now, machine = where
    for _, then, *rest, ratio in reversed(known):
        if then != now and rest == [machine, name]:
            return float(ratio), then
    return None, None


# -- what is measured: name and ratio -------------------------------------------------


def one_image():
    X, _ = make_screws(21, size=512)
    for name, estimator in latency.estimators().items():
        yield name, float(latency.warm(estimator, X, repeats=30)[-1])


def many_images():
    X, _ = make_screws(50, size=512)
    for name, make in overhead.estimators().items():
        fitted = overhead.warmed_up(make, X)
        *_, (label, *case) = overhead.cases(X)
        yield f"{name}, {label}", float(overhead.medians(make, fitted, *case, 3)[-1])


def whole_search():
    *_, extraction, wall = search.measure(40)
    yield "37 fits", wall / extraction


def training_step():
    for case in step.CASES[:2]:
        row = step.measure(case, steps=20)
        yield f"Dinomaly, {case[-1]}", row[-2]


def maps():
    for name, theirs, ours in carrying_back.measure():
        yield name, ours / theirs


def beside_a_busy_process():
    for name in contention.METHODS:
        alone, beside = contention.measure(name, "")
        yield name, beside / alone


GROUPS = {
    "latency": one_image,
    "overhead": many_images,
    "search": whole_search,
    "step": training_step,
    "carrying back": maps,
    "contention": beside_a_busy_process,
}


if __name__ == "__main__":
    main()
