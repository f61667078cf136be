import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import balanced_accuracy_score, f1_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)

from skdinoad import (
    AnomalyDINO,
    DinoPatch,
    LocalBank,
    Pipeline,
    ThresholdTunerCV,
    load,
    predict_map,
    save,
)
from skdinoad.alignment import PCAAligner
from skdinoad.metrics import pixel_f1_max_score
from skdinoad.testing import make_images


def grids(n, rng, shift=0.0, noise=1.0):
    """Return feature grids around a direction; a shift turns it."""
    F = rng.normal(0, noise, size=(n, 3, 3, 8))
    F[..., 0] += 8
    F[..., 1] += shift
    return F.astype(np.float32)


@pytest.fixture
def F(rng):
    return grids(40, rng)


@pytest.fixture
def labelled(rng):
    y = np.array([1] * 30 + [-1] * 10)
    return np.concatenate([grids(30, rng), grids(10, rng, 3)]), y


def bank():
    return AnomalyDINO(masking=None)


# -- a wanted rate ------------------------------------------------------------------


def test_held_out_scores_are_those_of_models_that_saw_the_others(F):
    folds = KFold(5)
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1, cv=folds).fit(F)
    for train, test in folds.split(F):
        expected = bank().fit(F[train]).score_samples(F[test])
        np.testing.assert_allclose(tuner.holdout_scores_[test], expected, rtol=1e-5)
    assert tuner.offset_ == np.sort(tuner.holdout_scores_)[3]  # of 41 * 0.1
    whole = bank().fit(F)
    np.testing.assert_allclose(
        tuner.score_samples(F[:3] + 0.1), whole.score_samples(F[:3] + 0.1)
    )


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_realised_rate_keeps_the_promise(rate):
    """A split, and the model that scored it: the mean over draws is at most the rate.

    Each draw flags a share of 200 new normals. The mean of 60 draws is compared with
    the promise, and with what a threshold one rank off would give.
    """
    rng, realised = np.random.default_rng(0), []
    for seed in range(60):
        split = ShuffleSplit(1, test_size=0.5, random_state=seed)
        tuner = ThresholdTunerCV(
            DinoPatch(bank=LocalBank(neighborhood=1)),
            target_fpr=rate,
            cv=split,
            refit=False,
        ).fit(grids(38, rng))
        realised.append((tuner.predict(grids(200, rng)) == -1).mean())
    exact = int(20 * rate + 1e-9) / 20  # 19 are held out
    error = np.std(realised) / np.sqrt(60)
    assert np.mean(realised) <= rate + 3 * error
    assert abs(np.mean(realised) - exact) < 3 * error


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_folds_and_a_refit_keep_it_too_on_average(rate):
    rng, realised = np.random.default_rng(1), []
    for seed in range(25):
        tuner = ThresholdTunerCV(bank(), target_fpr=rate, random_state=seed)
        tuner.fit(grids(19, rng))
        realised.append((tuner.predict(grids(100, rng)) == -1).mean())
    assert np.mean(realised) <= rate + 3 * np.std(realised) / np.sqrt(25)
    assert np.mean(realised) > rate / 3


def test_too_few_normals_are_refused_before_any_work(F):
    class Untouched(DinoPatch):
        def fit(self, X, y=None):
            raise AssertionError

    with pytest.raises(
        ValueError, match=r"target_fpr=0.01 needs 99 .* there are 40.*0.02"
    ):
        ThresholdTunerCV(Untouched()).fit(F)
    with pytest.raises(ValueError, match=r"target_pixel_fpr=0.02 needs 49 normal"):
        ThresholdTunerCV(Untouched(), target_fpr=0.1, target_pixel_fpr=0.02).fit(F)
    split = ShuffleSplit(1, test_size=5)
    promise = ThresholdTunerCV(
        bank(),
        scoring=None,
        target_fpr=0.2,
        target_pixel_fpr=0.1,
        cv=split,
        refit=False,
    )
    with pytest.raises(ValueError, match=r"needs 9 .* there are 5"):
        promise.fit(F)
    with pytest.raises(ValueError, match=r"needs 9 .* to be held out, .* out 5"):
        ThresholdTunerCV(bank(), target_fpr=0.1, cv=split, refit=False).fit(F)


