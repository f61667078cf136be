"""``score``: score any number of images in small batches."""

import csv
import io
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tqdm.auto import tqdm

from skdinoad import iter_results
from skdinoad._inputs.files import unique_names
from skdinoad._inputs.images import as_shown
from skdinoad.cli._paths import check_folders, images_of, load_model
from skdinoad.datasets._listing import list_images
from skdinoad.features._store import clear_memory
from skdinoad.persistence._dump import replacing
from skdinoad.pipeline import final_detector
from skdinoad.verdicts import DecisionRule, described, threshold_of

__all__ = ["score"]

#: Number of images in memory at a time.
_CHUNK = 16

#: Polling interval of a watched folder in seconds. A file is complete when its size no
#: longer changes.
_LOOK = 0.5

_REVIEW = "review_threshold"
_COLUMNS = ["path", "verdict", "score", "threshold", _REVIEW, "p_value", "error"]


def score(options) -> int:
    """Score images, write the requested outputs and print a line for each image."""
    if not options.paths and options.watch is None:
        raise ValueError("no image given: pass files, folders, patterns or --watch.")
    _check_resume(options)
    check_folders(options.csv, options.regions, options.report)
    model = load_model(options.model)
    threshold_of(model)  # raises an error if there is none
    rule = DecisionRule.of(model)
    columns = _columns(rule)
    before = _scored_before(options, columns)
    _check_threshold(options, rule, before)
    done = {row["path"] for row in before}
    paths = [path for path in images_of(options.paths) if path not in done]
    with ExitStack() as stack:
        made = _sinks(options, model, rule, before, columns)
        sinks = [stack.enter_context(sink) for sink in made]
        counts = Counter()
        for row in before if options.resume else ():  # part of the same run
            counts[row["verdict"]] += 1
        for path, result in _scored(model, _chunks(paths, options, done), options):
            if result.error and options.strict:
                raise ValueError(_told(result.error))
            counts[result.verdict] += 1
            row, image = _row(path, result, rule), None
            if (options.maps or options.report) and not result.error:
                (image,) = as_shown([path])
            for sink in sinks:
                sink.add(row, result, image)
    return _status(counts, options.gate)


def _status(counts, gate):
    """Print a summary of problems and return the exit status."""
    if counts["review"]:
        print(f"{counts['review']} images need review.", file=sys.stderr)
    if counts["broken"]:
        print(f"{counts['broken']} images could not be scored.", file=sys.stderr)
    if counts["broken"] and (gate or counts.total() == counts["broken"]):
        return 2
    if gate and counts["defect"]:
        return 1
    return 3 if gate and counts["review"] else 0


def _scored(model, chunks, options):
    """Yield (path, result) of each path; broken images give a result with an error."""
    regions = bool(options.regions or options.report)
    how = {"maps": bool(options.maps or regions), "regions": regions}
    for paths in chunks:
        yield from zip(paths, iter_results(model, paths, errors="keep", **how))
        clear_memory()  # no image is scored twice


def _row(path, result, rule):
    """Return the row of an image for the CSV file and ``--json``."""
    row = dict.fromkeys(_columns(rule))
    row |= {"path": path, "verdict": result.verdict, "error": ""}
    if result.error:
        return {**row, "error": _told(result.error)}
    row |= {"score": float(result.score), "threshold": rule.threshold}
    if _REVIEW in row:
        row[_REVIEW] = rule.review_threshold
    return {**row, "p_value": result.p_value}


def _told(error):
    """Return the message of an error as one line."""
    return " ".join(str(error).split())


def _check_resume(options):
    if options.resume and not options.csv:
        raise ValueError("--resume continues a CSV file: pass --csv.")
    if options.resume and (options.regions or options.report):
        raise ValueError(
            "--regions and --report cannot be combined with --resume, which scores "
            "only the remaining images."
        )


