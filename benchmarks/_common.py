"""What all benchmarks share: categories, environment, tables."""

import argparse
import platform
from pathlib import Path

import sklearn
import torch
from sklearn.metrics import roc_auc_score

from skdinoad import DinoFeatures, __version__
from skdinoad._timm import timm
from skdinoad.datasets import load_folder


def parser(description, *, root=True):
    """Return an argument parser; ``root`` asks for a data folder."""
    out = argparse.ArgumentParser(description=description)
    if root:
        out.add_argument("root", type=Path, help="folder with MVTec-style categories")
        out.add_argument("--categories", nargs="*", help="only these folder names")
    return out


def categories(root, names=None):
    """Yield (name, data) for each folder below root that holds train/good."""
    for good in sorted(Path(root).rglob("train/good")):
        folder = good.parent.parent
        if not names or folder.name in names:
            yield folder.name, load_folder(folder)


def environment(weights=True):
    """Return one line that says where figures were measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    text = (
        f"{device}, {torch.get_num_threads()} threads; skdinoad {__version__}, torch "
        f"{torch.__version__}, timm {timm.__version__}, scikit-learn "
        f"{sklearn.__version__}"
    )
    if weights:
        features = DinoFeatures().fit()
        digest = features.weights_digest_[:12]
        text += f"; weights: {features.weights_name_}, sha256 {digest}..."
    return text


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if "model name" in x)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def image_auroc(y, scores):
    """AUROC of the images; scores are higher = more normal, y +1 normal."""
    return roc_auc_score(y, scores)


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