def test_defects_choose_nothing_without_scoring(labelled):
    X, y = labelled
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1, cv=StratifiedKFold(5)).fit(X, y)
    normal = np.sort(tuner.holdout_scores_[y == 1])
    assert tuner.offset_ == normal[2]
    assert len(tuner.estimator_.bank_) == 30 * 9


def test_p_values_are_ranks_among_held_out_normals(F, rng):
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1).fit(F)
    X = np.concatenate([grids(30, rng), grids(5, rng, 20)])
    p = tuner.p_values(X)
    assert np.array_equal(p <= 0.1, tuner.predict(X) == -1)
    assert (p[-5:] == 1 / 41).all()
    scores = tuner.score_samples(X)
    expected = [(1 + (tuner.holdout_scores_ <= s).sum()) / 41 for s in scores]
    np.testing.assert_allclose(p, expected)


# -- labels -------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", ["f1", "balanced_accuracy", "recall", "cost"])
def test_optimum_over_held_out_scores(labelled, scoring):
    X, y = labelled
    tuner = ThresholdTunerCV(bank(), scoring=scoring, target_fpr=0.1).fit(X, y)
    scores = tuner.holdout_scores_
    assert np.isfinite(scores).all()
    flagged = scores < tuner.offset_
    if scoring == "f1":
        every = [
            f1_score(y, np.where(scores < t, -1, 1), pos_label=-1) for t in scores[1:]
        ]
        assert f1_score(y, np.where(flagged, -1, 1), pos_label=-1) >= max(every)
    if scoring == "recall":
        assert flagged[y == 1].sum() <= 3
        assert (scores <= tuner.offset_)[y == 1].sum() <= 4
    assert flagged[y == -1].mean() > 0.5


def test_dear_misses_lower_the_bar(labelled):
    X, y = labelled
    cheap = ThresholdTunerCV(bank(), scoring="cost", cost_matrix=[[0, 1], [9, 0]])
    dear = ThresholdTunerCV(bank(), scoring="cost", cost_matrix=[[0, 99], [1, 0]])
    assert cheap.fit(X, y).offset_ < dear.fit(X, y).offset_


def test_a_metric_of_labels_is_asked(labelled):
    X, y = labelled

    def metric(true, predicted):
        return f1_score(true, predicted, pos_label=-1, zero_division=0)

    asked = ThresholdTunerCV(bank(), scoring=metric).fit(X, y)
    assert asked.offset_ == ThresholdTunerCV(bank(), scoring="f1").fit(X, y).offset_


def test_labels_are_needed_where_they_decide(F, labelled):
    with pytest.raises(ValueError, match="'f1' needs normal and anomalous"):
        ThresholdTunerCV(bank(), scoring="f1").fit(F)
    X, y = labelled
    with pytest.raises(ValueError, match="2 rows"):
        ThresholdTunerCV(bank(), scoring="cost", cost_matrix=[1, 2]).fit(X, y)
    with pytest.raises(ValueError, match="to_labels"):
        ThresholdTunerCV(bank(), scoring="f1").fit(X, y == 1)


def test_folds_hold_some_of_every_label(labelled):
    X, y = labelled
    tuner = ThresholdTunerCV(bank(), scoring="f1", cv=10)
    folds = tuner._splits(y, np.zeros(40, int), np.arange(40))
    assert [(y[test] == -1).sum() for _, test in folds] == [1] * 10
    few = ThresholdTunerCV(bank(), scoring="f1", cv=50).fit(X[25:32], y[25:32])
    assert np.isfinite(few.holdout_scores_).all()


