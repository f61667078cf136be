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
from skdinoad.pipeline import _flatten, threshold_owner
from skdinoad.verdicts import described, review_threshold_of, threshold_of

__all__ = ["compare", "fit", "tune"]

#: Default share of good images that ``tune`` allows to be flagged.
_FPR = 0.05


def fit(options) -> int:
    """Learn from good images and save the model."""
    if options.target_review_rate is not None and options.target_fpr is None:
        raise ValueError(
            "--target-review-rate includes rejected images: also pass --target-fpr, "
            "their rate."
        )
    check_folders(options.output, options.review)
    paths = good_images(options.folder)
    start = time.perf_counter()
    model = _estimator(options).fit(paths)
    threshold = _threshold(model)  # do not save a model without a threshold
    save(model, options.output)
    known = described(model)
    said = {
        "model": str(options.output),
        "method": METHODS[options.method],
        "good_images": len(paths),
        "threshold": threshold,
        "target_fpr": known.get("target_fpr"),
        "false_alarm_interval": known["false_alarm_interval"],
        "suspects": known["suspects"],
        "seconds": round(time.perf_counter() - start, 1),
    }
    if options.review is not None:
        from skdinoad.report import training_report  # matplotlib, only if asked for

        training_report(model, paths).write(options.review)
    if (review := review_threshold_of(model)) is not None:
        said["review_threshold"] = review
    if options.json:
        print(json.dumps(said))
    else:
        print(
            f"Learned from {len(paths)} good images in {said['seconds']} s "
            f"({said['method']}). Images that score below {said['threshold']:.4g} are "
            f"flagged{_reviewed(review)}. {_false_alarms(known)} Saved: "
            f"{options.output}"
        )
    return 0


def _false_alarms(known):
    """Return a sentence on the expected false alarms and their uncertainty."""
    low, high = known["false_alarm_interval"]
    wanted = known.get("target_fpr")
    aim = "" if wanted is None else f" The threshold aims at {wanted:.1%} false alarms."
    return (
        f"{known['held_out_flagged']} of {known['held_out_images']} held-out good "
        f"images would be flagged: the false alarm rate is between {low:.1%} and "
        f"{high:.1%} (90 % interval).{aim}"
    )


