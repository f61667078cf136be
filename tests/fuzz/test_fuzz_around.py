"""What stands around detectors: right answers, or an error that names what is wrong."""

import copy
import hashlib
import json
from functools import cache

import numpy as np
import pytest
from conftest import tiny_features
from fuzzing import SIZE, attempt
from hypothesis import example, given
from hypothesis import strategies as st
from test_fuzz_arrays import NAMED, batches, copied, unchanged
from test_fuzz_parameters import ODD

from skdinoad import (
    DinoPatch,
    ForegroundMask,
    PCAAligner,
    Pipeline,
    SubspaceAD,
    ThresholdTunerCV,
    as_classifier,
    load,
    save,
    suggest,
)
from skdinoad.monitoring import DriftMonitor
from skdinoad.persistence import ModelFileError
from skdinoad.persistence._archive import _ALIGN, _HEAD, _MAGIC, FORMAT
from skdinoad.testing import make_images

#: Good images and two defects; small, because each example fits anew.
LABELS = [1] * 6 + [-1] * 2


def aligned(detector):
    return Pipeline([PCAAligner(output_size=64), detector(features=tiny_features())])


MAKERS = {
    "monitor": lambda: DriftMonitor(features=tiny_features()),
    "classifier": lambda: as_classifier(DinoPatch(features=tiny_features())),
    "pipeline": lambda: aligned(DinoPatch),
    "masked": lambda: Pipeline(
        [ForegroundMask(features=tiny_features()), SubspaceAD(features=tiny_features())]
    ),
    "tuner": lambda: ThresholdTunerCV(aligned(DinoPatch), target_fpr=0.5, cv=2),
    "reviewer": lambda: ThresholdTunerCV(
        aligned(SubspaceAD), target_fpr=0.2, target_review_rate=0.5, cv=2
    ),
}


@cache
def known():
    X = make_images(8, size=SIZE)
    X[6:, 10:30, 20:50] = [255, 0, 255]
    return X


@cache
def fitted(name):
    return MAKERS[name]().fit(known()[:6] if name == "monitor" else known(), LABELS)


def answers(name, estimator, X):
    """Return what is said of X; one number for each row."""
    if name == "monitor":
        return estimator.update(X).astype(float)
    if name == "reviewer":
        return estimator.predict_review(X).astype(float)
    return estimator.decision_function(X)


def check_answers(name, estimator, X, result):
    assert result.shape == (len(X),)
    assert np.isfinite(result).all()
    if name == "monitor":
        assert np.isfinite([*estimator.evidence_of_.values()]).all()
    if name == "reviewer":
        rejected = estimator.predict(X) == -1
        np.testing.assert_array_equal(rejected, result == -1)


@pytest.mark.parametrize("name", MAKERS)
@given(X=batches())
def test_any_array_is_answered_or_named(name, X):
    estimator, before = copy.deepcopy(fitted(name)), copied(X)
    seen = getattr(estimator, "n_seen_", None)
    result = attempt(lambda: answers(name, estimator, X), NAMED)
    assert unchanged(X, before)
    if result is None:
        assert getattr(estimator, "n_seen_", None) == seen  # nothing is half noted
    else:
        check_answers(name, estimator, X, result)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "classifier"])
@given(X=batches())
def test_any_array_is_learned_from_or_named(name, X):
    estimator = MAKERS[name]()
    named = NAMED + "|target_|cv="
    result = attempt(lambda: answers(name, estimator.fit(X), X), named)
    if result is not None:
        check_answers(name, estimator, X, result)


# -- parameters -----------------------------------------------------------------------

MONITOR = ["false_alarm_every", "batch_size", "random_state", "features"]
SUGGEST = ["kinds", "size", "cv", "margin", "random_state", "param_grid"]
EDGES = [*ODD[1:], 1 + 1e-12, 2**31, 2**32 - 1, 2**63, -0.0, "scratch", ["blob"], ["x"]]


@pytest.mark.parametrize("name", MONITOR)
@given(value=st.sampled_from(EDGES))
@example(value=1 + 1e-12)
def test_any_parameter_of_a_monitor_works_or_is_named(name, value):
    monitor = DriftMonitor(features=tiny_features()).set_params(**{name: value})
    X = known()[:6]
    result = attempt(lambda: monitor.fit(X[:4]).update(X), rf"\b{name}\b|WeightsNot")
    if result is not None:
        check_answers("monitor", monitor, X, result.astype(float))


@pytest.mark.parametrize("name", SUGGEST)
@example(value=np.int8(3))  # a product of it was beyond 127, in silence
@example(value=float("inf"))
@example(value=())
@given(value=st.sampled_from(EDGES))
def test_any_parameter_of_suggest_works_or_is_named(name, value):
    detector = SubspaceAD(features=tiny_features())
    how = {"param_grid": {}, "cv": 2, "size": 0.3, name: value}
    named = {key: rf"\b{key}\b" for key in SUGGEST} | {"kinds": r"\bkinds?\b"}
    search = attempt(lambda: suggest(known()[:4], detector, **how), named[name])
    if search is not None:
        figures = search.cv_results_
        for figure in ("mean_test_image_auroc", "mean_test_aupro"):
            assert ((figures[figure] >= 0) & (figures[figure] <= 1)).all()


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_any_label_of_normal_images_works_or_is_named(value):
    X, y = known(), np.array(LABELS)
    model = as_classifier(DinoPatch(features=tiny_features()), normal=value)
    result = attempt(lambda: model.fit(X, y).predict(X), r"\bnormal\b|\by\b")
    assert result is None or set(result) <= {-1, 1}