# -- groups -------------------------------------------------------------------------


@pytest.fixture
def products(rng):
    """Two products, of which one varies three times as much."""
    X = np.concatenate([grids(30, rng), grids(30, rng, noise=3)])
    return X, np.array(["bolt"] * 30 + ["nut"] * 30)


def test_each_product_has_its_threshold(products):
    X, groups = products
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1).fit(X, groups=groups)
    assert set(tuner.offset_) == {"bolt", "nut"}
    assert tuner.offset_["nut"] < tuner.offset_["bolt"]
    rows = [0, 40, 1]
    single = [tuner.predict(X[i : i + 1], groups=groups[i : i + 1])[0] for i in rows]
    assert tuner.predict(X[rows], groups=groups[rows]).tolist() == single
    odd = X[:1] + 3 * np.eye(8)[2].astype(np.float32)  # for a bolt, not for a nut
    assert tuner.predict(odd, groups=["bolt"])[0] == -1
    assert tuner.predict(odd, groups=["nut"])[0] == 1
    assert tuner.p_values(odd, groups=["bolt"])[0] == pytest.approx(1 / 31)
    assert tuner.p_values(odd, groups=["nut"])[0] > 0.2
    for group, offset in tuner.offset_.items():
        assert (tuner.holdout_scores_[groups == group] < offset).sum() == 2


def test_groups_are_asked_for_and_checked(products, F):
    X, groups = products
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1)
    with pytest.raises(ValueError, match=r"of group 'nut', and there are 5"):
        tuner.fit(X[:35], groups=groups[:35])
    with pytest.raises(ValueError, match=r"shape \(2,\); expected one of 60"):
        tuner.fit(X, groups=["bolt", "nut"])
    tuner.fit(X, groups=groups)
    with pytest.raises(ValueError, match="pass one for each of 60"):
        tuner.predict(X)
    with pytest.raises(ValueError, match="'cap' is unknown"):
        tuner.predict(X[:1], groups=["cap"])
    with pytest.raises(ValueError, match="fit had none"):
        tuner.fit(F).predict(F, groups=np.zeros(40))


def test_groups_travel_through_cross_validate(products):
    X, groups = products
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1, cv=3)
    with pytest.raises(ValueError, match="enable_metadata_routing"):
        tuner.fit(X, groups=groups).predict(X)
    with sklearn.config_context(enable_metadata_routing=True):
        tuner.set_fit_request(groups=True).set_score_request(groups=True)
        how = {"cv": KFold(2, shuffle=True, random_state=0), "error_score": "raise"}
        out = cross_validate(tuner, X, np.ones(60), params={"groups": groups}, **how)
    assert (out["test_score"] > 0.7).all()


def test_score_is_balanced_over_the_labels_there_are(labelled):
    X, y = labelled
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1).fit(X, y)
    expected = balanced_accuracy_score(y, tuner.predict(X))
    assert tuner.score(X, y) == pytest.approx(expected)
    assert tuner.score(X[:30], y[:30]) == (tuner.predict(X[:30]) == 1).mean()


def test_a_fit_that_fails_leaves_no_threshold(F, monkeypatch):
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1).fit(F)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("skdinoad.model_selection._tuner.fitted", stop)
    with pytest.raises(KeyboardInterrupt):
        tuner.fit(F[:30])
    assert not hasattr(tuner, "offset_")
    with pytest.raises(NotFittedError):
        tuner.predict(F)


# -- pixels -------------------------------------------------------------------------


@pytest.fixture
def pictures():
    X, masks = make_images(24, size=(64, 64)), np.zeros((24, 64, 64), bool)
    masks[::4, 40:50, 10:30] = True
    X[masks] = 230
    return X, masks