def _check_threshold(options, rule, before):
    """Raise an error if the CSV file has verdicts of another model or threshold."""
    known = ("threshold", rule.threshold), (_REVIEW, rule.review_threshold)
    for name, own in known:
        found = {row[name] for row in before if row.get(name)}
        others = sorted(x for x in found if float(x) != own)
        if others:
            raise ValueError(
                f"{options.csv} holds rows with the {name.replace('_', ' ')} "
                f"{others[0]}, but that of {options.model} is {own}: it is another "
                "model or was tuned since. Pass another --csv."
            )


def _columns(rule):
    """Return the columns of the CSV file; the review threshold is optional."""
    reviews = rule.review_threshold is not None
    return [name for name in _COLUMNS if name != _REVIEW or reviews]


def _scored_before(options, columns):
    """Return the rows of the CSV file to append to.

    An incomplete last line, left by a killed run, is dropped, and its image is scored
    again.
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
    """Raise an error if the file to append to has other columns."""
    found, _, _ = text.partition(b"\n")
    if text and found.rstrip(b"\r") != ",".join(columns).encode():
        raise ValueError(
            f"{path} has the columns {found[:200].decode(errors='replace')!r}, "
            f"expected {','.join(columns)!r}: it is another file, or of another model, "
            "or the model was tuned since. Pass another --csv."
        )


def _chunks(paths, options, done):
    """Yield lists of paths, with ``--watch`` also those of new files."""
    starts = range(0, len(paths), _CHUNK)
    for start in tqdm(starts, "score", unit="batch", disable=len(starts) < 2):
        yield paths[start : start + _CHUNK]
    if options.watch is not None:
        yield from _arriving(options.watch, done.union(paths), options.idle)


def _arriving(folder, known, idle):
    """Yield lists of new, complete files in a folder."""
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


def _sinks(options, model, rule, before, columns):
    """Yield the requested outputs, context managers with a method ``add``."""
    yield _Printed(options.json)
    if options.csv:
        append = options.resume or options.watch is not None
        yield _Csv(options.csv, columns, append=append)
    if options.maps:
        yield _Pictures(options.maps, final_detector(model).map_limits_, before)
    if options.regions:
        yield _Regions(options.regions)
    if options.report:
        yield _Page(options.report, model, rule)


class _Sink:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class _Printed(_Sink):
    def __init__(self, as_json):
        self.as_json = as_json

    def add(self, row, result, image):
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

    def add(self, row, result, image):
        self.writer.writerow(row)
        self.file.flush()

    def __exit__(self, *error):
        self.file.close()


class _Pictures(_Sink):
    def __init__(self, folder, limits, before):
        self.folder, self.limits, self.names = folder, limits, set()
        shown = [row for row in before if row["verdict"] != "broken"]
        unique_names([Path(row["path"]).stem for row in shown], self.names)

    def add(self, row, result, image):
        from skdinoad.plotting import save_maps  # matplotlib, only if asked for

        if result.heat is not None:
            names = unique_names([Path(row["path"]).stem], self.names)
            how = {"limits": self.limits, "names": names}
            save_maps(self.folder, [image], [result.heat], **how)


class _Regions(_Sink):
    def __init__(self, path):
        self.path, self.found = path, {}

    def add(self, row, result, image):
        if result.regions is not None:
            regions = [region.as_dict() for region in result.regions]
            self.found[row["path"]] = regions

    def __exit__(self, kind, *error):
        if kind is None:
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(self.found, indent=1) + "\n")


class _Page(_Sink):
    def __init__(self, path, model, rule):
        from skdinoad.report import ScoringReport  # matplotlib, only if asked for

        self.path = path
        self.report = ScoringReport(
            threshold=rule.threshold,
            review_threshold=rule.review_threshold,
            held_out=rule.held_out_scores,
            map_limits=final_detector(model).map_limits_,
            settings=described(model),
        )

    def add(self, row, result, image):
        self.report.add(row, image, result.heat, result.regions or ())

    def __exit__(self, kind, *error):
        if kind is None:
            self.report.write(self.path)
