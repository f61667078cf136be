"""Any grids of features, labels and groups: right scores, or an error that names it."""

import numpy as np
import pytest
from fuzzing import attempt, check_output
from hypothesis import example, given
from hypothesis import strategies as st

from skdinoad import (
    AnomalyDINO,
    Dinomaly,
    DinoPatch,
    LocalBank,
    SubspaceAD,
    ThresholdTunerCV,
    Training,
    find_regions,
    metrics,
    to_labels,
)

DETECTORS = {
    "DinoPatch": DinoPatch(),
    "cosine": DinoPatch(
        bank=LocalBank(metric="cosine", dtype="float32", n_components=2)
    ),
    "float16": DinoPatch(bank=LocalBank(dtype="float16")),
    "AnomalyDINO": AnomalyDINO(),
    "SubspaceAD": SubspaceAD(),
    "Dinomaly": Dinomaly(depth=1, holdout=None, training=Training(n_iter=1)),
    "tuner": ThresholdTunerCV(DinoPatch(), target_fpr=0.5, cv=2),
}

NAMED = (
    r"X\[\d+\]|\bX (is|has|holds)|\bimages?\b|\by\b|y\[|[gG]roups?|bank_dtype|"
    "n_components|labels?|Features beyond|target_fpr"
)


def grids(n=4, shape=(3, 4, 8)):
    return np.random.default_rng(0).normal(size=(n, *shape))


def odd_grid(shape, dtype, factor):
    with np.errstate(all="ignore"):  # NaN is no whole number
        return (grids(1, shape)[0] * factor).astype(dtype)


GRIDS = st.one_of(
    st.sampled_from([None, "x", 3, np.zeros((3, 4, 8), object), np.ones((3, 4, 9))]),
    st.builds(
        odd_grid,
        st.sampled_from([(3, 4, 8), (4, 4, 8), (1, 1, 8), (0, 4, 8), (3, 4, 2, 4)]),
        st.sampled_from(["f8", "f4", ">f8", "i4", "c16"]),
        st.sampled_from([1, 0, 1e-30, 1e3, 1e12, 1e30, np.nan]),
    ),
)

ODD = [
    None,
    0,
    np.array(1),
    "abcd",
    b"abcd",
    [1] * 4,
    [1, -1, 1, -1],
    [np.nan] * 4,
    [None] * 4,
    [{}] * 4,
    ["a"] * 4,
    [(1, 2), (3,)] * 2,
    np.full((4, 2, 2), np.nan),
    np.full((4, 2, 2), "a"),
    np.full((4, 2, 2), None),
    np.zeros((4, 3, 4)),
    np.eye(4).reshape(4, 2, 2),
    [np.zeros((2, 2)), 1, None, -1],
    np.zeros((4, 2, 2, 3)),
    {},
    {1, 2, 3, 4},
    iter([1] * 4),
    object(),
    [10**30] * 4,
    [1j] * 4,
]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", DETECTORS)
@example(odd=grids(1)[0] * 1e60)  # was infinite in float32, hence invalid, in silence
@example(odd=grids(1)[0][:0])
@example(odd=grids(1)[0].astype(object))
@example(odd=None)
@given(odd=GRIDS)
def test_any_grid_is_scored_or_named(name, odd):
    X = [*grids(), odd]
    before = np.copy(odd)
    detector = DETECTORS[name]
    result = attempt(lambda: detector.fit(X).score_samples(X), NAMED)
    check(detector, X, result)
    detector.fit(grids(6))
    check(detector, X, attempt(lambda: detector.score_samples(X), NAMED))
    assert odd is None or before.tobytes() == np.asarray(odd).tobytes()


def check(detector, X, result):
    if result is not None:
        check_output(detector, len(X), result)


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_any_labels_and_groups_are_taken_or_named(value):
    F, tuner = grids(), DETECTORS["tuner"]
    attempt(lambda: DinoPatch().fit(F, value), NAMED)
    attempt(lambda: tuner.fit(F, value), NAMED)
    attempt(lambda: tuner.fit(F, groups=value), NAMED)
    tuner.fit(F, groups=[0, 0, 1, 1])
    attempt(lambda: tuner.predict(F, groups=value), NAMED)
    attempt(lambda: to_labels(value), r"\by\b|label")


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_any_masks_and_maps_are_taken_or_named(value):
    heat = np.random.default_rng(0).random((4, 2, 2))
    masks, named = heat > 0.5, r"\b([mM]asks?|[mM]aps?|Row|threshold)\b"
    for call in (metrics.aupro_score, metrics.pixel_ap_score):
        for pair in ((value, heat), (masks, value)):
            result = attempt(lambda pair=pair, call=call: call(*pair), named)
            assert result is None or 0 <= result <= 1
    attempt(lambda: find_regions(value, 0.5), named)
    attempt(lambda: find_regions(heat, value), named)