def test_pixels_above_are_as_rare_as_wanted(tiny, pictures):
    X, _ = pictures
    good = make_images(30, size=(64, 64))
    tuner = ThresholdTunerCV(
        DinoPatch(features=tiny), target_fpr=0.1, target_pixel_fpr=0.1
    ).fit(good[:20])
    flagged = tuner.predict_mask(good[20:])
    assert flagged.shape == (10, 64, 64)
    assert flagged.dtype == bool
    assert 0 < flagged.mean() < 0.1
    assert tuner.predict_mask(X[:1])[0, 42:48, 12:28].mean() > 0.9


def test_pixel_optimum_on_masks(tiny, pictures):
    X, masks = pictures
    tuner = ThresholdTunerCV(DinoPatch(features=tiny), scoring="f1").fit(X, masks)
    found = tuner.predict_mask(X)
    best = pixel_f1_max_score(masks, tuner.predict_map(X))
    assert f1_score(masks.ravel(), found.ravel()) > best - 0.1 > 0.4
    assert (tuner.predict(X) == np.where(masks.any((1, 2)), -1, 1)).mean() > 0.9


def test_sizes_may_differ_and_no_threshold_is_said(tiny, pictures):
    X, _ = pictures
    tuner = ThresholdTunerCV(AnomalyDINO(features=tiny), target_fpr=0.2).fit(
        X[1:4].tolist() and list(X)
    )
    with pytest.raises(AttributeError, match="target_pixel_fpr"):
        tuner.predict_mask(X)
    tuner.set_params(target_pixel_fpr=0.2).fit(list(X))
    masks = tuner.predict_mask([X[0], X[0][:40]])
    assert [m.shape for m in masks] == [(64, 64), (40, 64)]


def test_a_promised_pixel_rate_beside_labels(tiny, pictures):
    """Labels alone give pixels no optimum; the promise holds as without them."""
    X, masks = pictures
    y = np.where(masks.any((1, 2)), -1, 1)
    tuner = ThresholdTunerCV(DinoPatch(features=tiny), target_pixel_fpr=0.1)
    alone = clone(tuner).set_params(target_fpr=0.1).fit(X, y)
    beside = tuner.set_params(scoring="f1").fit(X, y)
    assert beside.pixel_threshold_ == alone.pixel_threshold_


def test_masks_must_fit_their_images(tiny, pictures):
    X, masks = pictures
    with pytest.raises(ValueError, match=r"Row \d+: .* mask of shape \(60, 64\)"):
        ThresholdTunerCV(DinoPatch(features=tiny), scoring="f1").fit(X, masks[:, :60])


# -- a member of scikit-learn -------------------------------------------------------


def false_alarms(model, X, y=None):
    return (model.predict(X) == -1).mean()


def balanced(model, X, y):
    return balanced_accuracy_score(y, model.predict(X))


def test_nested_false_alarms_keep_the_promise():
    rng, realised = np.random.default_rng(2), []
    for seed in range(12):
        tuner = ThresholdTunerCV(bank(), target_fpr=0.1, random_state=seed)
        folds = KFold(3, shuffle=True, random_state=seed)
        rates = cross_val_score(
            tuner, grids(45, rng), scoring=false_alarms, cv=folds, error_score="raise"
        )
        realised.append(rates.mean())
    error = np.std(realised) / np.sqrt(12)
    assert 0.03 < np.mean(realised) <= 0.1 + 3 * error


def test_nested_labels_show_no_optimism():
    """Labels that mean nothing: chance when nested, better on those that chose."""
    rng, nested, own = np.random.default_rng(3), [], []
    for seed in range(12):
        X, y = grids(40, rng), rng.permutation(np.repeat([1, -1], [28, 12]))
        tuner = ThresholdTunerCV(bank(), scoring="balanced_accuracy")
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        nested.append(cross_val_score(tuner, X, y, scoring=balanced, cv=folds).mean())
        tuner.fit(X, y)
        labels = np.where(tuner.holdout_scores_ < tuner.offset_, -1, 1)
        own.append(balanced_accuracy_score(y, labels))
    assert np.mean(own) > 0.55
    assert abs(np.mean(nested) - 0.5) < 3 * np.std(nested) / np.sqrt(12)


