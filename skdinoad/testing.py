"""Checks for image estimators; all estimators of the library pass them.

scikit-learn's ``check_estimator`` skips most checks for image estimators. This
module provides corresponding checks with images. Each check takes a new estimator and
raises an AssertionError on failure. Use them for your own estimators:

    from skdinoad.testing import checks_for
    for check in checks_for(MyDetector()):
        check(MyDetector(...))
"""

import pickle
import warnings
from contextlib import contextmanager, suppress

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError

from skdinoad.features._store import clear_memory

__all__ = ["checks_for", "make_images"]


def make_images(n=6, size=(48, 64), random_state=0):
    """Return n similar images (n, H, W, 3), uint8: a bright bar on dark noise."""
    rng = np.random.default_rng(random_state)
    X = rng.integers(20, 40, (n, *size, 3), dtype=np.uint8)
    height, width = size
    X[:, height // 3 : height // 2, width // 4 : 3 * width // 4] = 200
    return X


def checks_for(estimator: BaseEstimator) -> list:
    """Return the checks that apply to an estimator, as a list of functions."""
    if hasattr(estimator, "iter_scored"):  # a detector, not a tuner
        return [*COMMON_CHECKS, *DETECTOR_CHECKS, check_a_higher_target_fpr_flags_more]
    if hasattr(estimator, "score_samples"):
        return [*COMMON_CHECKS, *DETECTOR_CHECKS]
    return [*COMMON_CHECKS, *TRANSFORMER_CHECKS]


def _out(estimator, X):
    """Return an estimator's scores or transformed images."""
    method = "score_samples" if hasattr(estimator, "score_samples") else "transform"
    return getattr(estimator, method)(X)


def _equal(a, b, **tolerance):
    np.testing.assert_allclose(
        np.asarray(a, np.float64), np.asarray(b, np.float64), **tolerance
    )


def _raises(error, words, call):
    """Check that a call raises an error whose message contains all words."""
    try:
        call()
    except error as raised:
        lacking = [word for word in words if word not in str(raised)]
        assert not lacking, f"message lacks {lacking}: {raised}"  # noqa: PT017
    else:
        raise AssertionError(f"no {error.__name__} was raised")


# -- every estimator ----------------------------------------------------------------


def check_fit_returns_self_and_keeps_parameters(estimator):
    before = {k: repr(v) for k, v in estimator.get_params().items()}
    assert estimator.fit(make_images()) is estimator
    assert {k: repr(v) for k, v in estimator.get_params().items()} == before


def check_parameters_are_checked_in_fit(estimator):
    for name in estimator.get_params(deep=False):
        if estimator._parameter_constraints.get(name) == "no_validation":
            continue
        broken = clone(estimator).set_params(**{name: object()})
        _raises((ValueError, TypeError), [name], lambda e=broken: e.fit(make_images()))


def check_fit_twice_equals_fit_once(estimator):
    X = make_images()
    once = _out(clone(estimator).fit(X), X)
    _equal(_out(estimator.fit(make_images(4, random_state=1)).fit(X), X), once)


def check_input_is_not_changed(estimator):
    X = make_images()
    X.flags.writeable = False
    before = X.copy()
    _out(estimator.fit(X), X)
    assert np.array_equal(X, before)


def check_forms_of_the_same_images_agree(estimator):
    X = make_images()
    estimator.fit(X)
    expected = _out(estimator, X)
    objects = np.empty(len(X), object)
    objects[:] = list(X)
    opaque = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    for form in (X / 255.0, (X / 255.0).astype(np.float32), list(X), objects, opaque):
        _equal(_out(estimator, form), expected, rtol=1e-6)


def check_grey_equals_grey_in_three_channels(estimator):
    X = make_images()[..., 0]
    estimator.fit(X)
    expected = _out(estimator, np.stack([X] * 3, axis=-1))
    _equal(_out(estimator, X), expected)
    _equal(_out(estimator, X[..., np.newaxis]), expected)


def check_order_and_batches_do_not_matter(estimator):
    X = make_images()
    expected = np.asarray(_out(estimator.fit(X), X))
    _equal(_out(estimator, X[::-1]), expected[::-1], rtol=1e-4, atol=1e-4)
    single = np.concatenate([_out(estimator, X[i : i + 1]) for i in range(len(X))])
    _equal(single, expected, rtol=1e-4, atol=1e-4)


def check_pickle_gives_equal_results(estimator):
    X = make_images()
    estimator.fit(X)
    _equal(_out(pickle.loads(pickle.dumps(estimator)), X), _out(estimator, X), rtol=0)


def check_pickle_holds_no_network(estimator):
    estimator.fit(make_images())
    assert b"torch.nn" not in pickle.dumps(estimator)


def check_global_random_state_does_not_move(estimator):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    X = make_images()
    _out(estimator.fit(X), X)
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@contextmanager
def _odd_settings():
    """Change global settings that callers may have changed for their own work."""
    found = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    try:
        casts, errors = torch.autocast("cpu"), np.errstate(all="raise")
        with torch.device("meta"), torch.no_grad(), casts, errors:
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(found[1])
        torch.set_default_dtype(found[0])


def check_settings_of_the_caller_do_not_matter(estimator):
    X = make_images()
    expected = _out(clone(estimator).fit(X), X)
    for setting in (_odd_settings, torch.inference_mode):
        clear_memory()
        with setting():
            fitted = clone(estimator).fit(X)
            inside = _out(fitted, X)
        _equal(inside, expected, rtol=1e-6)
        _equal(_out(fitted, X), expected, rtol=1e-6)


def check_warnings_of_the_caller_are_shown_once(estimator):
    X = make_images()
    estimator.fit(X)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(2):
            warnings.warn("said once", UserWarning, stacklevel=1)
            clear_memory()
            _out(estimator, X)
    assert [str(entry.message) for entry in seen].count("said once") == 1


def check_an_interrupted_fit_leaves_nothing_half_new(estimator):
    X, kind = make_images(), type(estimator)
    names = [name for name in vars(estimator.fit(X)) if name.endswith("_")]
    for last in {names[0], names[len(names) // 2], names[-1]}:

        class Stopped(kind):
            def __setattr__(self, name, value, last=last):
                super().__setattr__(name, value)
                if name == last:
                    raise KeyboardInterrupt

        estimator.__class__ = Stopped
        with suppress(KeyboardInterrupt):
            estimator.fit(X[::-1])
        estimator.__class__ = kind
        assert not [name for name in vars(estimator) if name.endswith("_")], last


def check_bad_input_is_named(estimator):
    X = make_images().astype(float) / 255
    estimator.fit(X)
    holed = X.copy()
    holed[2, 0, 0, 0] = np.nan
    cases = [
        (holed, ["X[2]", "NaN"]),
        (X * 255, ["X[0]", "0..1"]),
        ([], ["empty"]),
        (X[:0], ["empty"]),
        (np.moveaxis(X, -1, 1), ["channels last"]),
        (X[0], ["single image"]),
        ([X[0], X[1][:0]], ["X[1]", "zero area"]),
        ((X * 255).astype(np.int64), ["X[0]", "int64"]),
        (["no/such/file.png"], ["X[0]", "no/such/file.png"]),
    ]
    for bad, words in cases:
        error = (ValueError, TypeError, FileNotFoundError)
        _raises(error, words, lambda bad=bad: _out(estimator, bad))


def _with_region(X, color):
    """Return images whose right third has this colour and is hidden by alpha."""
    region = slice(2 * X.shape[2] // 3, None)
    alpha = np.full_like(X[..., :1], 255)
    X, alpha[:, :, region] = X.copy(), 0
    X[:, :, region] = color
    return np.concatenate([X, alpha], axis=-1)


def check_hidden_colours_do_not_matter(estimator):
    """Check images with and without resizing, with pixels hidden in fit and scoring."""
    for size in ((48, 64), (64, 64)):
        X = make_images(size=size)
        one, other = _with_region(X, 90), _with_region(X, (255, 0, 0))
        expected = _out(clone(estimator).fit(one), one)
        fitted = clone(estimator).fit(other)
        for X in (one, other):
            _equal(_out(fitted, X), expected, rtol=0)


def check_missing_alpha_is_told(estimator):
    X = make_images()
    estimator.fit(_with_region(X, 90))
    if not hasattr(estimator, "hidden_pixels_"):
        return  # extractors and meta-estimators; wrapped estimators warn themselves
    assert estimator.hidden_pixels_
    again = pickle.loads(pickle.dumps(estimator))
    assert len(_warnings_of(lambda: _out(again, X), "X[0] and 5 more", "alpha")) == 1
    assert not _warnings_of(lambda: _out(again, _with_region(X, 0)), "alpha")
    opaque = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    assert not _warnings_of(lambda: _out(estimator.fit(opaque), X), "alpha")


def _warnings_of(call, *words):
    """Return the warnings of a call whose message contains all words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [w for w in caught if all(word in str(w.message) for word in words)]


def check_deep_images_are_scaled_by_the_training_range(estimator):
    X = make_images().astype(np.uint16) * 16 + 300
    low, high = int(X.min()), int(X.max())
    low, high = max(0, low - (high - low) // 4), high + (high - low) // 4
    scaled = np.round((X - np.float64(low)) * 255 / (high - low)).astype(np.uint8)
    expected = _out(clone(estimator).fit(scaled), scaled)
    y = np.ones(len(X) + 1, int)
    y[-1] = -1
    defect = np.full_like(X[:1], 65535)
    estimator.fit(np.concatenate([X, defect]), y)
    again = pickle.loads(pickle.dumps(estimator))
    _equal(_out(again, X), expected, rtol=1e-6, atol=1e-6)
    _raises(ValueError, ["X[0]", "uint8", "uint16"], lambda: _out(again, scaled))
    estimator.fit(scaled)
    _raises(ValueError, ["X[0]", "uint16", "12 bits"], lambda: _out(estimator, X))


def check_training_images_of_mixed_depths_are_refused(estimator):
    X = make_images()
    deep = X.astype(np.uint16) * 16
    for first, second in ((X, deep), (deep, X)):
        mixed = [*first[:3], *second[3:]]
        words = ["X[", "uint8", "uint16", "8 bits"]
        _raises(ValueError, words, lambda X=mixed: _out(estimator.fit(X), X))


COMMON_CHECKS = [
    check_fit_returns_self_and_keeps_parameters,
    check_parameters_are_checked_in_fit,
    check_fit_twice_equals_fit_once,
    check_input_is_not_changed,
    check_forms_of_the_same_images_agree,
    check_grey_equals_grey_in_three_channels,
    check_order_and_batches_do_not_matter,
    check_pickle_gives_equal_results,
    check_pickle_holds_no_network,
    check_global_random_state_does_not_move,
    check_settings_of_the_caller_do_not_matter,
    check_warnings_of_the_caller_are_shown_once,
    check_an_interrupted_fit_leaves_nothing_half_new,
    check_bad_input_is_named,
    check_hidden_colours_do_not_matter,
    check_missing_alpha_is_told,
    check_deep_images_are_scaled_by_the_training_range,
    check_training_images_of_mixed_depths_are_refused,
]


# -- transformers -------------------------------------------------------------------


def check_frames_come_with_the_output(estimator):
    X = make_images()
    Z, affines = estimator.fit(X).transform_affines(X)
    _equal(Z, estimator.transform(X))
    assert affines.shape == (len(X), 3, 3)
    assert affines.dtype == np.float64
    _equal(affines[:, 2], np.tile([0.0, 0.0, 1.0], (len(X), 1)))


def check_fit_transform_equals_fit_and_transform(estimator):
    X = make_images()
    _equal(clone(estimator).fit_transform(X), estimator.fit(X).transform(X))


TRANSFORMER_CHECKS = [
    check_frames_come_with_the_output,
    check_fit_transform_equals_fit_and_transform,
]


# -- detectors ----------------------------------------------------------------------


def check_unfitted_raises(estimator):
    for method in ("score_samples", "decision_function", "predict", "predict_map"):
        call = getattr(estimator, method)
        _raises(NotFittedError, ["fit"], lambda call=call: call(make_images()))


def check_scores_labels_and_offset_agree(estimator):
    X = make_images(8)
    scores = estimator.fit(X).score_samples(X)
    decision, labels = estimator.decision_function(X), estimator.predict(X)
    assert scores.shape == (8,)
    assert scores.dtype == np.float64
    _equal(decision, scores - estimator.offset_)
    assert labels.dtype.kind == "i"
    assert np.array_equal(labels, np.where(decision < 0, -1, 1))
    assert np.array_equal(clone(estimator).fit_predict(X), labels)


def check_a_gross_defect_scores_lower(estimator):
    X = make_images(8)
    bad = X[:1].copy()
    bad[0, 10:40, 10:50] = [255, 0, 255]
    estimator.fit(X[1:])
    good, defect = estimator.score_samples(np.concatenate([X[:1], bad]))
    assert defect < good
    assert estimator.predict(bad)[0] == -1


def check_rows_labelled_anomalous_are_left_out(estimator):
    X = make_images(8)
    X[3:5] = 255 - X[3:5]
    y = np.array([1, 1, 1, -1, -1, 1, 1, 1])
    masks = np.zeros((8, 4, 4), bool)
    masks[3:5, 0, 0] = True
    new = make_images(3, random_state=5)
    expected = clone(estimator).fit(X[y == 1]).score_samples(new)
    _equal(clone(estimator).fit(X, y).score_samples(new), expected, rtol=1e-6)
    _equal(clone(estimator).fit(X, masks).score_samples(new), expected, rtol=1e-6)


def check_zero_one_labels_are_refused(estimator):
    for y in ([0, 0, 0, 0, 0, 1], [False] * 6, ["good"] * 6):
        _raises(ValueError, ["to_labels"], lambda y=y: estimator.fit(make_images(), y))


def check_maps_have_the_size_of_the_images(estimator):
    X = make_images()
    maps = estimator.fit(X).predict_map(X)
    assert maps.shape == X.shape[:3]
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0


def check_threshold_comes_from_held_out_scores(estimator):
    X = make_images(12)
    estimator.fit(X[:8])
    # A threshold from training scores would flag every unseen good image.
    assert (estimator.predict(X[8:]) == 1).any()
    assert estimator.holdout_scores_.shape == (8,)
    assert estimator.offset_ <= estimator.holdout_scores_.max()


def check_a_higher_target_fpr_flags_more(estimator):
    both = (clone(estimator).set_params(target_fpr=rate) for rate in (0.1, 0.5))
    low, high = (one.fit(make_images(12)) for one in both)
    assert low.offset_ < high.offset_
    assert low.pixel_threshold_ >= high.pixel_threshold_ > 0


DETECTOR_CHECKS = [
    check_unfitted_raises,
    check_scores_labels_and_offset_agree,
    check_a_gross_defect_scores_lower,
    check_rows_labelled_anomalous_are_left_out,
    check_zero_one_labels_are_refused,
    check_maps_have_the_size_of_the_images,
    check_threshold_comes_from_held_out_scores,
]
