"""``skdinoad serve`` under load, compared with ``score_samples`` of the same files.

Uses rendered screws as PNG files, and ``AnomalyDINO``. "model" is the throughput in
images per second of ``score_samples`` (with regions also ``predict_map``, which uses
cached features) on all files in this process; "server" is that of the command in a
separate process, with concurrent clients over the loopback interface. Both alternate,
and the median of several runs is reported. The aim is a ratio of 0.9 with many clients.
Latency is the time that a client waits; with many clients it mostly waits for the
others. "client ms" is the core time of a client per image, because clients and server
share the cores.

    python benchmarks/speed/serve.py
    python benchmarks/speed/serve.py --busy 2  # next to processes that use all cores
"""

import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import busy, environment, parser, print_table
from PIL import Image

from skdinoad import AnomalyDINO, DinoFeatures, save
from skdinoad.datasets import make_screws
from skdinoad.features._store import clear_memory


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--size", type=int, default=512, help="edge of the images")
    options.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--busy", type=int, default=0, help="cores that others keep")
    options.add_argument(
        "--tiny", action="store_true", help="a random network: a trial"
    )
    options = options.parse_args()
    print(environment(weights=not options.tiny) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        model = fitted(options)
        paths = write(make_screws(options.images, size=options.size)[0], folder)
        path = save(model, f"{folder}/model.skd")
        with server(path) as address, busy(options.busy):
            print_rows(model, paths, address, options)


def fitted(options):
    features = None
    if options.tiny:
        features = DinoFeatures(model="test_vit", weights="random:0", image_size=64)
    X, _ = make_screws(20, size=options.size, random_state=1)
    return AnomalyDINO(features=features).fit(X)


def write(images, folder):
    """Write images as files; return their paths."""
    paths = [f"{folder}/{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    return paths


@contextmanager
def server(model):
    """Run the command; yield the address at which it listens."""
    command = [sys.executable, "-m", "skdinoad", "serve", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            yield re.search(r"http://(\S+)", said)[1]
        finally:
            process.terminate()


def print_rows(model, paths, address, options):
    contents = [Path(path).read_bytes() for path in paths]
    header = ["answer", "clients", "model images/s", "server images/s", "ratio"]
    rows = []
    for name, query, work in _cases(model):
        expected = model.score_samples(paths)
        for clients in options.clients:
            load(address, query, contents[:2], clients)  # warm-up
            runs = [
                (clock(work, paths), *load(address, query, contents, clients))
                for _ in range(options.repeats)
            ]
            for *_, scores in runs:
                np.testing.assert_allclose(scores, expected, rtol=1e-5)
            own, total, asking, waits, _ = zip(*runs)
            own, served = (len(paths) / statistics.median(x) for x in (own, total))
            asked = statistics.median(asking) / len(paths) * 1000
            waits = np.concatenate(waits) * 1000
            p50, p99 = np.percentile(waits, [50, 99])
            cells = f"{own:.1f}", f"{served:.1f}", f"{served / own:.2f}"
            cells = *cells, f"{p50:.0f}", f"{p99:.0f}", f"{asked:.1f}"
            rows.append([name, str(clients), *cells])
    print_table([*header, "p50 ms", "p99 ms", "client ms"], rows)


def _cases(model):
    """Yield (name, path to request, the same work without a server)."""

    def both(paths):
        model.score_samples(paths)
        model.predict_map(paths)

    yield "verdict", "/score?regions=false", model.score_samples
    yield "verdict and regions", "/score", both


def clock(work, paths):
    """Return the seconds of some work on files without cached features."""
    clear_memory()
    start = time.perf_counter()
    work(paths)
    return time.perf_counter() - start


def load(address, query, contents, clients):
    """Return total seconds, core seconds of clients, seconds per image, and scores."""
    own, opened = threading.local(), []

    def ask(content):
        if not hasattr(own, "connection"):  # each client reuses its connection
            own.connection = http.client.HTTPConnection(address)
            opened.append(own.connection)
        start = time.perf_counter()
        own.connection.request("POST", query, content)
        answer = json.loads(own.connection.getresponse().read())
        return time.perf_counter() - start, answer["score"]

    with ThreadPoolExecutor(clients) as pool:
        start, busy = time.perf_counter(), time.process_time()
        found = list(pool.map(ask, contents))
        total, busy = time.perf_counter() - start, time.process_time() - busy
    for connection in opened:
        connection.close()
    waits, scores = zip(*found)
    return total, busy, np.array(waits), scores


if __name__ == "__main__":
    main()
