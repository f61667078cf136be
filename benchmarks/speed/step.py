"""A training step of Dinomaly compared with the decoder's forward and backward pass.

Our step gathers a batch, mines hard patches, clips gradients and runs the optimiser;
the bare step has a prepared batch and a plain loss. Both alternate in one process, in
trainings of a few steps, on tokens of noise, because the time does not depend on the
content of images.

    python benchmarks/speed/step.py
    python benchmarks/speed/step.py --steps 20 --threads 1
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table

from skdinoad import Dinomaly, Training
from skdinoad._training.tokens import gather
from skdinoad.networks import cosine_distance, rebuild

#: channels, tokens, depth, images in a batch, precision
CASES = [
    (384, 257, 2, 4, "bfloat16"),
    (384, 257, 2, 4, "float32"),
    (384, 257, 4, 8, "float32"),
    (384, 257, 8, 16, "float32"),
]


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--steps", type=int, default=20, help="of a training")
    options.add_argument("--threads", type=int, help="default: torch's own")
    options = options.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(environment(weights=False) + "\n")
    rows = [measure(case, options.steps) for case in CASES]
    header = ["channels", "tokens", "depth", "batch", "precision"]
    print_table([*header, "bare s", "ours s", "ratio", "optimiser s"], rows)


def measure(case, steps):
    channels, tokens, depth, batch, precision = case
    kind = {"batch_size": batch, "precision": precision}
    training = Training(n_iter=steps, warm_up=1, **kind)
    detector = Dinomaly(depth=depth, training=training)
    detector._seed, detector.n_groups_, detector._n_prefix = 0, 2, 1
    detector._before = None, []
    detector._check_network = lambda *_: None  # once per training, not per step
    noise = torch.randn(2 * batch, 2, tokens, channels)
    valid = torch.ones(1, tokens, dtype=torch.bool)
    data = gather(((x[None], valid, i) for i, x in enumerate(noise)), len(noise))
    rows = np.arange(len(noise))
    run = detector._new_run(data, 0, rows)

    def ours():
        run.losses.clear()
        detector._train(run, data, rows, None, "step")

    calls = {
        "bare": lambda: bare(run.network, noise[:batch], precision, steps),
        "ours": ours,
        "optimiser": lambda: [run.optimizer.step() for _ in range(steps)],
    }
    times = [[clock(call) / steps for call in calls.values()] for _ in range(4)]
    theirs, own, optimiser = map(statistics.median, zip(*times[1:]))  # warm-up first
    cells = [f"{theirs:.3f}", f"{own:.3f}", own / theirs, f"{optimiser:.3f}"]
    return [*map(str, case), *cells]


def bare(network, tokens, precision, steps):
    """Run the forward and backward pass the given number of times."""
    network.train()
    for _ in range(steps):
        network.zero_grad()
        pair = rebuild(network, tokens, prefix=1, low=precision == "bfloat16")
        cosine_distance(*pair).mean().backward()


def clock(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
