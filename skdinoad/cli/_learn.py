"""``fit``, ``tune`` and ``compare``."""

import json
import sys
import time

import numpy as np
from sklearn.metrics import precision_recall_curve

import skdinoad
from skdinoad import (
    AffineAligner,
    PCAAligner,
    Pipeline,
    RegionMask,
    ThresholdTunerCV,
    save,
    suggest,
)
from skdinoad._arrays.thresholds import conformal_rank, normals_needed
from skdinoad._inputs.copies import content
from skdinoad._inputs.images import as_images
from skdinoad.cli import METHODS
from skdinoad.cli._paths import check_folders, good_images, load_model
from skdinoad.pipeline import _flatten, decider
from skdinoad.verdicts import threshold_of

__all__ = ["compare", "fit", "tune"]


def fit(options) -> int:
    """Learn from good images and save the model."""
    check_folders(options.output)
    paths = good_images(options.folder)
    start = time.perf_counter()
    model = _estimator(options).fit(paths)
    threshold = _threshold(model)  # a model that judges nothing is not saved
    save(model, options.output)
    said = {
        "model": str(options.output),
        "method": METHODS[options.method],
        "good_images": len(paths),
        "threshold": threshold,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if options.json:
        print(json.dumps(said))
    else:
        print(
            f"Learned from {len(paths)} good images in {said['seconds']} s "
            f"({said['method']}); images that score below {said['threshold']:.4g} are "
            f"flagged. Saved: {options.output}"
        )
    return 0


def _threshold(model):
    try:
        return threshold_of(model)
    except ValueError as error:
        raise ValueError(
            "no threshold, since no good image could be held out, and so no model is "
            "saved: learn from two good images or more (exact copies count as one). "
            "From a single one learn in Python: fit, set offset_, save."
        ) from error


def _estimator(options):
    detector = getattr(skdinoad, METHODS[options.method])()
    steps = [] if options.roi is None else [RegionMask(str(options.roi))]
    size = {} if options.size is None else {"output_size": options.size}
    if options.align == "pca":
        steps.append(PCAAligner(**size))
    elif options.align == "affine":
        steps.append(AffineAligner(**size))
    elif options.size is not None:
        detector.set_params(features__image_size=options.size)
    model = Pipeline([*steps, detector]) if steps else detector
    if options.target_fpr is None:
        return model
    return ThresholdTunerCV(model, target_fpr=options.target_fpr)


def tune(options) -> int:
    """Choose a threshold from new good images, or from good and defective ones."""
    if options.bad is not None and options.target_fpr is not None:
        raise ValueError(
            "--bad chooses the best F1 between good and defective images, --target-fpr "
            "a rate of false alarms: leave one of the two out."
        )
    output = options.output or options.model
    check_folders(output)
    model, paths = load_model(options.model), good_images(options.good)
    _warn_of_learned(model, paths)
    good, text = model.score_samples(paths), ""
    if options.bad is None:
        threshold = _by_rate(good, options.target_fpr or 0.05)
    else:
        bad = model.score_samples(good_images(options.bad))
        threshold = _by_f1(good, bad)
        text = f" and {(bad < threshold).sum()} of {len(bad)} defective ones"
    decider(model).offset_ = threshold
    save(model, output)
    print(
        f"Threshold: {threshold:.4g}; {(good < threshold).sum()} of these {len(good)} "
        f"good images{text} score below. Saved: {output}"
    )
    return 0


def _warn_of_learned(model, paths):
    """Say which images the model knows already: it finds them better than any other."""
    *before, detector = _flatten(model)
    known, learned = set(getattr(detector, "_contents", ())), 0
    for path in paths:
        X = [path]
        for step in before:
            X = step.transform(X)
        learned += content(as_images(X), 0) in known
    if learned:
        print(
            f"skdinoad tune: the model learned from {learned} of these {len(paths)} "
            "good images. It scores them higher than any other, so that this threshold "
            "is too high: pass good images that it has not seen.",
            file=sys.stderr,
        )


def _by_rate(good, rate):
    """Return the score below which a new good image falls with a probability."""
    rank = conformal_rank(len(good), rate)
    if rank < 1:
        raise ValueError(
            f"--target-fpr {rate} needs {normals_needed(rate)} good images, got "
            f"{len(good)}. Pass more, or a larger rate."
        )
    return float(np.sort(good)[rank - 1])


def _by_f1(good, bad):
    """Return the threshold with the best F1 of defects, between two scores."""
    scores = np.concatenate([good, bad])
    truth = np.repeat([False, True], [len(good), len(bad)])
    precision, recall, levels = precision_recall_curve(truth, -scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    worst = -levels[np.argmax(f1[:-1])]  # the most normal score that is flagged
    above = scores[scores > worst]
    if not len(above):  # all are flagged
        return float(np.nextafter(worst, np.inf))
    return float((worst + above.min()) / 2)


def compare(options) -> int:
    """Compare methods on held-out good images, half of them with planted defects."""
    paths, rows = good_images(options.folder), []
    if not options.json:
        print(f"{'method':12}{'image AUROC':>12}{'AUPRO':>8}{'seconds':>9}")
    for method in options.methods:
        detector = getattr(skdinoad, METHODS[method])()
        start = time.perf_counter()
        found = suggest(paths, detector, {}, size=options.defect_size).cv_results_
        rows.append(
            {
                "method": method,
                "image_auroc": round(float(found["mean_test_image_auroc"][0]), 4),
                "aupro": round(float(found["mean_test_aupro"][0]), 4),
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
        if not options.json:
            print("{method:12}{image_auroc:12}{aupro:8}{seconds:9}".format(**rows[-1]))
    if options.json:
        print(json.dumps(rows))
    return 0
