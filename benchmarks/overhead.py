"""What the detectors cost beyond the network itself.

(fit + score_samples + predict_map) / (raw forward of the same network on the same
batches and pixels), both in this process, for 1 and for 50 photographs of 512 pixels at
the default size of the network's input.
score_samples and predict_map see the same images, so their features come from the
cache, as in use; the raw network sees each image once. Median of several runs.

    python benchmarks/overhead.py
"""

import statistics
import time

import torch
from _common import environment, parser, print_table

from skdinoad import AnomalyDINO, DinoPatch, PCAAligner, Pipeline
from skdinoad.datasets import make_screws
from skdinoad.features._backbones import get_backbone
from skdinoad.features._store import clear_memory


def clock(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.inference_mode()
def raw(features, n, size):
    """The bare network on n tensors in batches: no reading, resizing or cache."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = get_backbone(features.model, "auto", device, torch.float32).network
    for start in range(0, n, features.batch_size):
        x = torch.zeros(min(features.batch_size, n - start), 3, *size, device=device)
        out = network.forward_intermediates(
            x,
            indices=list(features.layers_),
            norm=features.norm_,
            stop_early=True,
            intermediates_only=True,
        )
        out[0].cpu()


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--estimators", nargs="*", help="only these")
    options.add_argument("--single", action="store_true", help="only one image")
    options = options.parse_args()
    print(environment() + "\n")
    X, _ = make_screws(50, size=512)
    rows = []
    for name, make in _estimators().items():
        if options.estimators and name not in options.estimators:
            continue
        fitted = make().fit(X[:20])
        measure(make, fitted, X[:0], X[:1])  # warm-up
        for label, train, test in list(_cases(X))[: 1 if options.single else None]:
            times = [measure(make, fitted, train, test) for _ in range(options.repeats)]
            ratio = statistics.median(total / bare for bare, total in times)
            bare, total = (statistics.median(part) for part in zip(*times))
            rows.append([name, label, f"{bare:.2f}", f"{total:.2f}", f"{ratio:.3f}"])
    print_table(["estimator", "work", "raw seconds", "our seconds", "ratio"], rows)


def measure(make, fitted, train, test):
    """Return seconds of the bare network and of all our work on the same images."""
    features, size = seen(fitted, test)
    bare = clock(lambda: raw(features, len(train) + len(test), size))
    return bare, clock(lambda: work(make, fitted, train, test))


def seen(fitted, X):
    """Return a detector's extractor, and the pixels that its network sees of images."""
    if isinstance(fitted, Pipeline):
        X, fitted = fitted[0].transform(X[:1]), fitted[-1]
    return fitted.features_, fitted.features_._plan(X.shape[1:3])[0]


def _estimators():
    return {
        "DinoPatch()": DinoPatch,
        "DinoPatch(neighborhood=0)": lambda: DinoPatch(neighborhood=0),
        "AnomalyDINO()": AnomalyDINO,
        "PCAAligner() + DinoPatch()": lambda: Pipeline([PCAAligner(), DinoPatch()]),
    }


def _cases(X):
    nothing = X[:0]
    yield "score + map, 1 image, bank of 20", nothing, X[20:21]
    yield "score + map, 50 images, bank of 20", nothing, X
    yield "fit 25, score + map 25", X[:25], X[25:]


def work(make, fitted, train, test):
    """Fit on some images, score and map others; each passes the network once."""
    clear_memory()
    estimator = make().fit(train) if len(train) else fitted
    estimator.score_samples(test)
    estimator.predict_map(test)


if __name__ == "__main__":
    main()
