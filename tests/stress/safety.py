"""Damage, kills and hostile files: each promise, trials, failures. make check-safety.

A trial of damage flips one bit, or cuts a file; it fails if another result comes of it
in silence. A trial of a kill stops a writing process at a random moment; it fails if
what is left is neither the old file nor the new one, or a row is lost or there twice. A
hostile file is a pickle that would make a file; it fails if that file is there. A trial
of a full folder of features fails, too, if it passes its limit or another file is gone.

    python tests/stress/safety.py
    python tests/stress/safety.py --trials 10
"""

import csv
import io
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from unittest import mock

import joblib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _common import environment, parser, print_table
from PIL import Image
from sklearn.utils import Bunch

from skdinoad import AnomalyDINO, DinoFeatures, DinoPatch, dump, load, save
from skdinoad.cli import main as skdinoad
from skdinoad.cli._batch import _Csv, _scored_before
from skdinoad.datasets import make_screws
from skdinoad.features import _store
from skdinoad.report import ScoringReport

#: Whoever asks a network comes through one of them.
DOORS = [
    (socket, "getaddrinfo"),
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
]

KEYS = [f"{i:040x}" for i in range(10_000)]

COLUMNS = ["path", "verdict", "score"]

TINY = {"model": "test_vit", "weights": "random:0", "image_size": 64}


