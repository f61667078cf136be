"""Detectors inside scikit-learn's meta-estimators for classifiers."""

import numpy as np
import pytest
from conftest import tiny_features
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
)

from skdinoad import DinoPatch, PCAAligner, Pipeline, as_classifier
from skdinoad.testing import make_images


def detector(**parameters):
    return DinoPatch(features=tiny_features(**parameters))


@pytest.fixture
def X():
    """Twelve good images and eight with a defect."""
    X = make_images(20)
    X[12:, 10:40, 10:50] = [255, 0, 255]
    return X


Y = np.array([1] * 12 + [-1] * 8)


def test_it_is_the_detector_with_the_manners_of_a_classifier(X):
    ours, plain = as_classifier(detector()).fit(X, Y), detector().fit(X, Y)
    assert is_classifier(ours)
    assert ours.classes_.tolist() == [-1, 1]
    np.testing.assert_array_equal(ours.decision_function(X), plain.decision_function(X))
    np.testing.assert_array_equal(ours.predict(X), plain.predict(X))
    np.testing.assert_array_equal(ours.score_samples(X), plain.score_samples(X))
    np.testing.assert_array_equal(ours.predict_map(X), plain.predict_map(X))
    assert ours.score(X, Y) == (plain.predict(X) == Y).mean()
    assert cross_val_score(ours, X, Y, scoring="roc_auc", cv=2).tolist() == [1, 1]


def test_probabilities_are_higher_for_good_images(X):
    model = CalibratedClassifierCV(as_classifier(detector()), cv=3).fit(X, Y)
    p = model.predict_proba(X)[:, list(model.classes_).index(1)]
    assert p[Y == 1].min() > p[Y == -1].max()


def test_several_detectors_are_stacked(X):
    parts = [
        ("early", as_classifier(detector(layers=1), normal=1)),
        (
            "late",
            as_classifier(Pipeline([PCAAligner(mode="none"), detector()]), normal=1),
        ),
    ]
    model = StackingClassifier(parts, LogisticRegression(), cv=2).fit(X, Y)
    assert (model.predict(X) == Y).all()
    p = cross_val_predict(model, X, Y, cv=2, method="predict_proba")
    assert (p.argmax(1) == (Y == 1)).all()


def test_the_threshold_is_tuned_on_labels(X):
    model = TunedThresholdClassifierCV(as_classifier(detector()), cv=2).fit(X, Y)
    assert (model.predict(X) == Y).all()


def test_without_a_threshold_the_score_decides_nothing_but_ranks(X):
    ours = as_classifier(detector())
    with pytest.warns(UserWarning, match="single image"):
        ours.fit(X[[0, 12]], Y[[0, 12]])
    np.testing.assert_array_equal(ours.decision_function(X), ours.score_samples(X))


@pytest.mark.parametrize(
    ("labels", "normal"),
    [(["bad", "good"], "good"), (["ok", "scratch"], "ok"), ([0, 1], 0), ([0, 1], 1)],
)
def test_other_labels_take_the_name_of_what_is_normal(X, labels, normal):
    (other,) = set(labels) - {normal}
    y = np.where(Y == 1, normal, other)
    ours, plain = as_classifier(detector(), normal=normal).fit(X, y), detector()
    expected = plain.fit(X, Y).decision_function(X)
    assert ours.classes_.tolist() == labels
    sign = 1 if labels[1] == normal else -1
    np.testing.assert_array_equal(ours.decision_function(X), sign * expected)
    assert (ours.predict(X) == np.where(expected < 0, other, normal)).all()
    p = CalibratedClassifierCV(ours, cv=2).fit(X, y).predict_proba(X)
    column = labels.index(normal)
    assert p[Y == 1, column].min() > p[Y == -1, column].max()


def test_bad_labels_are_explained(X):
    ours = as_classifier(detector())
    with pytest.raises(ValueError, match="to_labels"):
        ours.fit(X, Y == 1)
    with pytest.raises(ValueError, match=r"holds \[1\]; expected two.*the detector"):
        ours.fit(X[:3], Y[:3])
    with pytest.raises(ValueError, match=r"holds \[False, True\]; expected.*'ok'"):
        as_classifier(detector(), normal="ok").fit(X, Y == 1)
    with pytest.raises(ValueError, match="20"):
        ours.fit(X, Y[:15])
    with pytest.raises(NotFittedError):
        clone(ours).predict(X)


@pytest.mark.parametrize("method", ["predict", "decision_function"])
def test_a_threshold_that_is_no_number_is_refused_by_name(X, method):
    model = as_classifier(detector()).fit(X, [1] * 12 + [-1] * 8)
    model.estimator_.offset_ = "a"
    with pytest.raises(TypeError, match="offset_='a': expected a number"):
        getattr(model, method)(X)


@pytest.mark.parametrize("normal", [(), [1], np.array([]), range(3), {1: 1}])
def test_a_label_that_is_none_is_refused(X, normal):
    with pytest.raises(ValueError, match="expected two labels"):
        as_classifier(detector(), normal=normal).fit(X, [1] * 12 + [-1] * 8)
