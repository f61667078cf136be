"""Cost of the detectors in addition to the network.

Measures (fit + score_samples + predict_map) / (raw forward of the same network on the
same batches and pixels), all in this process, for 1 and for 50 photographs of 512
pixels at the default input size. "timm's" is the network as provided by timm, "ours"
the same with skdinoad's matrix products, which are faster on processors that are not
Intel's. score_samples and predict_map receive the same images, so the second one uses
cached features, as in practice; the raw network processes each image once. Medians of
several runs are reported.

    python benchmarks/speed/overhead.py
"""

import copy
import statistics
import sys
import time
from functools import lru_cache
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table

from skdinoad import AnomalyDINO, DinoPatch, LocalBank, PCAAligner, Pipeline
from skdinoad._compat.products import DoneBefore, GeluLinear, Linear
from skdinoad.datasets import make_screws
from skdinoad.features._backbones import get_backbone
from skdinoad.features._store import clear_memory


def clock(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.inference_mode()
def raw(features, n, size, network):
    """Run the bare network on n tensors in batches: no reading, resizing or cache."""
    device = next(network.parameters()).device
    for start in range(0, n, features.images_at_once):
        x = torch.zeros(
            min(features.images_at_once, n - start), 3, *size, device=device
        )
        out = network.forward_intermediates(
            x,
            indices=list(features.layers_),
            norm=features.norm_,
            stop_early=True,
            intermediates_only=True,
        )
        out[0].cpu()


def networks(features):
    """Return the network as timm provides it, and as skdinoad runs it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours = get_backbone(features.model, "auto", device, torch.float32).network
    return timms(ours), ours


@lru_cache
def timms(network):
    network, nn = copy.deepcopy(network), torch.nn
    theirs = {Linear: nn.Linear, GeluLinear: nn.Linear, DoneBefore: nn.GELU}
    for module in network.modules():
        module.__class__ = theirs.get(type(module), type(module))
    return network


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--estimators", nargs="*", help="only these")
    options.add_argument("--single", action="store_true", help="only one image")
    options = options.parse_args()
    print(environment() + "\n")
    X, _ = make_screws(50, size=512)
    rows = []
    for name, make in estimators().items():
        if options.estimators and name not in options.estimators:
            continue
        fitted = warmed_up(make, X)
        for label, *case in list(cases(X))[: 1 if options.single else None]:
            rows.append([name, label, *medians(make, fitted, *case, options.repeats)])
    print_table(["estimator", "work", *SUMMARY], rows)


def warmed_up(make, X):
    """Return an estimator fitted on 20 images, with code and weights in memory."""
    fitted = make().fit(X[:20])
    measure(make, fitted, X[:0], X[:1])
    return fitted


def medians(make, fitted, train, test, repeats):
    """Return the figures that ``SUMMARY`` names."""
    return summary([measure(make, fitted, train, test) for _ in range(repeats)])


def measure(make, fitted, train, test):
    """Return seconds of both bare networks and of the estimator on the same images."""
    features, size = seen(fitted, test)
    n = len(train) + len(test)
    bare = [clock(lambda b=b: raw(features, n, size, b)) for b in networks(features)]
    return *bare, clock(lambda: work(make, fitted, train, test))


#: Table columns computed from the seconds that ``measure`` returns.
SUMMARY = ["timm's network ms", "our network ms", "all ms", "/ timm's", "/ ours"]


def summary(times):
    """Return the medians of times and ratios."""
    medians = [f"{1000 * statistics.median(part):.0f}" for part in zip(*times)]
    ratios = [statistics.median(t[2] / t[k] for t in times) for k in (0, 1)]
    return *medians, *(f"{ratio:.2f}" for ratio in ratios)


def seen(fitted, X):
    """Return a detector's extractor, and the pixels that its network receives."""
    if isinstance(fitted, Pipeline):
        X, fitted = fitted[0].transform(X[:1]), fitted[-1]
    return fitted.features_, fitted.features_._plan(X.shape[1:3])[0]


def estimators():
    return {
        "DinoPatch(texture=None)": lambda: DinoPatch(texture=None),
        "with LocalBank(neighborhood=0)": lambda: DinoPatch(
            texture=None, bank=LocalBank(neighborhood=0)
        ),
        "AnomalyDINO(texture=None)": lambda: AnomalyDINO(texture=None),
        "PCAAligner() + DinoPatch(texture=None)": lambda: Pipeline(
            [PCAAligner(), DinoPatch(texture=None)]
        ),
    }


def cases(X):
    nothing = X[:0]
    yield "score + map, 1 image, bank of 20", nothing, X[20:21]
    yield "score + map, 50 images, bank of 20", nothing, X
    yield "fit 25, score + map 25", X[:25], X[25:]


def work(make, fitted, train, test):
    """Fit on some images, score and map others; the network runs once per image."""
    clear_memory()
    estimator = make().fit(train) if len(train) else fitted
    estimator.score_samples(test)
    estimator.predict_map(test)


if __name__ == "__main__":
    main()