def test_in_a_search_around_a_pipeline(tiny, pictures):
    X, masks = pictures
    pipe = Pipeline([PCAAligner(mode="none", output_size=64), DinoPatch(features=tiny)])
    tuner = ThresholdTunerCV(pipe, target_fpr=0.2, cv=3)
    search = GridSearchCV(
        tuner,
        {"estimator__dinopatch__bank__neighborhood": [0, 1]},
        scoring=lambda m, X, y=None: (m.predict(X) == 1).mean(),
        cv=KFold(2),
    ).fit(X[masks.any((1, 2)) == 0])
    maps = predict_map(search, X)
    assert maps.shape == X.shape[:3]
    assert np.array_equal(maps, search.best_estimator_.predict_map(X))


def test_a_fitted_model_is_calibrated_as_it_is(F, rng):
    detector = bank().fit(F)
    tuner = ThresholdTunerCV(FrozenEstimator(detector), target_fpr=0.1)
    new = grids(20, rng)
    tuner.fit(new)
    np.testing.assert_allclose(tuner.holdout_scores_, detector.score_samples(new))


def test_fit_predict_knows_labels_and_groups(labelled):
    X, y = labelled
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1)
    expected = clone(tuner).fit(X, y).predict(X)
    assert np.array_equal(tuner.fit_predict(X, y), expected)
    assert (tuner.labels_ == y).all()
    groups = np.arange(40) % 2
    again = clone(tuner).fit_predict(X, y, groups)
    assert np.array_equal(again, clone(tuner).fit(X, y, groups).predict(X, groups))


def test_splits_may_be_lists(F):
    splits = [(list(range(20)), list(range(20, 40))), (range(20, 40), range(20))]
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1, cv=splits).fit(F)
    assert np.isfinite(tuner.holdout_scores_).all()
    with pytest.raises(ValueError, match="makes no split"):
        tuner.set_params(cv=[]).fit(F)


def test_rows_are_counted_by_position_and_not_by_label(F):
    class Series:
        """Like pandas: brackets ask for labels, which are reversed here."""

        def __init__(self, values):
            self.values = values

        iloc = property(lambda self: self.values)

        def __len__(self):
            return len(self.values)

        def __getitem__(self, label):
            return self.values[::-1][label]

        def __array__(self, dtype=None, copy=None):
            return self.values

    tuner = ThresholdTunerCV(bank(), target_fpr=0.1)
    expected = clone(tuner).fit(F).holdout_scores_
    np.testing.assert_allclose(tuner.fit(Series(F)).holdout_scores_, expected)


def test_params_clone_pickle_and_state(F):
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1)
    with pytest.raises(NotFittedError):
        tuner.predict(F)
    before = repr(tuner.get_params())
    assert tuner.fit(F) is tuner
    assert repr(tuner.get_params()) == before
    again = pickle.loads(pickle.dumps(tuner))
    assert np.array_equal(again.predict(F + 1), tuner.predict(F + 1))
    assert clone(tuner).fit(F).offset_ == tuner.offset_
    assert clone(tuner).set_params(n_jobs=2).fit(F).offset_ == tuner.offset_


def test_a_new_fit_forgets_the_old_one(tiny, pictures):
    X, masks = pictures
    tuner = ThresholdTunerCV(DinoPatch(features=tiny), scoring="f1").fit(X, masks)
    tuner.set_params(scoring=None, target_fpr=0.2).fit(X, masks)
    assert not hasattr(tuner, "pixel_threshold_")
    with pytest.raises(ValueError, match="needs 99"):
        tuner.set_params(target_fpr=0.01).fit(X)
    with pytest.raises(NotFittedError):
        tuner.predict(X)


