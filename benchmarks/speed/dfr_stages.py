"""Time each stage of DFR compared with bare torch, and measure its memory.

"bare" is, for features, the network alone on prepared tensors; for training, forward
and backward pass and Adam's step of a plain stack of the same layers on one batch of
rows; for scoring, the same stack. The peak memory is that of a fresh process that fits
on 200 images, beyond its memory after fitting on 8.

    python benchmarks/speed/dfr_stages.py
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table
from torch import nn

from skdinoad import DFR, CNNFeatures
from skdinoad._compat.torch import multiplies_bfloat16
from skdinoad.datasets import make_screws
from skdinoad.features._store import clear_memory
from skdinoad.networks import RowAutoencoder


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--child", action="store_true", help="internal")
    options = options.parse_args()
    X = make_screws(16)[0]
    if options.child:
        print(json.dumps(peaks(X)))
        return
    print(environment(weights=False) + "\n")
    rows = [features(X), training(X), scoring(X)]
    timed = []
    for name, ours, bare in rows:
        times = [[seconds(run) for run in (bare, ours)] for _ in range(options.repeats)]
        raw, own = (statistics.median(column) for column in zip(*times))
        timed.append([name, f"{raw * 1000:.1f}", f"{own * 1000:.1f}", own / raw])
    print_table(["stage", "bare ms", "ours ms", "ratio"], timed)
    command = [sys.executable, __file__, "--child"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, peak = json.loads(found.splitlines()[-1])
    print()
    print_table(["fit on 200 images", "MiB"], [["peak beyond", f"{peak - before:.0f}"]])


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def features(X):
    """Time 16 arrays to features on one grid, and the network on prepared tensors."""
    extractor = DFR().default_features().set_params(cache=False).fit()
    x = torch.cat([extractor._pixels([image], (224, 224)) for image in X[..., :3]])
    network = extractor._backbone().network

    @torch.inference_mode()
    def bare():
        for part in x.split(extractor.images_at_once):
            network.forward_intermediates(
                part, indices=[1, 2, 3, 4], stop_early=True, intermediates_only=True
            )

    return "features of 16 images", lambda: extractor.transform(X), bare


def training(X):
    """Time twenty iterations of the autoencoder, without principal components."""
    detector, data, network = _ready(X)
    run = detector._new_run(data, 0, np.arange(len(data.rows)))
    stack = _stack(detector.set_params(training__n_iter=20) and network)
    adam, low = torch.optim.Adam(stack.parameters()), multiplies_bfloat16("cpu")
    z = torch.randn(1024, network.mean.numel())

    def ours():
        run.losses.clear()
        super(DFR, detector)._train(run, data, np.arange(len(data.rows)), None, "train")

    def bare():
        stack.train()
        for _ in range(20):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                rebuilt = stack(z).float()
            adam.zero_grad()
            (z - rebuilt).square().mean().backward()
            adam.step()

    return "20 iterations of 1024 rows", ours, bare


def scoring(X):
    """Time features of 16 images to scores, and their rows through the bare layers."""
    detector, _, network = _ready(X)
    detector.autoencoder_ = {k: v.numpy() for k, v in network.state_dict().items()}
    F, stack = detector.features_.transform(X), _stack(network).eval()
    z = torch.randn(F.shape[0] * F.shape[1] * F.shape[2], F.shape[3])

    @torch.inference_mode()
    def bare():
        stack(z)

    def ours():
        detector._aggregate(detector.score_grids(F))

    return "scores of 16 images", ours, bare


def _ready(X):
    detector = DFR()
    detector._reset()
    detector.features_, detector._seed = detector.default_features().fit(), 0
    detector._before = None, []
    data = detector._gather(detector._check_input(X))
    network = detector._new_network(data, np.arange(len(data.rows)))
    return detector, data, network.eval()


def _stack(network):
    code, channels = network.components.shape
    layers = RowAutoencoder(channels, code).layers
    return nn.Sequential(*layers[0], *layers[1])


def peaks(X):
    """Return the peak memory in MiB after a fit on 8, then on 200 images."""
    detector = DFR(features=CNNFeatures(layers=(1, 2, 3, 4), standardize=False))
    detector.set_params(features__cache=False, training__n_iter=20, holdout=None)
    found = []
    for n in (8, 200):
        detector.fit([X[i % len(X)] for i in range(n)])
        clear_memory()
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


if __name__ == "__main__":
    main()