@pytest.mark.parametrize("name", ["classifier", "tuner", "reviewer", "pipeline"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_any_threshold_set_by_hand_works_or_is_named(name, value):
    estimator = copy.deepcopy(fitted(name))
    holder = estimator.estimator_ if name == "classifier" else estimator
    holder.offset_ = value
    X = known()[:2]
    result = attempt(lambda: answers(name, estimator, X), r"\boffset_|\bgroups?\b")
    assert result is None or not np.isnan(result).any()


# -- files ----------------------------------------------------------------------------


@cache
def model_file(folder):
    """Return the bytes of a model file, its description and where that ends."""
    F = np.random.default_rng(0).normal(size=(4, 2, 2, 8)).astype(np.float32)
    content = save(DinoPatch().fit(F), folder / "whole.skd").read_bytes()
    length = int(content[_HEAD : _HEAD + 16])
    end = _HEAD + 17 + length
    return content, json.loads(content[end - length : end]), end


def signed(text, content, end):
    """Return a model file of another description, with a right digest."""
    begin = -(-end // _ALIGN) * _ALIGN
    body = f"{len(text):016d}\n".encode() + text
    body += b" " * (-(_HEAD + len(body)) % _ALIGN) + content[begin:]
    head = f"{FORMAT:04d}\n{hashlib.sha256(body).hexdigest()}\n"
    return _MAGIC + head.encode() + body


def nodes(data, path=()):
    """Yield the place of everything in JSON data."""
    yield path
    if isinstance(data, list):
        data = dict(enumerate(data))
    for key, part in data.items() if isinstance(data, dict) else ():
        yield from nodes(part, (*path, key))


JSON = st.sampled_from(
    [None, True, -1, 0, 10**30, 2**62, 1e308, "", "a", "os:system", [], {}, [[]]]
    + ["skdinoad.base:warnings", "skdinoad.cli:main", "sklearn.utils:Bunch", "O", "|O"]
    + ["skdinoad.__main__:main", "..:a", "skdinoad..base:a", "skdinoad.base:"]
    + [{"$": kind} for kind in ("tuple", "array", "object", "again", "random", "dtype")]
    + [{"$": "tuple", "items": [{"$": "array", "number": 0}]}]
    + [{"$": "dict", "items": [[[], 1]]}, {"$": "set", "items": [{"$": "list"}]}]
    + [{"$": ["tuple"]}, {"$": "objects", "shape": [2**62], "items": [1]}]
    + [{"$": "partial", "items": [1, 2, 3]}, {"$": "dtype", "name": "O,O"}]
    + [{"$": "random", "state": {"$": "dict", "items": []}}]
)


def check_load(path, content):
    path.write_bytes(content)
    try:
        return load(path)
    except ModelFileError as error:
        if str(path) not in str(error):
            raise AssertionError(f"no path in: {error}") from error
        return None


@given(data=st.data())
def test_any_damage_of_a_model_file_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    whole, _, end = model_file(folder)
    content = bytearray(whole)
    start = data.draw(
        st.integers(0, data.draw(st.sampled_from([100, end, len(whole)])))
    )
    new = data.draw(st.sampled_from([b"", b"\0", b"9", b"\xff" * 4, b"{", b"-1\n"]))
    content[start : start + data.draw(st.integers(0, 8))] = new
    found = check_load(folder / "damaged.skd", bytes(content))
    assert (found is None) == (bytes(content) != whole)


@given(data=st.data())
def test_any_description_with_a_right_digest_is_taken_or_refused(
    tmp_path_factory, data
):
    folder = tmp_path_factory.getbasetemp()
    whole, known, end = model_file(folder)
    known = copy.deepcopy(known)
    *path, last = data.draw(st.sampled_from([p for p in nodes(known) if p]))
    place = known
    for key in path:
        place = place[key]
    place[last] = data.draw(JSON)
    check_load(folder / "odd.skd", signed(json.dumps(known).encode(), whole, end))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"arrays": [], "model": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b"1",
        b"null",
        b'"\xff"',
        b"{}",
        b'{"arrays": {}, "model": NaN}',
        b'{"arrays": [["<f4", [1e400], "C", 0]], "model": 1}',
        b'{"arrays": [["<f4", [4611686018427387904, 4], "C", 0]], "model": 1}',
        b'{"arrays": [["<f4", [-1, -1], "C", 0]], "model": 1}',
        b'{"arrays": [["V0", [4], "C", 0]], "model": 1}',
        b'{"arrays": [["<f4", [0], "A", 0]], "model": 1}',
    ],
    ids=lambda text: text[:50],
)
def test_any_text_with_a_right_digest_is_taken_or_refused(tmp_path, text):
    whole, _, end = model_file(tmp_path)
    check_load(tmp_path / "odd.skd", signed(text, whole, end))
