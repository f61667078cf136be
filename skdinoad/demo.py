"""A demonstration on real photographs and rendered parts, or on your own images.

python -m skdinoad.demo                 # writes demo_output/
python -m skdinoad.demo path/to/category   # a folder in MVTec AD's layout

The photographs come with scikit-image (pip install scikit-image). Without it only the
rendered parts are shown.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.utils import Bunch

from skdinoad import (
    DinoFeatures,
    DinoPatch,
    LocalBank,
    PCAAligner,
    Pipeline,
    dump,
    iter_results,
)
from skdinoad._inputs.images import as_shown
from skdinoad.datasets import (
    SCREW_DEFECTS,
    load_folder,
    make_screws,
    plant_defect,
)
from skdinoad.metrics import aupro_score
from skdinoad.plotting import overlay_map

#: Side of the texture crops and of the network's input in pixels.
_CROP, _VIEW = 128, 224


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m skdinoad.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", help="category folder in MVTec layout")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    options = parser.parse_args(arguments)
    print(f"Weights: {DinoFeatures().fit().weights_name_}\n")
    jobs = [*_jobs(options.folder)]
    print(_HEADER)
    for name, data, pipe in jobs:
        report(name, data, pipe, options.output / name)
    print(f"\nHeat maps and saved models: {options.output.resolve()}")


def _jobs(folder):
    """Yield (name, data, unfitted pipeline) of each part of the demonstration."""
    if folder:
        data = load_folder(folder)
        yield Path(folder).resolve().name, data, Pipeline([PCAAligner(), DinoPatch()])
        return
    for texture in _textures():
        # In textures, position does not matter: compare each place with all others.
        features = DinoFeatures(image_size=_VIEW)
        bank = LocalBank(neighborhood=_VIEW // 14)
        detector = DinoPatch(features=features, bank=bank)
        yield texture, texture_crops(texture), Pipeline([detector])
    pipe = Pipeline([PCAAligner(placement="ends"), DinoPatch()])
    yield "screws-rendered", screws(), pipe


# -- data ---------------------------------------------------------------------------


def _textures():
    """Return the names of the photographs; without scikit-image print a note."""
    names = ("brick", "gravel", "grass")
    try:
        from skimage import data  # noqa: F401
    except ImportError as error:
        print(f"note: {', '.join(names)} need scikit-image and are skipped ({error}).")
        print("      To include them: pip install scikit-image\n")
        return ()
    return names


def texture_crops(name):
    """Return tiles of a photograph, with defects planted in test tiles.

    Tiles do not overlap, so that the memory bank holds no part of a held-out tile.
    """
    from skimage import data

    photo = np.stack([getattr(data, name)()] * 3, axis=-1)
    corners = range(0, 512, _CROP)
    tiles = [photo[y : y + _CROP, x : x + _CROP] for y in corners for x in corners]
    # A fixed random split, so that lighting varies equally in both parts.
    order = np.random.default_rng(0).permutation(len(tiles))
    train, good = ([tiles[i] for i in part] for part in (order[:11], order[11:]))
    pairs = [
        plant_defect(tile, kind=kind, size=0.3, random_state=i)
        for i, tile in enumerate(good)
        for kind in ("blob", "scratch")
    ]
    bad, masks = zip(*pairs)
    return _bunch(train, good, bad, masks)


def screws():
    """Return rendered screws with washers, in any pose."""
    train, _ = make_screws(12, random_state=0)
    good, _ = make_screws(8, random_state=1)
    pairs = [
        make_screws(3, defect=defect, random_state=2 + i)
        for i, defect in enumerate(SCREW_DEFECTS)
    ]
    bad, masks = (np.concatenate(part) for part in zip(*pairs))
    return _bunch(train, good, bad, masks)


def _bunch(train, good, bad, masks):
    empty = [np.zeros(image.shape[:2], bool) for image in good]
    return Bunch(
        train=np.stack(train),
        test=np.stack([*good, *bad]),
        y=np.array([1] * len(good) + [-1] * len(bad)),
        masks=[*empty, *masks],
    )


# -- fit, score, show ---------------------------------------------------------------

_HEADER = (
    f"{'':18}{'normals':>8}{'tested':>8}{'image AUROC':>13}{'AUPRO':>8}"
    f"{'false alarms':>14}{'missed':>8}{'seconds':>9}"
)


def report(name, data, pipe, folder):
    """Fit on the normal images, score the test images, print and save the results."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe.fit(data.train)
    results = list(iter_results(pipe, data.test))
    decision = np.array([result.decision for result in results])
    maps = [result.heat for result in results]
    seconds = time.perf_counter() - start
    alarms, missed = (decision < 0)[data.y == 1], (decision >= 0)[data.y == -1]
    both = len(set(data.y)) == 2
    image = f"{roc_auc_score(data.y, decision):.3f}" if both else "-"
    aupro = aupro_of(data, maps)
    aupro = "-" if aupro is None else f"{aupro:.3f}"
    print(
        f"{name:18}{len(data.train):8}{len(data.test):8}{image:>13}"
        f"{aupro:>8}{alarms.sum():>8} of {alarms.size:<3}"
        f"{missed.sum():>4} of {missed.size:<3}{seconds:7.1f}",
        flush=True,
    )
    for warning in caught:
        print(f"    note: {warning.message}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_overlays(folder, data, maps, decision, pipe[-1].map_limits_)
    dump(pipe, folder / "model.joblib")


def aupro_of(data, maps):
    """Return the AUPRO over all images with known masks; None if all are empty."""
    known = np.flatnonzero(getattr(data.masks, "known", np.ones(len(maps), bool)))
    masks = [data.masks[i] for i in known]
    if not any(mask.any() for mask in masks):
        return None
    return aupro_score(masks, [maps[i] for i in known])


def _write_overlays(folder, data, maps, decision, limits):
    """Save each test image beside its heat map, and an overview of a few of them."""
    import cv2

    pairs = []
    for i, (image, heat) in enumerate(zip(as_shown(data.test), maps)):
        image = image[..., :3]
        pair = np.hstack([image, overlay_map(image, heat, limits=limits)])
        truth = "good" if data.y[i] == 1 else "bad"
        verdict = "ok" if decision[i] >= 0 else "ALARM"
        path = folder / f"{i:03d}_{truth}_{verdict}.png"
        cv2.imwrite(str(path), pair[..., ::-1])
        pairs.append(pair)
    _write_sheet(folder / "sheet.png", pairs, data.y, decision)


def _write_sheet(path, pairs, y, decision):
    """Save an overview of two good and up to six bad images with their verdicts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bad = np.flatnonzero(y == -1)
    shown = [*np.flatnonzero(y == 1)[:2]]
    shown += list(bad[np.linspace(0, len(bad) - 1, min(6, len(bad))).astype(int)])
    figure = Figure(figsize=(16, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, i in zip(figure.subplots(2, 4).flat, shown):
        axes.imshow(pairs[i])
        truth = "good" if y[i] == 1 else "defect"
        verdict = "normal" if decision[i] >= 0 else "anomalous"
        color = "black" if (y[i] == 1) == (decision[i] >= 0) else "red"
        axes.set_title(f"{truth}: {verdict} ({decision[i]:+.2f})", color=color)
    for axes in figure.axes:
        axes.axis("off")
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    main()
