import warnings

import cv2
import joblib
import numpy as np
import pytest
import torch
from conftest import build, tiny_features
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import Pipeline as SklearnPipeline
from sklearn.pipeline import make_pipeline as sklearn_make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

from skdinoad import (
    DFR,
    DMAD,
    AnomalyDINO,
    DinoFeatures,
    Dinomaly,
    DinoPatch,
    PCAAligner,
    Pipeline,
    ThresholdTunerCV,
    dump,
    iter_maps,
    make_pipeline,
    predict_map,
)
from skdinoad import pipeline as module
from skdinoad.datasets import make_screws
from skdinoad.testing import checks_for, make_images

#: Outlier detectors are no classifiers: a plain cv=2 would not mix the classes.
STRATIFIED = StratifiedKFold(2)


@pytest.fixture(scope="module")
def screws():
    """Return (good, bad, masks)."""
    good, _ = make_screws(8, size=128, random_state=0)
    return good, *make_screws(4, size=128, defect="scratch", random_state=1)


def steps():
    return PCAAligner(output_size=128), DinoPatch(
        features=tiny_features(image_size=128)
    )


def test_bare_steps_are_named_as_make_pipeline_names_them():
    assert [n for n, _ in Pipeline(list(steps())).steps] == ["pcaaligner", "dinopatch"]
    twice = Pipeline([PCAAligner(), PCAAligner(), ("last", DinoPatch())])
    assert [n for n, _ in twice.steps] == ["pcaaligner-1", "pcaaligner-2", "last"]
    assert isinstance(make_pipeline(*steps()), Pipeline)


def test_pairs_are_stored_untouched_so_clone_works():
    pairs = [("a", PCAAligner()), ("b", DinoPatch())]
    pipe = Pipeline(pairs)
    assert pipe.steps is pairs
    copy = clone(Pipeline(list(steps())))
    assert list(copy.named_steps) == ["pcaaligner", "dinopatch"]
    assert isinstance(pipe[:1], Pipeline)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, d: Pipeline([a, d]),
        lambda a, d: make_pipeline(a, d),
        lambda a, d: sklearn_make_pipeline(a, d),
        lambda a, d: SklearnPipeline([("a", a), ("b", Pipeline([d]))]),
        lambda a, d: Pipeline([Pipeline([a, "passthrough"]), None, d]),
        lambda a, d: Pipeline([a, FunctionTransformer(_same), d]),
        lambda a, d: Pipeline([a, d.features, clone(d).set_params(features=None)]),
        lambda a, d: GridSearchCV(
            Pipeline([a, d]), {"dinopatch__aggregate": ["max"]}, cv=2, scoring=_first
        ),
    ],
    ids=[
        "ours",
        "make",
        "sklearn",
        "nested end",
        "nested start",
        "function",
        "features apart",
        "search",
    ],
)
def test_maps_and_scores_are_equal_however_the_steps_are_wrapped(wrap, screws):
    good, bad, _ = screws
    aligner, detector = steps()
    expected = Pipeline([aligner, detector]).fit(good)
    wrapped = wrap(*steps()).fit(good)
    maps = predict_map(wrapped, bad)
    assert maps.shape == bad.shape[:3]
    np.testing.assert_allclose(maps, expected.predict_map(bad), atol=1e-4)
    frozen = FrozenEstimator(wrapped)
    np.testing.assert_array_equal(predict_map(frozen, bad), maps)


def _same(X):
    return X


def _first(estimator, X, y=None):
    return float(estimator.decision_function(X).mean())


def test_chunks_do_not_change_maps(screws, monkeypatch):
    good, bad, _ = screws
    pipe = Pipeline(list(steps())).fit(good)
    whole = pipe.predict_map(bad)
    monkeypatch.setattr(module, "_CHUNK", 3)
    np.testing.assert_allclose(pipe.predict_map(bad), whole, atol=1e-4)


