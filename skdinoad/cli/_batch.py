"""``score``: any number of images, a few at a time."""

import csv
import io
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from skdinoad import find_regions, predict_map
from skdinoad._inputs.files import told_apart
from skdinoad._inputs.images import as_shown
from skdinoad.cli._paths import check_folders, images_of, load_model
from skdinoad.datasets._listing import list_images
from skdinoad.features._store import clear_memory
from skdinoad.persistence._dump import replacing
from skdinoad.verdicts import Judge, as_json, described, rescued

__all__ = ["score"]

#: Images scored at a time: memory holds no more of them.
_CHUNK = 16

#: Seconds between two looks at a watched folder. A file counts once its size stays.
_LOOK = 0.5

_REVIEW = "review_threshold"
_COLUMNS = ["path", "verdict", "score", "threshold", _REVIEW, "p_value", "error"]


def score(options) -> int:
    """Score images, write what was asked for, and print a line for each."""
    if not options.paths and options.watch is None:
        raise ValueError("no image given: pass files, folders, patterns or --watch.")
    _check_resume(options)
    check_folders(options.csv, options.regions, options.report)
    judge = Judge.of(load_model(options.model))
    wants_maps = options.maps or options.regions or options.report
    columns = _columns(judge)
    before = _scored_before(options, columns)
    _check_threshold(options, judge, before)
    done = {row["path"] for row in before}
    paths = [path for path in images_of(options.paths) if path not in done]
    with ExitStack() as stack:
        made = _sinks(options, judge, before, columns)
        sinks = [stack.enter_context(sink) for sink in made]
        counts = Counter()
        for row in before if options.resume else ():  # part of the same run
            counts[row["verdict"]] += 1
        for row, image, heat in _rows(judge, _chunks(paths, options, done), wants_maps):
            if row["error"] and options.strict:
                raise ValueError(row["error"])
            counts[row["verdict"]] += 1
            for sink in sinks:
                sink.add(row, image, heat)
    return _status(counts, options.gate)


def _status(counts, gate):
    """Say what a reader must not miss, and return the exit status."""
    if counts["look"]:
        print(f"{counts['look']} images are to be looked at.", file=sys.stderr)
    if counts["broken"]:
        print(f"{counts['broken']} images could not be scored.", file=sys.stderr)
    if counts["broken"] and (gate or counts.total() == counts["broken"]):
        return 2
    if gate and counts["defect"]:
        return 1
    return 3 if gate and counts["look"] else 0


def _rows(judge, chunks, wants_maps):
    """Yield (row, image, heat) of each path; a broken image is a row with a reason."""
    for paths in chunks:
        work = partial(_scored, judge.model, wants_maps=wants_maps)
        for path, found, error in rescued(work, paths):
            if found is None:
                yield _broken(path, error, judge), None, None
            else:
                value, image, heat = found
                yield judge.row(path, value), image, heat
        clear_memory()  # score and map share features; no image comes twice


def _scored(model, paths, wants_maps):
    """Return (score, image, map) of each path."""
    scores, nothing = model.score_samples(paths), [None] * len(paths)
    maps = predict_map(model, paths) if wants_maps else nothing
    images = as_shown(paths) if wants_maps else nothing
    return [*zip(scores, images, maps)]


def _broken(path, error, judge):
    row = dict.fromkeys(_columns(judge))
    return {**row, "path": path, "verdict": "broken", "error": error}


def _check_resume(options):
    if options.resume and not options.csv:
        raise ValueError("--resume goes on with a CSV file: pass --csv.")
    if options.resume and (options.regions or options.report):
        raise ValueError(
            "--regions and --report hold one whole run, and --resume scores only what "
            "is left: leave one of them out."
        )


def _check_threshold(options, judge, before):
    """Refuse to mix the verdicts of two models, or of two thresholds, in one file."""
    for name, own in (("threshold", judge.threshold), (_REVIEW, judge.review)):
        found = {row[name] for row in before if row.get(name)}
        others = sorted(x for x in found if float(x) != own)
        if others:
            raise ValueError(
                f"{options.csv} holds rows with the {name.replace('_', ' ')} "
                f"{others[0]}, and that of {options.model} is {own}: another model, or "
                "tuned since. Pass another --csv."
            )


def _columns(judge):
    """Return the columns of a CSV file; a model that reviews has one more."""
    return [name for name in _COLUMNS if name != _REVIEW or judge.review is not None]


def _scored_before(options, columns):
    """Return the rows of the CSV file to append to.

    A row that a kill has cut off is dropped, and its image scored again.
    """
    appends = options.csv and (options.resume or options.watch is not None)
    if not appends or not options.csv.exists():
        return []
    text = options.csv.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    _check_header(options.csv, whole, columns)
    if whole != text:
        with replacing(options.csv) as temporary:
            temporary.write_bytes(whole)
    return list(csv.DictReader(io.StringIO(whole.decode("utf-8"), newline="")))


