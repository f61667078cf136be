"""One pass from images to scores, labels, heat maps and regions."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline as sklearn_pipeline
from sklearn.preprocessing import FunctionTransformer

from skdinoad import (
    AnomalyDINO,
    DinoFeatures,
    DinoPatch,
    LocalBank,
    PCAAligner,
    Pipeline,
    SubspaceAD,
    ThresholdTunerCV,
    demo,
    find_regions,
    iter_maps,
    iter_results,
    load,
    predict_map,
    save,
    suggest,
)
from skdinoad._neighbors import PatchVectors, _located
from skdinoad.metrics import detection_scorer, image_auroc_scorer, pixel_aupro_scorer
from skdinoad.plotting import AnomalyMapDisplay, ProCurveDisplay
from skdinoad.scale import score_files
from skdinoad.testing import make_images


@pytest.fixture
def passes(monkeypatch):
    """Count the images that each part of a model has seen."""
    seen = Counter()

    def counting(cls, name, part, images):
        original = getattr(cls, name)

        def counted(self, X, *args, **kwargs):
            seen[part] += images(X)
            return original(self, X, *args, **kwargs)

        monkeypatch.setattr(cls, name, counted)

    counting(PCAAligner, "transform", "aligner", len)
    counting(PCAAligner, "transform_affines", "aligner", len)
    counting(DinoFeatures, "transform_affines", "network", len)
    counting(PatchVectors, "squared_distances", "bank", lambda queries: 1)
    nearest_local = _located.nearest_local

    def counted(queries, *args, **kwargs):
        seen["bank"] += len(queries)
        return nearest_local(queries, *args, **kwargs)

    monkeypatch.setattr(_located, "nearest_local", counted)
    return seen


@pytest.fixture(params=["AnomalyDINO", "DinoPatch"])
def aligned(request, photos, make_tiny):
    """A saved Pipeline of an aligner and a detector, and new photographs."""
    cls = {"AnomalyDINO": AnomalyDINO, "DinoPatch": DinoPatch}[request.param]
    detector = cls(features=make_tiny(cache=False), texture=None)
    if request.param == "AnomalyDINO":
        detector.set_params(masking=None)
    pipe = Pipeline([PCAAligner(output_size=64, mode="none"), detector])
    pipe.fit(sorted(str(path) for path in (photos / "good").iterdir()))
    paths = sorted(str(path) for path in (photos / "new").iterdir())
    return save(pipe, photos / "aligned.skd"), paths


def scored_by_command(run, model, paths, folder):
    outputs = "--csv", folder / "o.csv", "--maps", folder / "maps", "--regions"
    more = folder / "r.json", "--report", folder / "r.html"
    assert run("score", model, *paths, *outputs, *more)[0] == 0


def served(model, paths):
    testclient = pytest.importorskip("starlette.testclient")
    from skdinoad.serve import make_app

    with testclient.TestClient(make_app(model)) as client:
        for path in paths:
            with open(path, "rb") as file:
                assert client.post("/score", content=file.read()).status_code == 200


MASKS = [np.zeros((48, 64), bool)] * 2 + [np.eye(48, 64, dtype=bool)]

ENTRIES = {
    "score_samples": lambda model, X: model.score_samples(X),
    "predict": lambda model, X: model.predict(X),
    "decision_function": lambda model, X: model.decision_function(X),
    "predict_map method": lambda model, X: model.predict_map(X),
    "predict_map": lambda model, X: predict_map(model, X),
    "iter_maps": lambda model, X: list(iter_maps(model, X)),
    "iter_results": lambda model, X: list(iter_results(model, X, regions=True)),
    "kept errors": lambda model, X: list(iter_results(model, X, errors="keep")),
    "display": AnomalyMapDisplay.from_estimator,
    "curve": lambda model, X: ProCurveDisplay.from_estimator(model, X, MASKS),
    "image scorer": lambda model, X: image_auroc_scorer(model, X, [1, 1, -1]),
    "pixel scorer": lambda model, X: pixel_aupro_scorer(model, X, MASKS),
    "joint scorer": lambda model, X: detection_scorer(model, X, MASKS),
    "server": served,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_image_passes_once(passes, aligned, entry):
    model, paths = load(aligned[0]), aligned[1]
    passes.clear()
    ENTRIES[entry](model, paths)
    assert passes == {"aligner": 3, "network": 3, "bank": 3}


def test_each_image_of_the_command_line_passes_once(run, passes, aligned, tmp_path):
    passes.clear()
    scored_by_command(run, *aligned, tmp_path)
    assert passes == {"aligner": 3, "network": 3, "bank": 3}


def test_each_image_of_a_data_set_passes_once(passes, aligned, tmp_path):
    passes.clear()
    score_files(*aligned, tmp_path / "out")
    assert passes == {"aligner": 3, "network": 3, "bank": 3}


def test_each_image_of_the_demo_passes_once(passes, aligned, tmp_path, monkeypatch):
    X = [np.asarray(Image.open(path)) for path in aligned[1]]
    data = demo._bunch([*make_images(4)], X[:2], X[2:], MASKS[2:])
    pipe = load(aligned[0])
    # It is fitted already, and that is not to be counted.
    monkeypatch.setattr(Pipeline, "fit", lambda self, X: self)
    passes.clear()
    demo.report("a name", data, pipe, tmp_path)
    assert passes == {"aligner": 3, "network": 3, "bank": 3}


def test_a_suggested_setting_costs_one_pass_of_each_fold(passes, make_tiny):
    X = make_images(6, size=(48, 64))
    detector = SubspaceAD(features=make_tiny(cache=False), rotations="none")
    suggest(X, detector, {"target_fpr": [0.05]}, cv=2, size=0.2)
    # Each fold learns from three images and scores three and their copies; in the end
    # all six are learned.
    fitted = Counter(passes)
    passes.clear()
    SubspaceAD(features=make_tiny(cache=False), rotations="none").fit(X)
    of_fit = passes["network"] / len(X)
    assert fitted["network"] == of_fit * (3 + 3 + 6) + 6 + 6


# -- what a result says ---------------------------------------------------------------


def wrappers(detector):
    pipe = Pipeline([PCAAligner(output_size=64, mode="none"), detector])
    return {
        "detector": detector,
        "pipeline": pipe,
        "nested": sklearn_pipeline(FunctionTransformer(), pipe),
        "tuner": ThresholdTunerCV(pipe, target_fpr=0.3, target_review_rate=0.5, cv=2),
        "search": GridSearchCV(
            pipe,
            {"dinopatch__bank__neighborhood": [0, 1]},
            cv=StratifiedKFold(2),
            scoring=image_auroc_scorer,
        ),
    }


@pytest.mark.parametrize("kind", wrappers(DinoPatch()))
def test_results_are_what_the_other_methods_say(tiny, kind):
    model = wrappers(DinoPatch(features=tiny))[kind]
    X = make_images(9, size=(48, 64))
    odd = X[:2].copy()
    odd[:, 10:30, 20:50] = [255, 0, 255]
    labels = [1] * 6
    if kind == "search":
        model.fit(np.concatenate([X[:6], odd]), [*labels, -1, -1])
    else:
        model.fit(X[:6])
    new = np.concatenate([X[6:], odd[:1]])
    results = list(iter_results(model, new, regions=True))
    scores = [result.score for result in results]
    np.testing.assert_allclose(scores, model.score_samples(new), rtol=1e-6)
    assert [result.label for result in results] == model.predict(new).tolist()
    np.testing.assert_array_equal(
        np.stack([result.heat for result in results]), predict_map(model, new)
    )
    if hasattr(model, "decision_function"):
        found = [result.decision for result in results]
        np.testing.assert_allclose(found, model.decision_function(new), rtol=1e-6)
    if kind == "tuner":
        found = [result.p_value for result in results]
        assert found == model.p_values(new).tolist()
        reviewed = [result.review for result in results]
        assert reviewed == (model.predict_review(new) == 0).tolist()
        limit = model.estimator_.pixel_threshold_
    else:
        owner = {"search": "best_estimator_"}.get(kind)
        known = getattr(model, owner) if owner else model
        known = known if hasattr(known, "pixel_threshold_") else known[-1]
        limit = known.pixel_threshold_
        assert {result.review for result in results} == {None}
    for result in results:
        expected = [region.box for region in find_regions(result.heat, limit)]
        assert [region.box for region in result.regions] == expected
    assert results[-1].verdict == "defect"
    assert results[-1].regions


def test_frozen_estimators_and_feature_grids_are_taken(rng):
    F = rng.random((5, 3, 4, 8)).astype(np.float32)
    model = DinoPatch(bank=LocalBank(neighborhood=0)).fit(F)
    results = list(iter_results(FrozenEstimator(model), F))
    assert [result.heat.shape for result in results] == [(3, 4)] * 5
    found = [result.score for result in results]
    np.testing.assert_allclose(found, model.score_samples(F))


def test_a_broken_image_is_kept_and_spoils_no_other(tiny, tmp_path):
    X = make_images(5, size=(48, 64))
    model = DinoPatch(features=tiny).fit(X)
    paths = []
    for i in range(40):
        paths.append(str(tmp_path / f"{i:02}.png"))
        Image.fromarray(X[i % 5]).save(paths[-1])
    (tmp_path / "03.png").write_bytes(b"no image")
    (tmp_path / "34.png").unlink()
    Image.fromarray(X[0][:30]).save(paths[17])
    results = list(iter_results(model, paths, errors="keep"))
    broken = {i: result for i, result in enumerate(results) if result.error}
    assert {i: type(result.error) for i, result in broken.items()} == {
        3: ValueError,
        17: ValueError,
        34: FileNotFoundError,
    }
    for i, result in broken.items():
        assert f"X[{i}]" in str(result.error)
        assert result.verdict == "broken"
        assert np.isnan(result.score)
        assert result.heat is result.label is result.decision is result.p_value is None
    good = [path for i, path in enumerate(paths) if i not in broken]
    scores = [result.score for result in results if not result.error]
    np.testing.assert_allclose(scores, model.score_samples(good), rtol=1e-6)
    with pytest.raises(ValueError, match=r"X\[3\]"):
        list(iter_results(model, paths))


def test_a_broken_grid_is_called_by_its_row(rng):
    F = rng.random((40, 3, 4, 8)).astype(np.float32)
    model = DinoPatch(bank=LocalBank(neighborhood=0)).fit(F)
    F[35] = np.nan
    results = list(iter_results(model, list(F), errors="keep"))
    assert [i for i, result in enumerate(results) if result.error] == [35]
    assert "X[35]" in str(results[35].error)


def test_other_errors_end_the_iteration(tiny, monkeypatch):
    X = make_images(5, size=(48, 64))
    model = DinoPatch(features=tiny).fit(X)

    def fail(*_):
        raise RuntimeError("the store does not answer")

    monkeypatch.setattr(DinoFeatures, "transform_affines", fail)
    with pytest.raises(RuntimeError, match="does not answer"):
        list(iter_results(model, X, errors="keep"))


def test_without_a_threshold_there_is_no_label(tiny):
    X = make_images(3, size=(48, 64))
    with pytest.warns(UserWarning, match="single image"):
        model = DinoPatch(features=tiny).fit(X[:1])
    (result,) = iter_results(model, X[1:2])
    assert np.isfinite(result.score)
    assert result.heat.shape == (48, 64)
    assert result.decision is result.label is result.verdict is result.p_value is None
    with pytest.raises(ValueError, match="no threshold on heat maps"):
        iter_results(model, X, regions=True)


def test_groups_have_their_own_thresholds(rng):
    F, groups = rng.random((30, 2, 2, 8)).astype(np.float32), np.arange(30) % 2
    tuner = ThresholdTunerCV(DinoPatch(), target_fpr=0.2).fit(F, groups=groups)
    results = list(iter_results(tuner, F, groups=groups))
    assert [result.label for result in results] == tuner.predict(F, groups).tolist()
    p_values = [result.p_value for result in results]
    assert p_values == tuner.p_values(F, groups).tolist()
    assert next(iter_results(tuner, F)).label is None
    for wrong, why in (([0], "expected"), ([7] * 30, "Group 7 is unknown")):
        with pytest.raises(ValueError, match=why):
            iter_results(tuner, F, groups=wrong)
    with pytest.raises(ValueError, match="fit had none"):
        iter_results(DinoPatch().fit(F), F, groups=groups)


def test_mistakes_are_told_at_once(tiny):
    model = DinoPatch(features=tiny).fit(make_images(3, size=(48, 64)))
    with pytest.raises(ValueError, match="errors='skip': expected 'raise' or 'keep'"):
        iter_results(model, make_images(2), errors="skip")
    with pytest.raises(TypeError, match="no heat maps"):
        iter_results(PCAAligner(), make_images(2))


def test_memory_holds_a_batch(tiny):
    """Images after the batch that is asked for are not read yet."""
    X = make_images(4, size=(48, 64))
    model = DinoPatch(features=tiny).fit(X)
    results = iter_results(model, [*X] * 2 + ["missing.png"], maps=False)
    assert next(results).heat is None
    with pytest.raises(FileNotFoundError, match=r"missing.png"):
        list(results)


def test_steps_that_change_the_geometry_unseen_still_score(tiny):
    """Scores need no way back to the image; heat maps do."""
    half = FunctionTransformer(lambda X: np.asarray(X)[:, ::2, ::2])
    X = make_images(5, size=(96, 128))
    model = sklearn_pipeline(half, DinoPatch(features=tiny)).fit(X)
    found = [result.score for result in iter_results(model, X, maps=False)]
    np.testing.assert_allclose(found, model.score_samples(X), rtol=1e-6)
    with pytest.raises(TypeError, match="no transform_affines"):
        list(iter_results(model, X))


def test_regions_are_plain_numbers_where_json_wants_them():
    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 5] = 3
    said = json.loads(json.dumps([r.as_dict() for r in find_regions(heat, 1.0)]))
    assert said == [
        {"box": [2, 5, 4, 6], "area": 2, "peak": 3.0, "mean": 3.0, "place": [2, 5]}
    ]