class _Lazy(list):
    """Images that note which of their rows were read."""

    def __init__(self, images):
        super().__init__(images)
        self.read = set()

    def __getitem__(self, index):
        if isinstance(index, slice):  # as a Pipeline's part: not read yet
            return self
        self.read.add(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("behind", [PCAAligner(output_size=128), None])
def test_maps_one_by_one_are_all_maps_and_read_one_batch_ahead(
    behind, screws, monkeypatch
):
    monkeypatch.setattr(module, "_CHUNK", 2)
    good, bad, _ = screws
    detector = DinoPatch(features=tiny_features(image_size=128, batch_size=2))
    model = (detector if behind is None else Pipeline([behind, detector])).fit(good)
    X = _Lazy(np.concatenate([bad, good[:3]]))
    expected, read = predict_map(model, list(X)), []
    for row, heat in enumerate(iter_maps(model, X)):
        assert np.array_equal(heat, expected[row])
        read.append(max(X.read))
    assert read == [1, 1, 3, 3, 5, 5, 6]


def test_the_caller_is_undisturbed_between_two_maps(screws):
    good, bad, _ = screws
    model = DinoPatch(features=tiny_features()).fit(good)
    expected = model.predict_map(bad)
    with torch.no_grad():
        torch.set_default_dtype(torch.float64)
        try:
            for heat, known in zip(iter_maps(model, bad), expected):
                assert np.array_equal(heat, known)
                assert torch.get_default_dtype() is torch.float64
                assert not torch.is_grad_enabled()
        finally:
            torch.set_default_dtype(torch.float32)


def test_maps_one_by_one_refuse_what_predict_map_refuses(screws):
    good, bad, _ = screws
    model = DinoPatch(features=tiny_features(batch_size=2))
    with pytest.raises(NotFittedError):
        iter_maps(model, bad)
    maps = iter_maps(model.fit(good), [*bad, bad[0] / 100.0])
    assert len([next(maps) for _ in bad]) == 4  # those before the bad one are there
    with pytest.raises(ValueError, match=r"X\[4\]"):
        next(maps)
    hidden = in_region(good, 90)
    with pytest.warns(UserWarning, match=r"X\[0\] and 3 more"):
        list(iter_maps(model.fit(hidden), bad))


def test_maps_go_back_to_images_of_any_size(screws):
    good, bad, _ = screws
    pipe = Pipeline(list(steps())).fit(good)
    X = [bad[0], bad[1][:100, :120], bad[2]]
    assert [m.shape for m in pipe.predict_map(X)] == [
        (128, 128),
        (100, 120),
        (128, 128),
    ]


def test_bad_image_is_named_by_its_row_also_behind_steps(screws):
    good, bad, _ = screws
    pipe = Pipeline(list(steps())).fit(good)
    X = [*bad, bad[0] / 100.0]
    with pytest.raises(ValueError, match=r"X\[4\]"):
        pipe.predict_map(X)
    with pytest.raises(ValueError, match=r"X\[4\]"):
        pipe.predict(X)


class _Halver(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X[:, ::2, ::2]


def test_step_that_moves_pixels_without_frames_is_refused(screws):
    good, _, _ = screws
    pipe = Pipeline([_Halver(), DinoPatch(features=tiny_features())]).fit(good)
    assert pipe.predict(good).shape == (8,)
    with pytest.raises(TypeError, match=r"_Halver.* has no transform_affines"):
        pipe.predict_map(good)


def test_estimator_without_maps_is_refused(screws):
    with pytest.raises(TypeError, match="no heat maps"):
        predict_map(PCAAligner(), screws[0])
    assert not hasattr(Pipeline([PCAAligner()]), "predict_map")
    assert hasattr(Pipeline([PCAAligner(), DinoPatch()]), "predict_map")


def labelled(screws):
    good, bad, _ = screws
    return np.concatenate([good, bad]), np.array([1] * len(good) + [-1] * len(bad))


def test_search_over_every_level_computes_each_image_once(screws, monkeypatch):
    X, y = labelled(screws)
    seen, run = [], DinoFeatures._run

    def counted(self, images, *sizes):
        seen.append(len(images))
        return run(self, images, *sizes)

    monkeypatch.setattr(DinoFeatures, "_run", counted)
    grid = {
        "bank__neighborhood": [0, 1],
        "score_smoothing": [0, 1],
        "aggregate": ["max", 0.02, "mean"],
    }
    detector = DinoPatch(features=tiny_features())
    search = GridSearchCV(detector, grid, scoring="roc_auc", cv=STRATIFIED).fit(X, y)
    assert search.best_estimator_.score_samples(X).shape == y.shape
    assert sum(seen) == len(X)


def test_default_features_are_searchable_inside_a_pipeline(screws):
    X, y = labelled(screws)
    pipe = Pipeline([PCAAligner(output_size=64), DinoPatch()])
    tiny = {"model": "test_vit", "weights": "random:0"}
    grid = {f"dinopatch__features__{k}": [v] for k, v in tiny.items()}
    grid["dinopatch__features__image_size"] = [48, 64]
    grid["pcaaligner__support"] = ["hull", "filled"]
    search = GridSearchCV(pipe, grid, scoring="roc_auc", cv=STRATIFIED).fit(X, y)
    assert set(search.best_params_) == set(grid)


def test_folds_never_train_on_a_defect(screws):
    X, y = labelled(screws)
    out = cross_validate(
        Pipeline(list(steps())),
        X,
        y,
        cv=STRATIFIED,
        scoring="roc_auc",
        return_estimator=True,
    )
    sizes = [e[-1].bank_.vectors.shape[3] for e in out["estimator"]]
    assert sizes == [4, 4]  # half of the eight good ones, never a bad one


def test_out_of_fold_scores_and_processes(screws):
    good, _, _ = screws
    pipe = Pipeline(list(steps()))
    one = cross_val_predict(pipe, good, method="decision_function", cv=4)
    two = cross_val_predict(pipe, good, method="decision_function", cv=4, n_jobs=2)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_paths_go_through_the_whole_pipeline(screws, tmp_path):
    from PIL import Image

    good, bad, _ = screws
    paths = []
    for i, image in enumerate(np.concatenate([good, bad])):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    paths = np.array(paths)
    pipe = Pipeline(list(steps()))
    expected = pipe.fit(good).predict_map(bad)
    np.testing.assert_array_equal(pipe.fit(paths[:8]).predict_map(paths[8:]), expected)
    y = np.array([1] * 8 + [-1] * 4)
    search = GridSearchCV(
        pipe,
        {"dinopatch__bank__neighborhood": [0, 1]},
        scoring="roc_auc",
        cv=STRATIFIED,
    )
    assert search.fit(paths, y).best_score_ > 0


def test_messages_name_the_row_of_x_beyond_the_first_chunk(make_tiny):
    X = make_images(40)
    clear = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    pipe = Pipeline(
        [PCAAligner(mode="none", output_size=64), DinoPatch(features=make_tiny())]
    )
    pipe.fit(clear[:5])
    clear[36, ..., 3] = 0
    with pytest.raises(ValueError, match=r"X\[36\] has no valid patch"):
        pipe.predict_map(clear)


# -- the common checks, through an aligner ------------------------------------------

#: They ask for attributes and parameters of the detector, which is a step here; the
#: tests below ask the same of the step.
_OF_DETECTORS = {
    "check_an_interrupted_fit_leaves_nothing_half_new",
    "check_parameters_are_checked_in_fit",
    "check_scores_labels_and_offset_agree",
    "check_threshold_comes_from_held_out_scores",
    "check_a_higher_target_fpr_flags_more",
}


@pytest.mark.filterwarnings("ignore:.*no object")
@pytest.mark.parametrize(
    "check",
    [c for c in checks_for(DinoPatch()) if c.__name__ not in _OF_DETECTORS],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("cls", [DinoPatch, Dinomaly, DFR, DMAD])
def test_common_check_through_an_aligner(cls, check):
    check(Pipeline([PCAAligner(output_size=64), build(cls)]))


@pytest.mark.parametrize("cls", [DinoPatch, Dinomaly, DFR, DMAD])
def test_thresholds_through_an_aligner(cls):
    X = make_images(12)
    pipe = Pipeline([("align", PCAAligner(output_size=64)), ("detect", build(cls))])
    scores = pipe.fit(X[:8]).score_samples(X)
    decision, labels = pipe.decision_function(X), pipe.predict(X)
    np.testing.assert_allclose(decision, scores - pipe[-1].offset_)
    assert np.array_equal(labels, np.where(decision < 0, -1, 1))
    assert pipe[-1].holdout_scores_.shape == (8,)
    assert (labels[8:] == 1).any()
    offsets = [
        clone(pipe).set_params(detect__target_fpr=share).fit(X)[-1].offset_
        for share in (0.1, 0.5)
    ]
    assert offsets[0] < offsets[1]
    for name in ("align__output_size", "detect__target_fpr"):
        with pytest.raises(ValueError, match=name.split("__")[1]):
            clone(pipe).set_params(**{name: -1}).fit(X)


# -- regions and depth --------------------------------------------------------------


def in_region(X, color):
    """Return images of which a strip is hidden, with that colour there."""
    alpha = np.full_like(X[..., :1], 255)
    X, alpha[:, :, -30:] = X.copy(), 0
    X[:, :, -30:] = color
    return np.concatenate([X, alpha], axis=-1)


@pytest.mark.parametrize("mode", ["full", "none"])
def test_what_lies_outside_a_region_never_matters(screws, mode):
    good, bad, _ = screws
    aligner, detector = steps()
    pipe = Pipeline([aligner.set_params(mode=mode), detector])
    one, other = (clone(pipe).fit(in_region(good, c)) for c in (90, (255, 0, 0)))
    for model in (one, other):
        for color in (0, (0, 255, 0)):
            X, Y = in_region(bad, 90), in_region(bad, color)
            assert np.array_equal(model.score_samples(Y), one.score_samples(X))
            assert np.array_equal(model.predict_map(Y), one.predict_map(X))


def test_missing_alpha_is_told_once_for_all_chunks(screws, monkeypatch):
    good, bad, _ = screws
    pipe = Pipeline(list(steps())).fit(in_region(good, 90))
    monkeypatch.setattr(module, "_CHUNK", 2)
    for call in (pipe.predict_map, pipe.predict):
        with pytest.warns(UserWarning, match=r"X\[0\] and 3 more") as caught:
            call(bad)
        assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.predict_map(in_region(bad, 0))
        # An aligner in front gives alpha itself: its padding is nobody's region.
        Pipeline(list(steps())).fit(good).predict_map(bad)


def test_deep_images_go_through_pipelines_and_searches(screws, tmp_path):
    good, bad, _ = screws
    deep, odd = (X[..., 0].astype(np.uint16) * 16 for X in (good, bad))
    pipe = Pipeline(list(steps())).fit(deep)
    low, high = pipe[0].value_range_
    assert pipe[1].value_range_ is None
    scaled = [
        np.round((X - np.float32(low)) * np.float32(255 / (high - low)))
        .clip(0, 255)
        .astype(np.uint8)
        for X in (deep, odd)
    ]
    plain = clone(pipe).fit(scaled[0])
    np.testing.assert_array_equal(
        pipe.score_samples(odd), plain.score_samples(scaled[1])
    )
    np.testing.assert_array_equal(pipe.predict_map(odd), plain.predict_map(scaled[1]))
    paths = [str(tmp_path / f"{i}.png") for i in range(len(odd))]
    for path, image in zip(paths, odd):
        cv2.imwrite(path, image)
    np.testing.assert_array_equal(pipe.predict_map(paths), pipe.predict_map(odd))
    with pytest.raises(ValueError, match=r"X\[0\] .*uint8.*uint16"):
        pipe.predict_map(good)
    X, y = np.concatenate([deep, odd]), np.repeat([1, -1], [len(deep), len(odd)])
    search = GridSearchCV(
        clone(pipe),
        {"dinopatch__bank__neighborhood": [0, 1]},
        scoring="roc_auc",
        cv=STRATIFIED,
    ).fit(X, y)
    assert search.best_estimator_[0].value_range_ == (low, high)
    assert predict_map(search, odd).shape == odd.shape


def test_features_as_a_step_learn_the_range(screws):
    deep = screws[0][..., 0].astype(np.uint16) * 16
    features = tiny_features(image_size=128)
    apart = Pipeline([features, DinoPatch(features="passthrough")]).fit(deep)
    inside = DinoPatch(features=features).fit(deep)
    assert apart[0].value_range_ == inside.value_range_
    np.testing.assert_allclose(apart.score_samples(deep), inside.score_samples(deep))


# -- all or nothing, and a threshold by hand -----------------------------------------


def two_steps(make_tiny, **parameters):
    detector = DinoPatch(features=make_tiny(), **parameters)
    return Pipeline([PCAAligner(mode="none", output_size=64), detector])


def test_a_fit_that_fails_leaves_no_hybrid(make_tiny, monkeypatch):
    pipe = two_steps(make_tiny).fit(make_images(4))

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(DinoPatch, "_set_offset", stop)
    with pytest.raises(KeyboardInterrupt):
        pipe.fit(make_images(5, random_state=1))
    with pytest.raises(NotFittedError):
        pipe.predict(make_images(2))
    assert not hasattr(pipe[0], "output_size_")


@pytest.mark.parametrize("make", [DinoPatch, AnomalyDINO])
@pytest.mark.parametrize("where", ["_extend", "_set_offset", "_register_images"])
def test_more_images_come_whole_or_not_at_all(make, where, make_tiny, monkeypatch):
    X, new = make_images(9), make_images(4, random_state=5)
    detector = make(features=make_tiny()).fit(X[:5])
    expected = detector.score_samples(new), detector.offset_
    inner = getattr(make, where)

    def stop(self, *args):
        inner(self, *args)
        raise MemoryError

    monkeypatch.setattr(make, where, stop)
    with pytest.raises(MemoryError):
        detector.partial_fit(X[5:])
    monkeypatch.undo()
    assert np.array_equal(detector.score_samples(new), expected[0])
    assert detector.offset_ == expected[1]
    whole = detector.partial_fit(X[5:]).score_samples(new)
    again = make(features=make_tiny()).fit(X[:5]).partial_fit(X[5:])
    assert np.array_equal(again.score_samples(new), whole)


def test_threshold_and_limits_by_hand(make_tiny, tmp_path):
    X = make_images(6)
    pipe = two_steps(make_tiny)
    for name in ("offset_", "map_limits_", "pixel_threshold_"):
        with pytest.raises(AttributeError, match=f"no {name}: it is not fitted"):
            getattr(pipe, name)
    pipe.fit(X)
    assert pipe.offset_ == pipe[-1].offset_
    assert pipe.pixel_threshold_ == pipe[-1].pixel_threshold_
    pipe.pixel_threshold_ = 7.0
    assert pipe[-1].pixel_threshold_ == 7
    pipe.offset_, pipe.map_limits_ = 1e9, (0.0, 2.0)
    assert (pipe.predict(X) == -1).all()
    assert (pipe[-1].offset_, pipe[-1].map_limits_) == (1e9, (0.0, 2.0))
    loaded = joblib.load(dump(pipe, tmp_path / "m.joblib"))
    assert loaded.offset_ == 1e9
    assert not hasattr(clone(pipe), "offset_")
    nested = Pipeline([("inner", pipe)])
    nested.offset_ = -1e9
    assert (nested.predict(X) == 1).all()
    frozen = Pipeline([("frozen", FrozenEstimator(pipe))])
    assert frozen.offset_ == -1e9
    tuner = ThresholdTunerCV(two_steps(make_tiny), target_fpr=0.3, cv=2)
    outer = Pipeline([("tuner", tuner)]).fit(X)
    outer.offset_ = 1e9
    assert tuner.offset_ == 1e9
    assert (outer.predict(X) == -1).all()
    inside = tuner.estimator_[-1]
    assert outer.pixel_threshold_ == inside.pixel_threshold_
    tuner.set_params(target_pixel_fpr=0.3).fit(X)
    assert outer.pixel_threshold_ == tuner.pixel_threshold_


def test_steps_are_judged_in_fit_and_named_by_set_params(make_tiny):
    for steps in (3, [3], [("a",)], None):
        pipe = Pipeline(steps)
        with pytest.raises((TypeError, ValueError), match="step"):
            pipe.fit(make_images())
    pipe = Pipeline([PCAAligner()]).set_params(steps=[DinoPatch(features=make_tiny())])
    assert list(pipe.named_steps) == ["dinopatch"]
    assert type(two_steps(make_tiny)[:1]) is Pipeline


def test_tags_are_those_of_the_first_step(make_tiny):
    for pipe in (two_steps(make_tiny), Pipeline([("p", two_steps(make_tiny))])):
        tags = get_tags(pipe).input_tags
        assert (tags.two_d_array, tags.three_d_array) == (False, True)


def quick():
    aligner = PCAAligner(mode="none", output_size=64)
    return Pipeline([aligner, DinoPatch(features=tiny_features())])


@pytest.mark.parametrize(
    "steps",
    [
        3,
        None,
        "ab",
        PCAAligner(),
        {"a": DinoPatch()},
        [("a", PCAAligner(), 3)],
        [("a",)],
        [(1, DinoPatch())],
        [(), DinoPatch()],
        [PCAAligner(), 3],
        [],
    ],
    ids=repr,
)
def test_odd_steps_are_refused_in_fit_and_not_before(steps):
    pipe = Pipeline(steps)
    clone(pipe).get_params()
    get_tags(pipe)
    assert not any(hasattr(pipe, name) for name in ("predict_map", "offset_"))
    with pytest.raises((TypeError, ValueError), match=r"expects steps|step|empty"):
        pipe.fit(make_images())


@pytest.mark.parametrize(
    "steps",
    [
        [PCAAligner(), DinoPatch()],
        [None, Pipeline([PCAAligner()]), DinoPatch()],
        [SklearnPipeline([("a", PCAAligner())]), DinoPatch()],
        [FrozenEstimator(PCAAligner()), DinoPatch()],
        [Pipeline([Pipeline([DinoPatch()])])],
    ],
)
def test_tags_say_that_x_holds_images_as_the_first_step_does(steps):
    tags = get_tags(Pipeline(steps)).input_tags
    assert (tags.two_d_array, tags.three_d_array) == (False, True)
    plain = get_tags(Pipeline([FunctionTransformer(), DinoPatch()])).input_tags
    assert plain.two_d_array


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
@pytest.mark.parametrize("method", ["fit", "fit_predict"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda pipe: pipe,
        lambda pipe: Pipeline([pipe]),
        lambda pipe: Pipeline([SklearnPipeline([("a", pipe[:1])]), pipe[-1]]),
    ],
    ids=["flat", "nested", "foreign inside"],
)
def test_new_aligner_and_old_detector_never_score_together(
    monkeypatch, error, method, wrap
):
    """Stopped when the aligner has been fitted anew and the detector not yet."""
    X = make_images()
    pipe = wrap(quick()).fit(X)

    def stop(*_, **__):
        raise error

    monkeypatch.setattr(DinoPatch, method, stop)
    with pytest.raises(error):
        getattr(pipe, method)(X[::-1])
    for ask in (pipe.predict, pipe.score_samples, pipe.predict_map):
        with pytest.raises(NotFittedError):
            ask(X)


def test_an_interrupted_fit_leaves_frozen_steps_alone(monkeypatch):
    X = make_images()
    frozen = FrozenEstimator(PCAAligner(mode="none", output_size=64).fit(X))
    pipe = Pipeline([frozen, DinoPatch(features=tiny_features())]).fit(X)
    monkeypatch.setattr(DinoPatch, "_set_offset", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipe.fit(X)
    assert len(frozen.transform(X)) == 6
    with pytest.raises(NotFittedError):
        pipe.predict(X)


def searched(pipe):
    grid = {"dinopatch__aggregate": ["max"]}
    return GridSearchCV(pipe, grid, cv=2, scoring=_first)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda pipe: pipe,
        lambda pipe: Pipeline([pipe]),
        lambda pipe: Pipeline([SklearnPipeline([("a", pipe)])]),
        lambda pipe: Pipeline(
            [
                GridSearchCV(
                    pipe, {"dinopatch__aggregate": ["max"]}, cv=2, scoring=_first
                )
            ]
        ),
        lambda pipe: Pipeline([FrozenEstimator(pipe.fit(make_images(8)))]),
        lambda pipe: Pipeline([ThresholdTunerCV(pipe, target_fpr=0.5, cv=2)]),
    ],
    ids=["flat", "nested", "foreign", "search", "frozen", "tuner"],
)
def test_the_threshold_set_on_a_pipeline_decides(wrap, tmp_path):
    X = make_images(8)
    pipe = wrap(quick())
    pipe.fit(X)
    scores, new = pipe.score_samples(X), make_images(4, random_state=1)
    np.testing.assert_allclose(pipe.decision_function(X), scores - pipe.offset_)
    pipe.offset_, pipe.map_limits_ = 1e9, (1.0, 2.0)
    assert (pipe.offset_, pipe.map_limits_) == (1e9, (1.0, 2.0))
    assert (pipe.predict(new) == -1).all()
    loaded = joblib.load(dump(pipe, tmp_path / "model.joblib"))
    assert (loaded.predict(new) == -1).all()
    pipe.offset_ = -1e9
    assert (pipe.predict(new) == 1).all()


def test_clone_and_fit_forget_the_threshold_set_by_hand():
    X = make_images()
    pipe = quick().fit(X)
    learned, pipe.offset_ = pipe.offset_, 1e9
    assert not hasattr(clone(pipe), "offset_")
    assert clone(pipe).fit(X).offset_ == learned
    assert pipe.fit(X).offset_ == learned
