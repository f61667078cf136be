"""Helpers for all benchmarks: categories, environment, tables."""

import argparse
import csv
import platform
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import sklearn
import torch

from skdinoad import DinoFeatures, __version__, metrics
from skdinoad._compat.timm import timm
from skdinoad.datasets import load_folder


def parser(description, *, root=True):
    """Return an argument parser; ``root`` adds an argument for the data folder."""
    out = argparse.ArgumentParser(description=description)
    if root:
        out.add_argument("root", type=Path, help="folder with MVTec-style categories")
        out.add_argument("--categories", nargs="*", help="only these folder names")
    return out


def table_parser(description, name):
    """Return a parser for benchmarks that append rows to ``results/name``."""
    out = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--root", help="folder with MVTec-style categories")
    out.add_argument("--categories", nargs="*", help="only these folder names")
    results = Path(__file__).parent / "results" / name
    out.add_argument("--results", type=Path, default=results, help="the CSV file")
    out.add_argument("--tables", action="store_true", help="only print the tables")
    return out


def categories(root, names=None):
    """Yield (name, data) for each folder below root that holds train/good."""
    folders = [good.parent.parent for good in sorted(Path(root).rglob("train/good"))]
    alone = [folder.name for folder in folders]
    named = {
        f.name if alone.count(f.name) == 1 else f.relative_to(root).as_posix(): f
        for f in folders
    }
    missing = [name for name in names or () if name not in named]
    if missing or not named:
        sys.exit(f"No category {missing or ''} below {root}; there are {[*named]}.")
    for name in names or named:
        yield name, load_folder(named[name])


def environment(weights=True):
    """Return one line that describes where figures were measured."""
    text = (
        f"{processor()}, {torch.get_num_threads()} threads; skdinoad {__version__}, "
        f"torch {torch.__version__}, timm {timm.__version__}, scikit-learn "
        f"{sklearn.__version__}"
    )
    if weights:
        features = DinoFeatures().fit()
        digest = features.weights_digest_[:12]
        text += f"; weights: {features.weights_name_}, sha256 {digest}..."
    return text


def processor():
    """Return the name of the GPU, or of the CPU if there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if "model name" in x)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def busy(n):
    """Keep n cores busy with one process each."""
    with ExitStack() as stack:
        for _ in range(n):
            command = [sys.executable, "-c", "while True: pass"]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        yield


def commit():
    """Return the current commit, followed by "+" if files have changed."""
    changes = git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
    return git("rev-parse", "--short", "HEAD") + ("+" if changes else "")


def git(*arguments):
    command = ["git", "-C", Path(__file__).parent.parent, *arguments]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return out.stdout.strip()


def image_figures(y, scores):
    """Return image AUROC, AP and F1-max; scores are higher = more normal."""
    return [
        metrics.image_auroc_score(y, scores),
        metrics.image_ap_score(y, scores),
        metrics.f1_max_score(y, scores),
    ]


def known_masks(data):
    """Return {row: mask} of the test images that are good or have a mask.

    Empty if no image has a mask, because then no pixel metric can be computed.
    """
    if not data.masks.known[data.y == -1].any():
        return {}
    return {i: data.masks[i] for i in np.flatnonzero(data.masks.known)}


def read_rows(path):
    """Return the rows of a CSV file without its header, [] if there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [list(row.values()) for row in csv.DictReader(file)]


def append_rows(path, header, rows):
    """Append rows to a CSV file; write the header first if the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header] * new + rows)


def show(value):
    """Format a table cell."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3f}"


def print_table(header, rows):
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(show(cell) for cell in row) + " |", flush=True)