def _threshold(model):
    try:
        return threshold_of(model)
    except ValueError as error:
        raise ValueError(
            "no threshold, because no good image could be held out; the model was not "
            "saved. Pass at least two good images (exact copies count as one). To "
            "learn from a single image use Python: fit, set offset_, save."
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
    rates = {
        "target_fpr": options.target_fpr,
        "target_review_rate": options.target_review_rate,
    }
    return ThresholdTunerCV(model, **rates)


def _reviewed(review):
    return "" if review is None else f", below {review:.4g} to be reviewed"


def tune(options) -> int:
    """Choose a threshold from new good images, or from good and defective ones."""
    _check_targets(options)
    output = options.output or options.model
    check_folders(output)
    model, paths = load_model(options.model), good_images(options.good)
    _warn_of_learned(model, paths)
    good, bad = model.score_samples(paths), None
    if options.bad is not None:
        bad = model.score_samples(good_images(options.bad))
    threshold, review = _thresholds(options, good, bad)
    _set(threshold_owner(model), threshold, review)
    save(model, output)
    said = [f"Threshold: {threshold:.4g}; {_below(threshold, good, bad)}"]
    if review is not None:
        said.append(f"To be reviewed below {review:.4g}; {_below(review, good, bad)}")
    print(" ".join([*said, f"Saved: {output}"]))
    return 0


def _check_targets(options):
    """Raise an error for invalid combinations of --bad and target rates."""
    fpr, rate = options.target_fpr, options.target_review_rate
    with_bad, fnr = options.bad is not None, options.target_fnr is not None
    if with_bad and not fnr and (fpr is not None or rate is not None):
        name = "--target-fpr" if fpr is not None else "--target-review-rate"
        raise ValueError(
            f"--bad chooses the threshold of the best F1, {name} one by the rate of "
            "good images: pass only one of them."
        )
    if fnr and not with_bad:
        raise ValueError("--target-fnr is a share of defects: pass defects as --bad.")
    if rate is not None and rate < (fpr or _FPR):
        raise ValueError(
            f"--target-review-rate {rate} includes rejected images: expected at least "
            f"--target-fpr, {fpr or _FPR}."
        )


def _thresholds(options, good, bad):
    """Return the threshold, and the review threshold or None."""
    by_f1 = bad is not None and options.target_fpr is None
    threshold = (
        _by_f1(good, bad) if by_f1 else _by_rate(good, options.target_fpr or _FPR)
    )
    review = None
    if options.target_review_rate is not None:
        review = _by_rate(good, options.target_review_rate, "--target-review-rate")
    elif options.target_fnr is not None:
        # Images that score above the allowed share of defects are accepted.
        highest = -_by_rate(-bad, options.target_fnr, "--target-fnr", "defective")
        review = float(max(threshold, np.nextafter(highest, np.inf)))
    return threshold, review


def _set(judging, threshold, review):
    """Set the thresholds of a model; remove a review threshold not chosen again."""
    judging.offset_ = threshold
    if review is not None:
        judging.review_offset_ = review
    elif hasattr(judging, "review_offset_"):
        del judging.review_offset_
        print(
            "skdinoad tune: the previous review threshold was removed; pass "
            "--target-review-rate or --target-fnr for a new one.",
            file=sys.stderr,
        )


def _below(threshold, good, bad):
    """Return a text with the numbers of given images below a threshold."""
    text = f"{(good < threshold).sum()} of these {len(good)} good images"
    if bad is not None:
        text += f" and {(bad < threshold).sum()} of {len(bad)} defective ones"
    return text + " score below."


def _warn_of_learned(model, paths):
    """Warn about training images, whose scores are too high to set a threshold."""
    *before, detector = _flatten(model)
    register = getattr(detector, "_register", None)
    known, learned = set(register.contents if register else ()), 0
    for path in paths:
        X = [path]
        for step in before:
            X = step.transform(X)
        learned += content(as_images(X), 0) in known
    if learned:
        print(
            f"skdinoad tune: the model learned from {learned} of these {len(paths)} "
            "good images. It scores them higher than new images, so this threshold is "
            "too high: pass good images that it has not seen.",
            file=sys.stderr,
        )


def _by_rate(scores, rate, name="--target-fpr", kind="good"):
    """Return the threshold below which new images of a kind score at a given rate."""
    rank = conformal_rank(len(scores), rate)
    if rank < 1:
        raise ValueError(
            f"{name} {rate} needs {normals_needed(rate)} {kind} images, got "
            f"{len(scores)}. Pass more images, or a larger rate."
        )
    return float(np.sort(scores)[rank - 1])


def _by_f1(good, bad):
    """Return the threshold with the best F1 of defects, halfway between two scores."""
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
        names = ("image AUROC", "AUPRO", "recall", "false alarms", "seconds")
        print(f"{'method':12}" + "".join(f"{name:>14}" for name in names))
    for method in options.methods:
        detector = getattr(skdinoad, METHODS[method])()
        start = time.perf_counter()
        found = suggest(paths, detector, {}, size=options.defect_size).cv_results_
        figures = ("image_auroc", "aupro", "recall", "specificity")
        row = {k: round(float(found[f"mean_test_{k}"][0]), 4) for k in figures}
        row["false_alarms"] = round(1 - row.pop("specificity"), 4)
        row["seconds"] = round(time.perf_counter() - start, 1)
        rows.append({"method": method, **row})
        if not options.json:
            print(f"{method:12}" + "".join(f"{value:14}" for value in row.values()))
    if options.json:
        print(json.dumps(rows))
    return 0
