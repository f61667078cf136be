"""Compare the speed and the results of inference engines with those of torch.

"batch 1" and "batch 8" are the time of a forward pass divided by torch's, in this
process on the same pixels, 224 x 224: below 1 is faster. Several calls of one engine
alternate with several of the other, because idle threads of an engine keep waiting
actively and slow down the other. "features" is the difference from torch's features as
computed by ``fit``: root mean square, relative to the spread of patches around their
mean. "scores" is the largest change of AnomalyDINO's scores on the test images,
relative to the standard deviation of torch's scores; image AUROC is that of the engine.
"compile" is the time in seconds before the first image. "torch-bfloat16" is not an
engine but ``Runtime(dtype="bfloat16")``.

    python benchmarks/speed/engines.py <folder> --categories bottle
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import categories, environment, parser, print_table
from overhead import clock

from skdinoad import AnomalyDINO, DinoFeatures, Runtime
from skdinoad.features._engines import ENGINES, check_installed, difference
from skdinoad.features._store import clear_memory
from skdinoad.metrics import image_auroc_score

HALF = "torch-bfloat16"

#: Number of timed calls of each engine.
TURNS = 5


def main():
    options, known = parser(__doc__), [*ENGINES, HALF]
    options.add_argument("--engines", nargs="*", default=known, choices=known)
    options.add_argument("--images", type=int, help="at most so many of each kind")
    options.add_argument("--repeats", type=int, default=10)
    options = options.parse_args()
    print(environment())
    header = ["engine", "compile", "batch 1", "batch 8", "features", "scores", "AUROC"]
    for name, data in categories(options.root, options.categories):
        train, test, y = some(data, options.images)
        scores = scored("torch", train, test)
        rows = [
            [engine, *row(engine, train, test, y, scores, options.repeats)]
            for engine in options.engines
        ]
        print(f"\n{name}\n")
        print_table(header, rows)


def some(data, n):
    """Return n training images, n test images of each kind, and their labels."""
    kinds = [np.flatnonzero(data.y == label)[:n] for label in (1, -1)]
    rows = np.concatenate(kinds)
    return data.train[:n], [data.test[i] for i in rows], data.y[rows]


def row(engine, train, test, y, expected, repeats):
    """Return the table cells of an engine, or the error message."""
    try:
        check_installed(parameters(engine)["engine"])
        began = time.perf_counter()
        tokens, pixels = features(train)
        found = tokens(engine, pixels[:8])
        took = time.perf_counter() - began
        scores = scored(engine, train, test)
    except (ImportError, ValueError) as error:
        return [str(error), *["-"] * 5]
    moved = difference(*(x.flatten(0, 1) for x in (found, tokens("torch", pixels[:8]))))
    change = abs(scores - expected).max() / expected.std()
    ratios = [ratio(engine, tokens, pixels[:n], repeats) for n in (1, 8)]
    auroc = image_auroc_score(y, scores)
    return [f"{took:.0f}", *ratios, f"{moved:.1e}", f"{change:.1e}", auroc]


def features(images):
    """Return the function of (engine, pixels) to tokens, and pixels of 8 images."""
    extractors = {
        dtype: DinoFeatures(image_size=(224, 224), runtime=Runtime(dtype=dtype)).fit()
        for dtype in ("float32", "bfloat16")
    }
    eight = [images[i % len(images)] for i in range(8)]
    x, _ = extractors["float32"].prepared(eight)
    x = torch.from_numpy(np.nan_to_num(x)).permute(0, 3, 1, 2).contiguous()

    @torch.inference_mode()
    def tokens(engine, pixels):
        kind = parameters(engine)
        extractor = extractors[kind["dtype"]]
        extractor.engine_ = kind["engine"]
        pixels = pixels.to(getattr(torch, kind["dtype"]))
        return extractor._stacked(pixels).float()

    return tokens, x


def parameters(engine):
    """Return the parameters of DinoFeatures for a row of the table."""
    half = engine == HALF
    return {
        "engine": "torch" if half else engine,
        "dtype": "bfloat16" if half else "float32",
    }


def ratio(engine, tokens, pixels, repeats):
    """Return an engine's time divided by torch's, the median of several rounds."""
    turns = [
        [usual(lambda e=e: tokens(e, pixels), repeats) for e in ("torch", engine)]
        for _ in range(TURNS)
    ]
    return f"{statistics.median(b / a for a, b in turns):.2f}"


def usual(call, repeats):
    """Return the median time of a call; the first calls wake the threads."""
    return statistics.median([clock(call) for _ in range(repeats + 2)][2:])


def scored(engine, train, test):
    clear_memory()
    extractor = DinoFeatures(
        image_size=(224, 224), runtime=Runtime(**parameters(engine))
    )
    return AnomalyDINO(features=extractor).fit(train).score_samples(test)


if __name__ == "__main__":
    main()
