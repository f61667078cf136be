"""Time AUPRO and other pixel metrics on 100 maps of 512 x 512, and compare values.

torchmetrics and anomalib are included if they are installed.
tests/metrics/test_pixel.py checks that AUPRO equals its definition, evaluated threshold
by threshold, to 1e-9.

    python benchmarks/speed/aupro.py
"""

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import environment, parser, print_table
from scipy import ndimage

from skdinoad.metrics import (
    StreamingPixelMetrics,
    aupro_score,
    pixel_ap_score,
    pixel_auroc_score,
    pixel_f1_max_score,
)


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--maps", type=int, default=100)
    options.add_argument("--size", type=int, default=512)
    options = options.parse_args()
    print(environment(weights=False) + "\n")
    masks, maps = example(options.maps, options.size)
    rows = [timed(name, call, masks, maps) for name, call in ways().items()]
    head = f"{options.maps} maps of {options.size} x {options.size}"
    print_table([head, "seconds", "value"], rows)


def example(n, size):
    """Return masks with two discs in two thirds of the images, and noisy maps."""
    rng = np.random.default_rng(0)
    masks, (rows, columns) = np.zeros((n, size, size), bool), np.mgrid[:size, :size]
    for mask in masks[: 2 * n // 3]:
        for radius in (size / 40, size / 12):
            y, x = rng.uniform(radius, size - radius, 2)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    noise = rng.normal(size=masks.shape)
    maps = [ndimage.gaussian_filter(m * 1.0, size / 60) for m in masks]
    return masks, (np.stack(maps) + 0.1 * noise).astype(np.float32)


def ways():
    found = {
        "aupro_score": aupro_score,
        "StreamingPixelMetrics, all four": streamed,
        "pixel_auroc_score": pixel_auroc_score,
        "pixel_ap_score": pixel_ap_score,
        "pixel_f1_max_score": pixel_f1_max_score,
    }
    if importlib.util.find_spec("anomalib"):
        found["anomalib AUPRO, exact"] = anomalib_aupro
    if importlib.util.find_spec("torchmetrics"):
        found["torchmetrics pixel AUROC, exact"] = torchmetrics_auroc
    return found


def streamed(masks, maps):
    metrics = StreamingPixelMetrics()
    for start in range(0, len(maps), 10):
        metrics.update(masks[start : start + 10], maps[start : start + 10])
    metrics.auroc(), metrics.average_precision(), metrics.f1_max()
    return metrics.aupro()


def anomalib_aupro(masks, maps):
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=0.3)
    maps = torch.from_numpy(maps - maps.min()) / float(np.ptp(maps))
    metric.update(maps, torch.from_numpy(masks).int())
    return metric.compute().item()


def torchmetrics_auroc(masks, maps):
    from torchmetrics.functional.classification import binary_auroc

    maps = torch.from_numpy(maps - maps.min()) / float(np.ptp(maps))
    return binary_auroc(maps.ravel(), torch.from_numpy(masks).ravel().int()).item()


def timed(name, call, masks, maps):
    start = time.perf_counter()
    value = call(masks, maps)
    return [name, f"{time.perf_counter() - start:.2f}", f"{value:.6f}"]


if __name__ == "__main__":
    main()
