"""A training step of Dinomaly over the bare decoder's forward and backward pass.

Ours gathers a batch, mines hard patches, clips gradients and takes the optimiser's
step; the bare one has its batch ready and the plainest loss. Both run in turns in one
process, on the tokens of noise: time does not depend on what images show.

    python benchmarks/step.py
    python benchmarks/step.py --steps 20 --threads 1
"""

import statistics
import time

import numpy as np
import torch
from _common import environment, parser, print_table

from skdinoad import Dinomaly
from skdinoad._training.loop import Run
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
    options.add_argument("--steps", type=int, default=10, help="of each, alternating")
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
    detector = Dinomaly(
        depth=depth, batch_size=batch, precision=precision, warm_up=10, mining_ramp=10
    )
    detector._seed, detector.n_groups_, detector._n_prefix = 0, 2, 1
    detector._before = None, []
    noise = torch.randn(2 * batch, 2, tokens, channels)
    valid = torch.ones(1, tokens, dtype=torch.bool)
    data = gather(((x[None], valid, i) for i, x in enumerate(noise)), len(noise))
    rows = np.arange(len(noise))
    run = detector._new_run(data, 0, rows)
    times = {"bare": [], "ours": [], "optimiser": []}
    for _ in range(steps + 2):  # the first two warm up
        times["bare"].append(bare(run.network, noise[:batch], precision))
        start = time.perf_counter()
        # Iterations done before, so that the warm-up is over; 0 seconds do one more.
        once = Run(run.network, run.optimizer, [0.0] * 100)
        detector._train(once, data, rows, 0, "step")
        times["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        run.optimizer.step()
        times["optimiser"].append(time.perf_counter() - start)
    medians = {name: statistics.median(part[2:]) for name, part in times.items()}
    ratio = medians["ours"] / medians["bare"]
    cells = [f"{medians['bare']:.3f}", f"{medians['ours']:.3f}", ratio]
    return [*map(str, case), *cells, f"{medians['optimiser']:.3f}"]


def bare(network, tokens, precision):
    """Return the seconds of one forward and backward pass."""
    network.train()
    network.zero_grad()
    start = time.perf_counter()
    pair = rebuild(network, tokens, prefix=1, low=precision == "bfloat16")
    cosine_distance(*pair).mean().backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