def _check_header(path, text, columns):
    """Refuse to append to a file that holds something else."""
    found, _, _ = text.partition(b"\n")
    if text and found.rstrip(b"\r") != ",".join(columns).encode():
        raise ValueError(
            f"{path} has the columns {found[:200].decode(errors='replace')!r}, "
            f"expected {','.join(columns)!r}: another file, another model, or tuned "
            "since. Pass another --csv."
        )


def _chunks(paths, options, done):
    """Yield lists of paths; with ``--watch`` those that arrive, too."""
    starts = range(0, len(paths), _CHUNK)
    for start in tqdm(starts, "score", unit="batch", disable=len(starts) < 2):
        yield paths[start : start + _CHUNK]
    if options.watch is not None:
        yield from _arriving(options.watch, done.union(paths), options.idle)


def _arriving(folder, known, idle):
    """Yield lists of files that are new in a folder and no longer grow."""
    sizes, last = {}, time.monotonic()
    while idle is None or time.monotonic() - last < idle:
        there = [str(folder / path) for path in list_images(folder)]
        new = {path: Path(path).stat().st_size for path in there if path not in known}
        ready = [path for path, size in new.items() if size and sizes.get(path) == size]
        sizes = new
        for start in range(0, len(ready), _CHUNK):
            known.update(ready[start : start + _CHUNK])
            yield ready[start : start + _CHUNK]
            last = time.monotonic()
        time.sleep(_LOOK)


# -- what becomes of rows -------------------------------------------------------------


def _sinks(options, judge, before, columns):
    """Yield what was asked for: each has ``add`` and is a context manager."""
    yield _Printed(options.json)
    if options.csv:
        append = options.resume or options.watch is not None
        yield _Csv(options.csv, columns, append=append)
    if options.maps:
        yield _Pictures(options.maps, judge.limits, before)
    if options.regions:
        yield _Regions(options.regions, judge.pixel_threshold)
    if options.report:
        yield _Page(options.report, judge)


class _Sink:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class _Printed(_Sink):
    def __init__(self, as_json):
        self.as_json = as_json

    def add(self, row, image, heat):
        if self.as_json:
            print(json.dumps(row), flush=True)
        elif row["error"]:
            print(f"broken  {'-':>10}  {row['path']}: {row['error']}", flush=True)
        else:
            print(f"{row['verdict']:7} {row['score']:10.4g}  {row['path']}", flush=True)


class _Csv(_Sink):
    def __init__(self, path, columns, *, append):
        self.new = not (append and path.exists() and path.stat().st_size)
        self.path, self.mode = path, "w" if self.new else "a"
        self.columns = columns

    def __enter__(self):
        self.file = self.path.open(self.mode, newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, self.columns, lineterminator="\n")
        if self.new:
            self.writer.writeheader()
        return self

    def add(self, row, image, heat):
        self.writer.writerow(row)
        self.file.flush()

    def __exit__(self, *error):
        self.file.close()


class _Pictures(_Sink):
    def __init__(self, folder, limits, before):
        self.folder, self.limits, self.names = folder, limits, set()
        shown = [row for row in before if row["verdict"] != "broken"]
        told_apart([Path(row["path"]).stem for row in shown], self.names)

    def add(self, row, image, heat):
        from skdinoad.plotting import save_maps  # matplotlib, only if asked for

        if heat is not None:
            names = told_apart([Path(row["path"]).stem], self.names)
            save_maps(self.folder, [image], [heat], limits=self.limits, names=names)


class _Regions(_Sink):
    def __init__(self, path, threshold):
        self.path, self.threshold, self.found = path, threshold, {}

    def add(self, row, image, heat):
        if heat is not None:
            regions = find_regions(heat, self.threshold)
            self.found[row["path"]] = [as_json(region) for region in regions]

    def __exit__(self, kind, *error):
        if kind is None:
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(self.found, indent=1) + "\n")


class _Page(_Sink):
    def __init__(self, path, judge):
        from skdinoad.report import ScoringReport  # matplotlib, only if asked for

        self.path, self.judge = path, judge
        self.report = ScoringReport(
            threshold=judge.threshold,
            review_threshold=judge.review,
            held_out=judge.held,
            map_limits=judge.limits,
            settings=described(judge.model),
        )

    def add(self, row, image, heat):
        regions = [] if heat is None else find_regions(heat, self.judge.pixel_threshold)
        self.report.add(row, image, heat, regions)

    def __exit__(self, kind, *error):
        if kind is None:
            self.report.write(self.path)