def test_scores_that_are_no_numbers_are_refused(F):
    class Broken(DinoPatch):
        def score_samples(self, X):
            return np.full(len(X), np.nan)

    with pytest.raises(ValueError, match=r"score of X\[\d+\] is not finite"):
        ThresholdTunerCV(Broken(), target_fpr=0.2).fit(F)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"target_fpr": 0}, "target_fpr"),
        ({"scoring": "auc"}, "scoring"),
        ({"cv": 1}, "cv"),
        ({"cv": ShuffleSplit(5)}, "twice"),
        ({"scoring": make_scorer(f1_score)}, "no scorer"),
        ({"scoring": "cost", "cost_matrix": [[0, np.inf], [1, 0]]}, "finite costs"),
        ({"refit": False}, "makes 5"),
    ],
)
def test_bad_parameters(F, params, message):
    params = {"target_fpr": 0.2, **params}
    with pytest.raises((ValueError, TypeError), match=message):
        ThresholdTunerCV(bank(), **params).fit(F)


def test_one_normal_image_cannot_do(labelled):
    X, y = labelled
    with pytest.raises(ValueError, match="One normal image"):
        ThresholdTunerCV(bank(), scoring="f1").fit(X[29:33], y[29:33])


def test_its_own_threshold_decides(F):
    tuner = ThresholdTunerCV(bank(), target_fpr=0.1).fit(F)
    expected = tuner.predict(F)
    tuner.estimator_.offset_ = 1e9
    assert np.array_equal(tuner.predict(F), expected)
    tuner.offset_ = 1e9
    assert (tuner.predict(F) == -1).all()


def test_groups_without_routing_are_told_how(products):
    X, groups = products
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        cross_validate(
            ThresholdTunerCV(bank(), target_fpr=0.1),
            X,
            np.ones(60, int),
            params={"groups": groups},
            cv=KFold(2, shuffle=True, random_state=0),
            scoring="balanced_accuracy",
            error_score="raise",
        )


# -- accept, look, reject -------------------------------------------------------------


class Given(DinoPatch):
    """Scores are what the features say: the first number of each grid."""

    def score_samples(self, X):
        return np.array([grid[0, 0, 0] for grid in X], np.float64)


def as_grids(scores):
    """Return grids that ``Given`` scores so."""
    F = np.random.default_rng(7).normal(size=(len(scores), 1, 1, 8))
    F[:, 0, 0, 0] = scores
    return F


def test_review_has_known_answers():
    tuner = ThresholdTunerCV(Given(), target_fpr=0.1, target_review_rate=0.3, cv=3)
    tuner.fit(as_grids(np.arange(19.0)))  # ranks 2 and 6 of 20
    assert (tuner.offset_, tuner.review_offset_) == (1, 5)
    verdicts = tuner.predict_review(as_grids([0.9, 1, 4.9, 5, 99]))
    assert verdicts.tolist() == [-1, 0, 0, 1, 1]
    assert tuner.predict(as_grids([0.9, 1])).tolist() == [-1, 1]  # as without review


def test_defects_accepted_are_as_rare_as_wanted():
    scores = np.concatenate([np.arange(19.0), [-5, -4, -3, -2, -1, 2, 3, 6, 7]])
    y = np.array([1] * 19 + [-1] * 9)
    tuner = ThresholdTunerCV(Given(), target_fpr=0.1, target_fnr=0.2, cv=3)
    tuner.fit(as_grids(scores), y)  # of 10 ranks the 2 highest may be accepted
    assert tuner.predict_review(as_grids([6, np.nextafter(6, 7)])).tolist() == [0, 1]
    tuner.fit(as_grids(np.append(scores[:19], scores[19:] - 10)), y)
    assert tuner.review_offset_ == tuner.offset_  # nothing to look at
    with pytest.raises(ValueError, match=r"target_fnr=0.05 needs 19 anomalous .* 9 "):
        tuner.set_params(target_fnr=0.05).fit(as_grids(scores), y)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25])