def main():
    options = parser(__doc__, root=False)
    options.add_argument("--trials", type=int, default=400, help="flipped bits")
    options.add_argument("--kills", type=int, default=50)
    options = options.parse_args()
    os.environ["SKDINOAD_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    print(environment(weights=False) + "\n")
    rng, rows = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for promise, trial, n in [
            ("a flipped bit in a model file", world.flipped_model, options.trials),
            ("a model file cut short", world.cut_model, options.kills),
            ("a flipped bit in kept features", world.flipped_entry, options.trials),
            ("a hostile model file", world.hostile_model, options.kills),
            ("hostile kept features", world.hostile_entry, options.kills),
            ("hostile weights", world.hostile_weights, options.kills),
            ("a kill while save writes", world.killed_save, options.kills),
            ("a kill while dump writes", world.killed_dump, options.kills),
            ("a kill while features are kept", world.killed_entry, options.kills),
            ("a kill while features make room", world.killed_room, options.kills),
            ("a kill while a CSV file grows", world.killed_csv, options.kills),
            ("a kill while a report is written", world.killed_report, options.kills),
            ("a connection under SKDINOAD_OFFLINE=1", world.connected, 3),
        ]:
            failures = sum(bool(trial(rng)) for _ in range(n))
            rows.append([promise, str(n), str(failures)])
            print(*rows[-1], file=sys.stderr, flush=True)
    print_table(["promise against", "trials", "failures"], rows)
    sys.exit(any(row[2] != "0" for row in rows))


class World:
    """A folder with a model, kept features and what the trials write; each trial
    returns whether it failed."""

    def __init__(self, folder):
        self.folder = folder
        self.X, _ = make_screws(6, size=96)
        self.detector = DinoPatch(features=DinoFeatures(**TINY)).fit(self.X)
        self.scores = self.detector.score_samples(self.X)
        self.model = save(self.detector, folder / "model.skd")
        self.whole = self.model.read_bytes()
        self.store = _store.open_store(folder / "kept")
        self.values = np.arange(600, dtype=np.float32).reshape(10, 60)
        self.store.put("a" * 40, self.values)
        (self.entry,) = [p for p in (folder / "kept").rglob("*") if p.is_file()]
        self.entry_whole = self.entry.read_bytes()
        self.marker = folder / "executed"
        pickle.loads(pickle.dumps(Bomb(self.marker)))
        assert self.marker.exists()  # the bomb is one
        self.marker.unlink()

    # -- damage -----------------------------------------------------------------------

    def flipped_model(self, rng):
        return self._lies(flipped(self.whole, rng))

    def cut_model(self, rng):
        return self._lies(self.whole[: rng.integers(len(self.whole))])

    def _lies(self, content):
        self.model.write_bytes(content)
        try:
            other = load(self.model)
        except Exception:
            return False  # refused
        finally:
            self.model.write_bytes(self.whole)
        equal = np.array_equal(other.score_samples(self.X), self.scores)
        return not equal or other.offset_ != self.detector.offset_

    def flipped_entry(self, rng):
        self.entry.write_bytes(flipped(self.entry_whole, rng))
        found = self.store.get("a" * 40)
        self.entry.write_bytes(self.entry_whole)
        return found is not None and not np.array_equal(found, self.values)

    # -- hostile files ----------------------------------------------------------------

    def hostile_model(self, rng):
        path = self.folder / "hostile.skd"
        joblib.dump(Bomb(self.marker), path)
        return self._runs(lambda: load(path))

    def hostile_entry(self, rng):
        self.entry.write_bytes(pickle.dumps(Bomb(self.marker)))
        try:
            return self._runs(lambda: self.store.get("a" * 40))
        finally:
            self.entry.write_bytes(self.entry_whole)

    def hostile_weights(self, rng):
        path = self.folder / "weights.pth"
        path.write_bytes(pickle.dumps({"a": Bomb(self.marker)}))
        features = DinoFeatures(**{**TINY, "weights": path})
        return self._runs(features.fit)

    def _runs(self, call):
        with suppress(Exception):
            call()
        executed = self.marker.exists()
        self.marker.unlink(missing_ok=True)
        return executed

    # -- kills ------------------------------------------------------------------------

    def killed_save(self, rng):
        path = self.folder / "s.skd"
        killed(lambda i: save(self.detector, path), rng)
        same = np.array_equal(load(path).score_samples(self.X), self.scores)
        return not same

    def killed_dump(self, rng):
        path = self.folder / "d.joblib"
        killed(lambda i: dump(self.detector, path), rng)
        return not np.array_equal(joblib.load(path).score_samples(self.X), self.scores)

    def killed_entry(self, rng):
        killed(lambda i: self.store.put(KEYS[i], self.values + i), rng)
        return self._wrong(self.store)

    def killed_room(self, rng):
        folder, limit = tempfile.mkdtemp(dir=self.folder), 20 * len(self.entry_whole)
        store = _store.open_store(folder, limit)
        store.put(KEYS[0], self.values)
        foreign = store.folder / "00" / "notes.npy"
        foreign.write_text("mine")
        killed(lambda i: store.put(KEYS[i], self.values + i), rng)
        store.put(KEYS[0], self.values)  # the next process goes on
        size = sum(path.stat().st_size for path in foreign.parent.iterdir())
        return size > limit or not foreign.exists() or self._wrong(store)

    def _wrong(self, store):
        """Return whether a key gives other values than were kept."""
        found = {i: store.get(key) for i, key in enumerate(KEYS)}
        kept = {i: x for i, x in found.items() if x is not None}
        return not all(np.array_equal(x, self.values + i) for i, x in kept.items())

    def killed_csv(self, rng):
        """Resumed after the kill, each image has one row."""
        path, paths = self.folder / "rows.csv", [f"{i}.png" for i in range(3000)]
        path.unlink(missing_ok=True)
        kinds = {"resume": True, "watch": None, "csv": path}
        killed(lambda i: write_rows(kinds, paths), rng, times=1)
        write_rows(kinds, paths)
        with path.open(newline="") as file:
            return [row["path"] for row in csv.DictReader(file)] != paths

    def killed_report(self, rng):
        path = self.folder / "r.html"
        report = ScoringReport(threshold=-1.0, map_limits=(0, 1))
        for i, image in enumerate(self.X):
            row = {"path": f"{i}.png", "score": -1.0 - i, "error": ""}
            report.add(row, image, np.zeros(image.shape[:2]))
        killed(lambda i: report.write(path), rng)
        return not path.read_text().rstrip().endswith("</html>")

    # -- network ----------------------------------------------------------------------

    def connected(self, rng):
        with ExitStack() as stack:
            doors = [
                stack.enter_context(mock.patch.object(place, name, side_effect=OSError))
                for place, name in DOORS
            ]
            stack.enter_context(redirect_stdout(io.StringIO()))
            detector = AnomalyDINO(features=DinoFeatures(cache=False)).fit(self.X[:3])
            model, path = save(detector, self.folder / "c.skd"), self.folder / "c.png"
            load(model).score_samples(self.X)
            Image.fromarray(self.X[0]).save(path)
            status = skdinoad(["score", str(model), str(path)])
        return status != 0 or any(door.called for door in doors)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def flipped(content, rng):
    out = bytearray(content)
    out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def killed(write, rng, times=10_000):
    """Let a process write again and again, once whole at least, and kill it."""
    write(0) if times > 1 else None
    child = os.fork()
    if child == 0:
        for i in range(times):
            write(i)
        os._exit(0)
    time.sleep(rng.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def write_rows(kinds, paths):
    """Write a row for each path that has none, as the command line does."""
    done = {row["path"] for row in _scored_before(Bunch(**kinds), COLUMNS)}
    with _Csv(kinds["csv"], COLUMNS, append=True) as sink:
        for path in paths:
            if path not in done:
                sink.add({"path": path, "verdict": "good", "score": -1.0}, None, None)


if __name__ == "__main__":
    main()
