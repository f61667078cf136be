"""What changes a score, and by how much: the same model asked, and trained, otherwise.

The largest relative change of any test image's score when the same fitted model is
asked image by image, in reversed order, by two processes or with one thread; and when
the same settings are trained once more, with one thread, or on the same images in
reversed order. 0 means bit by bit. Features are computed anew each time. One category
at a time, default settings but ``holdout=None``. For a first look: fewer test images,
evenly spaced, and a share of the iterations that trained methods take.

DATA is a folder of categories in MVTec AD's layout.

    python tests/stress/determinism.py DATA --categories hazelnut
    python tests/stress/determinism.py DATA --images 12 --share 0.2
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "accuracy"))

from _common import categories, environment, parser, print_table
from joblib import Parallel, delayed
from sklearn.base import clone
from table import METHODS, detector_of, draws

from skdinoad.features._store import clear_memory

NAMES = [
    "DinoPatch",
    "AnomalyDINO",
    "SubspaceAD",
    "Dinomaly",
    "DFR",
    "DMAD",
    "reverse distillation",
]


def main():
    options = parser(__doc__)
    options.add_argument("--methods", nargs="*", default=NAMES, choices=NAMES)
    options.add_argument("--images", type=int, help="test images, at most")
    options.add_argument("--share", type=float, default=1, help="of the iterations")
    options = options.parse_args()
    warnings.simplefilter("ignore")
    print(environment() + "\n")
    for name, data in categories(options.root, options.categories):
        parts = list(data.train), spaced(list(data.test), options.images)
        rows = (  # printed as they come
            [m, *map(shown, changes(shortened(METHODS[m](), options.share), *parts))]
            for m in options.methods
        )
        print_table([name, *ASKED, *TRAINED], rows)


ASKED = {
    "one by one": lambda model, X: np.concatenate([scores(model, [x]) for x in X]),
    "reversed": lambda model, X: scores(model, X[::-1])[::-1],
    "2 processes": lambda model, X: np.concatenate(
        Parallel(2)(delayed(scores)(model, part) for part in (X[::2], X[1::2]))
    )[np.argsort(np.r_[0 : len(X) : 2, 1 : len(X) : 2])],
    "1 thread": lambda model, X: on_one_thread(scores, model, X),
}

TRAINED = {
    "trained again": lambda model, X: clone(model).fit(X),
    "on 1 thread": lambda model, X: on_one_thread(clone(model).fit, X),
    "on rows reversed": lambda model, X: clone(model).fit(X[::-1]),
}


def spaced(items, n):
    """Return n items, evenly spaced; None = all."""
    rows = np.linspace(0, len(items) - 1, min(n or len(items), len(items)))
    return [items[row] for row in rows.round().astype(int)]


def shortened(model, share):
    """Return the model with a share of its iterations, if it has any."""
    if share < 1 and draws(model):
        n_iter = detector_of(model)._setting("n_iter")
        detector_of(model).set_params(training__n_iter=max(1, round(share * n_iter)))
    return model


def changes(model, train, test):
    """Yield the largest relative change of a score for each way."""
    clear_memory()
    usual = scores(model.fit(train), test)
    for ask in ASKED.values():
        yield change(ask(model, test), usual)
    for way in TRAINED.values():
        clear_memory()
        yield change(scores(way(model, train), test), usual)


def change(scores, usual):
    return float(np.max(np.abs(scores - usual) / np.abs(usual)))


def scores(model, X):
    clear_memory()
    return model.score_samples(X)


def on_one_thread(call, *arguments):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return call(*arguments)
    finally:
        torch.set_num_threads(threads)


def shown(value):
    return "0" if value == 0 else f"{value:.0e}"


if __name__ == "__main__":
    main()