def test_review_rates_over_many_draws(rate):
    """The thresholds of 4000 draws of 39 exchangeable scores, by the tuner's ranks."""
    rng = np.random.default_rng(0)
    tuner = ThresholdTunerCV(Given(), target_fpr=rate / 2, target_review_rate=rate)
    tuner.set_params(target_fnr=rate)
    held, new = np.sort(rng.normal(size=(4000, 39))), rng.normal(size=4000)
    below = [
        new[i] < tuner._promised("target_review_rate", row, 1, 0)
        for i, row in enumerate(held)
    ]
    missed = [
        new[i] > -tuner._promised("target_fnr", -row, -1, 0)
        for i, row in enumerate(held)
    ]
    error = np.sqrt(rate * (1 - rate) / 4000)
    for rates in (np.mean(below), np.mean(missed)):
        assert abs(rates - int(40 * rate + 1e-9) / 40) < 4 * error


def test_review_for_each_group_a_split_and_a_file(F, tmp_path):
    groups = np.arange(40) % 2
    split = ShuffleSplit(1, test_size=30, random_state=0)
    tuner = ThresholdTunerCV(
        bank(), target_fpr=0.2, target_review_rate=0.5, cv=split, refit=False
    ).fit(F, groups=groups)
    assert all(tuner.offset_[k] < tuner.review_offset_[k] for k in (0, 1))
    expected = tuner.predict_review(F, groups=groups)
    assert set(expected) == {-1, 0, 1}
    again = load(save(tuner, tmp_path / "m.skd"))
    assert np.array_equal(again.predict_review(F, groups=groups), expected)
    again.set_params(target_review_rate=None).fit(F, groups=groups)
    with pytest.raises(AttributeError, match="target_review_rate, or target_fnr"):
        again.predict_review(F, groups=groups)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"target_review_rate": 0.05}, "at least target_fpr=0.1"),
        ({"target_review_rate": 0.2, "target_fnr": 0.1}, "Pass one of the two"),
        ({"target_review_rate": 0.2, "scoring": "f1"}, "scoring=None"),
        ({"target_review_rate": np.nan}, "target_review_rate"),
        ({"target_fnr": np.nan}, "target_fnr"),
        ({"target_fnr": 0.1}, "needs 9 anomalous images, and there are 0"),
    ],
)
def test_reviews_that_cannot_be_promised(F, params, message):
    with pytest.raises(ValueError, match=message):
        ThresholdTunerCV(bank(), target_fpr=0.1, **params).fit(F)


def test_splits_may_be_masks_of_rows(F):
    """True and False were row numbers 1 and 0, in silence."""
    splits = list(KFold(4).split(F))
    masks = [tuple(np.isin(np.arange(40), rows) for rows in pair) for pair in splits]
    by_rows, by_masks = (
        ThresholdTunerCV(bank(), target_fpr=0.1, cv=cv).fit(F) for cv in (splits, masks)
    )
    np.testing.assert_array_equal(by_rows.holdout_scores_, by_masks.holdout_scores_)


@pytest.mark.parametrize("value", ["a", np.nan, {0: 1.0, 1: np.nan}])
@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("offset_", ["predict", "decision_function", "predict_review"]),
        ("review_offset_", ["predict_review"]),
    ],
)
def test_thresholds_set_to_no_number_are_refused_by_name(name, methods, value):
    """Nothing is below NaN: all was good, in silence."""
    F, groups = as_grids(np.arange(19.0)), None
    tuner = ThresholdTunerCV(Given(), target_fpr=0.2, target_review_rate=0.4, cv=3)
    if isinstance(value, dict):
        groups = np.arange(19) % 2
    tuner.fit(F, groups=groups)
    setattr(tuner, name, value)
    for method in methods:
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}( is NaN|='a')"):
            getattr(tuner, method)(F, groups=groups)
