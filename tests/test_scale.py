"""Merged detectors equal one fit; parts of files are scored once, whoever dies."""

import ast
import csv
import importlib
import inspect
import json
import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path
from threading import Thread

import cv2
import joblib
import numpy as np
import pytest
import torch
from conftest import tiny_features
from PIL import Image
from sklearn.exceptions import NotFittedError

import skdinoad
from skdinoad import (
    DFR,
    AnomalyDINO,
    DinoPatch,
    PCAAligner,
    Pipeline,
    SubspaceAD,
    iter_results,
    predict_map,
    save,
    scale,
)
from skdinoad.features._backbones import load_backbone
from skdinoad.scale import (
    cache_features,
    fit_sharded,
    merge,
    parts_to_score,
    score_files,
    score_part,
)
from skdinoad.testing import make_images

LEARNED = [
    *("holdout_scores_", "offset_", "layer_scales_", "map_limits_"),
    "pixel_threshold_",
]


@pytest.fixture
def grids(rng):
    """Features of eleven images in two layers; the last two show what others show."""
    F = rng.normal(size=(9, 5, 6, 2, 8)).astype(np.float32)
    F[2, :2, 3] = np.nan
    return np.concatenate([F, F[[0, 7]]])


def plain(**parameters):
    return AnomalyDINO(masking=False, **{"bank_size": None, **parameters})


def in_parts(F):
    return [F[:4], F[4:5], F[5:]]


def quietly(call, *arguments, **parameters):
    """What shards say of copies and single images is not the question."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return call(*arguments, **parameters)


def assert_same(detector, whole, new, **tolerance):
    """Both learned the same and score the same; exactly, if no tolerance is given."""
    for name in LEARNED:
        a, b = getattr(detector, name), getattr(whole, name)
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance}, err_msg=name)
    for method in ("score_samples", "predict_map"):
        a, b = getattr(detector, method)(new), getattr(whole, method)(new)
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance}, err_msg=method)


def kinds(**parameters):
    return {
        "AnomalyDINO": plain(**parameters),
        "three neighbours": plain(n_neighbors=3, **parameters),
        "nearest images": plain(nearest_images=2, **parameters),
        "nearest objects": AnomalyDINO(
            masking=True, nearest_images=2, bank_size=None, **parameters
        ),
        "masks": AnomalyDINO(bank_size=None, **parameters),
        "masks as zeros": AnomalyDINO(
            masking=True, masked_score="zero", bank_size=None, **parameters
        ),
        "DinoPatch": DinoPatch(**parameters),
        "DinoPatch all over": DinoPatch(
            global_weight=0.5, baseline="subtract", threshold_quantile=0.2, **parameters
        ),
    }


# -- merge ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_merged_whole_banks_equal_one_fit(grids, rng, kind):
    new = rng.normal(size=(3, 5, 6, 2, 8)).astype(np.float32)
    estimator = kinds()[kind]
    parts = [quietly(kinds()[kind].fit, part) for part in in_parts(grids)]
    before = joblib.hash(parts)
    with pytest.warns(UserWarning, match=r"2 of 11 .* \(image 9 of image 0,") as said:
        merged = merge(parts)
    assert said[0].filename == __file__
    assert_same(merged, quietly(estimator.fit, grids), new)
    assert len(merged.holdout_scores_) == 9  # copies in different parts count once
    assert joblib.hash(parts) == before


def test_held_out_scores_of_a_part_are_lowered_by_the_others(grids):
    F = grids[..., :1, :]  # several layers would be scaled anew
    parts = [plain().fit(F[:4]), plain().fit(F[4:9])]
    alone = np.concatenate([part.holdout_scores_ for part in parts])
    together = merge(parts).holdout_scores_
    assert (together >= alone).all()  # scores: higher = nearer
    assert (together > alone).any()


def test_merging_goes_on(grids):
    """A merged detector can be merged, learn more, and be saved."""
    F = grids[:9]
    left = merge([plain().fit(F[:3]), plain().fit(F[3:5])]).partial_fit(F[5:7])
    merged = merge([left, plain().fit(F[7:])])
    assert_same(merged, plain().fit(F), F[::-1], atol=1e-7)
    patch = merge([DinoPatch().fit(F[:3]), DinoPatch().fit(F[3:7])]).partial_fit(F[7:])
    assert_same(patch, DinoPatch().fit(F), F[::-1])


@pytest.mark.parametrize("rotations", ["auto", "agnostic", "informed", "none", (0, 90)])
def test_turned_copies_are_those_of_one_fit(rotations):
    """Under "auto" each part turns its few images, and all together are not few."""
    how = {"features": tiny_features(), "rotations": rotations}
    X = [np.rot90(x, i) for i, x in enumerate(make_images(10, size=(64, 64)))]
    parts = [plain(**how).fit(X[:5]), plain(**how).fit(X[5:])]
    merged, whole = merge(parts), plain(**how).fit(X)
    assert_same(merged, whole, X[:3])
    assert merged.angles_ == whole.angles_
    np.testing.assert_array_equal(merged.bank_.image, whole.bank_.image)
    np.testing.assert_array_equal(merged.bank_.turned, whole.bank_.turned)
    assert merged.hidden_pixels_ is False


def test_detectors_that_turned_unlike_each_other_are_refused():
    X, how = make_images(10), {"features": tiny_features(), "rotations": "informed"}
    parts = [plain(**how).fit(X[:5]), plain(**how).fit(X[5:])]
    assert len({part.angles_ for part in parts}) == 2
    bare = [part for part in parts if part.angles_ == (0,)]
    assert quietly(merge, bare * 2).angles_ == (0,)
    with pytest.raises(
        ValueError, match="fit_sharded, or fit them with rotations='agnostic'"
    ):
        merge(parts)


def test_a_thinned_bank_is_within_the_bound_of_its_coresets(grids, rng):
    """No vector is farther from the bank than what thinning dropped it for, twice."""
    F = grids[:9, ..., :1, :]
    parts = [plain(bank_size=60).fit(part) for part in (F[:4], F[4:])]
    merged, whole = merge(parts), plain().fit(F)
    assert len(merged.bank_) == 60
    united = np.concatenate([part.bank_.vectors for part in parts])
    radius = max(
        _farthest(whole.bank_.vectors, united), _farthest(united, merged.bank_.vectors)
    )
    new = rng.normal(size=(3, 5, 6, 1, 8)).astype(np.float32)
    a, b = (np.sqrt(-2 * d.score_samples(new)) for d in (merged, whole))
    assert (a >= b - 1e-6).all()
    assert (a <= b + 2 * radius).all()
    assert len(merged.holdout_scores_) == 9


def _farthest(vectors, bank):
    away = np.linalg.norm(vectors[:, None] - bank[None], axis=2)
    return away.min(1).max()


def test_half_precision_costs_its_rounding(grids):
    parts = [plain(bank_dtype="float16").fit(grids[i : i + 4]) for i in (0, 4)]
    whole = plain(bank_dtype="float16").fit(grids[:8])
    assert_same(merge(parts), whole, grids[:3], atol=2e-3)


def test_others_are_refused_by_name(grids):
    good = DinoPatch().fit(grids[:3])
    for other in (DFR(), SubspaceAD(), Pipeline([PCAAligner(), DinoPatch()])):
        with pytest.raises(
            TypeError, match=f"{type(other).__name__} cannot .* DinoPat"
        ):
            merge([good, other])
        with pytest.raises(TypeError, match="AnomalyDINO and DinoPatch can"):
            fit_sharded(other, [grids])
    with pytest.raises(TypeError, match=r"detectors\[1\] is AnomalyDINO, detectors\[0"):
        merge([good, plain().fit(grids[:3])])
    with pytest.raises(NotFittedError):
        merge([good, DinoPatch()])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


def test_what_differs_is_named(grids, make_tiny):
    good = DinoPatch().fit(grids[:3])
    with pytest.raises(ValueError, match=r"detectors\[1\] differs .* in metric:"):
        merge([good, DinoPatch(metric="cosine").fit(grids[:3])])
    X = make_images(3)
    few = DinoPatch(features=make_tiny(layers=0)).fit(X)
    with pytest.raises(ValueError, match=r"features_\.layers"):
        merge([few, DinoPatch(features=make_tiny(layers=1)).fit(X)])
    with pytest.raises(ValueError, match="features_"):
        merge([good, few])
    deep = DinoPatch(features=make_tiny(layers=0)).fit(X.astype(np.uint16) * 9)
    with pytest.raises(ValueError, match=r"value_range_: .* scaled to 8 bits"):
        merge([few, deep])
    with pytest.raises(ValueError, match="grid of shape"):
        merge([good, DinoPatch().fit(grids[:3, :4])])
    with pytest.raises(ValueError, match="A detector has features of 6 channels"):
        merge([plain().fit(grids[:2]), plain().fit(grids[:2, ..., :3])])
    other = DinoPatch(features=make_tiny(layers=0, batch_size=2), verbose=True).fit(X)
    quietly(merge, [few, other])  # where and how fast is no difference


@pytest.mark.parametrize(
    "reduced", [{"n_prototypes": 2}, {"max_images": 2}, {"n_components": 2}]
)
def test_reduced_banks_without_their_features_are_refused(grids, reduced):
    parts = [DinoPatch(**reduced).fit(grids[i : i + 4]) for i in (0, 4)]
    with pytest.raises(ValueError, match=r"detectors\[0\] keeps a reduced bank"):
        merge(parts)


def subspaces(**parameters):
    return SubspaceAD(**{"rotations": "none", "n_components": 3, **parameters})


def linear(**parameters):
    how = {"autoencoder": "linear", "holdout": None, "max_rows": None}
    return DFR(**{**how, "latent_dim": 4, **parameters})


@pytest.mark.parametrize("layers", [1, 2])
def test_subspaces_add_up(grids, rng, layers):
    F = grids[..., :layers, :]
    parts = [quietly(subspaces().fit, part) for part in in_parts(F)]
    before = joblib.hash(parts)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        merged = merge(parts)
    assert ["no threshold" in str(w.message) for w in said] == [False, True]
    assert {w.filename for w in said} == {__file__}
    assert joblib.hash(parts) == before
    whole = quietly(subspaces().fit, F)
    for a, b in zip(merged.mean_, whole.mean_):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(merged.components_, whole.components_):  # signs are free
        np.testing.assert_allclose(a.T @ a, b.T @ b, atol=1e-5)
    # Layers compare by all patches learned: those of a fit, its scales replaced.
    left = np.concatenate(
        [whole._residuals_of(F, [(whole.mean_, whole.components_)]) for F in F[:, None]]
    )
    expected = [np.nanmean(left[:, j]) for j in range(layers)]
    whole.layer_scales_ = np.array(expected if layers > 1 else [1], np.float32)
    np.testing.assert_allclose(merged.layer_scales_, whole.layer_scales_, rtol=1e-5)
    new = rng.normal(size=(3, 5, 6, layers, 8)).astype(np.float32)
    for method in ("score_samples", "predict_map"):
        a, b = getattr(merged, method)(new), getattr(whole, method)(new)
        np.testing.assert_allclose(a, b, rtol=1e-4, err_msg=method)
    with pytest.raises(ValueError, match="offset_ is NaN"):
        merged.predict(new)


def test_merging_of_subspaces_goes_on_through_a_file(grids, tmp_path):
    a, b, c = (quietly(subspaces().fit, part) for part in in_parts(grids))
    left = skdinoad.load(save(quietly(merge, [a, b]), tmp_path / "left.skd"))
    found, expected = quietly(merge, [left, c]), quietly(merge, [a, b, c])
    np.testing.assert_allclose(
        found.score_samples(grids), expected.score_samples(grids), rtol=1e-5
    )


def test_subspaces_that_are_not_of_one_fit_are_refused(grids):
    X, tiny = make_images(10), tiny_features()
    turned = [SubspaceAD(features=tiny).fit(part) for part in (X[:5], X[5:])]
    with pytest.raises(ValueError, match=r"turned by \(0, 45.* rotations='agnostic'"):
        merge(turned)
    other = subspaces().fit(grids[:2, ..., :1, :])
    with pytest.raises(ValueError, match=r"detectors\[1\] has features of 1 layers"):
        merge([subspaces().fit(grids[2:4]), other])
    del other._moments_of_all
    with pytest.raises(ValueError, match=r"detectors\[0\] is of an earlier version"):
        quietly(merge, [other, other])
    with pytest.raises(TypeError, match="can be merged only"):
        fit_sharded(subspaces(), [grids])


@pytest.mark.parametrize(
    "how", [{}, {"standardize": False, "loss": "mse+cos"}, {"latent_dim": None}]
)
def test_linear_autoencoders_add_up(grids, rng, how):
    F = grids.reshape(11, 5, 6, 16)
    F[:, 0] *= 7
    parts = [quietly(linear(**how).fit, part) for part in in_parts(F)]
    before, whole = joblib.hash(parts), quietly(linear(**how).fit, F)
    new = rng.normal(size=(3, 5, 6, 16)).astype(np.float32)
    merged = quietly(merge, parts)
    sharded = quietly(fit_sharded, linear(**how), in_parts(F))
    again = quietly(merge, [quietly(merge, parts[:2]), parts[2]])
    for found in (merged, sharded, again):
        assert found.latent_dim_ == whole.latent_dim_
        np.testing.assert_allclose(
            found.explained_variance_, whole.explained_variance_, rtol=1e-5
        )
        for method in ("score_samples", "predict_map"):
            a, b = getattr(found, method)(new), getattr(whole, method)(new)
            np.testing.assert_allclose(a, b, rtol=1e-4, err_msg=method)
    assert joblib.hash(parts) == before
    assert np.isnan(merged.offset_)
    assert merged.errors_ == {}


@pytest.mark.parametrize(
    "how", [{"autoencoder": "mlp"}, {"holdout": 2}, {"max_rows": 9}]
)
def test_what_more_than_moments_shape_is_refused(grids, how):
    with pytest.raises(TypeError, match=r"DFR cannot .* with autoencoder='linear'"):
        merge([linear(**how)])
    with pytest.raises(TypeError, match="cache_features, and one fit"):
        fit_sharded(linear(**how), [grids])


def test_linear_autoencoders_of_other_features_are_refused(grids):
    F = grids[..., 0, :]
    a, b = linear().fit(F[:3]), linear().fit(F[3:6, ..., :6])
    with pytest.raises(ValueError, match=r"\[8, 6\] channels: use one"):
        merge([a, b])
    a._moments = None
    with pytest.raises(ValueError, match="earlier version"):
        quietly(merge, [a, a])


# -- fit_sharded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        *kinds().values(),
        plain(bank_size=70),
        plain(bank_size=0.3, bank_dtype="float16"),
        plain(bank_size=50, sampling="random", random_state=0),
        AnomalyDINO(rotations="informed", target_fpr=0.2),
        DinoPatch(metric="cosine", n_prototypes=3, bank_dtype="float16"),
        DinoPatch(max_images=4, n_components=3, target_fpr=0.2),
        DinoPatch(n_components=3, pca="local", neighborhood=0),
    ],
    ids=lambda estimator: " ".join(repr(estimator).split()),
)
def test_fit_on_shards_equals_one_fit(grids, rng, estimator):
    new = rng.normal(size=(3, 5, 6, 2, 8)).astype(np.float32)
    found = quietly(fit_sharded, estimator, in_parts(grids))
    assert not hasattr(estimator, "offset_")
    assert found.get_params() == estimator.get_params()
    assert_same(found, quietly(estimator.fit, grids), new)


def test_informed_turns_are_decided_on_all_images():
    X, how = make_images(10), {"features": tiny_features(), "rotations": "informed"}
    whole = AnomalyDINO(**how).fit(X)
    found = fit_sharded(AnomalyDINO(**how), [X[:4], X[4:]])
    assert found.rotation_gain_ == whole.rotation_gain_
    assert found.angles_ == whole.angles_


def test_backends_of_joblib_fit_the_same(photos):
    paths = sorted(map(str, (photos / "good").iterdir()))
    estimator = AnomalyDINO(features=tiny_features(), bank_size=60)
    shards = [paths[:3], paths[3:]]
    with joblib.parallel_config(backend="threading", n_jobs=2):
        found = fit_sharded(estimator, shards)
    assert_same(found, fit_sharded(estimator, shards), paths)


def test_errors_name_the_shard(photos, grids, make_tiny, make_tiny_cnn):
    paths = sorted(map(str, (photos / "good").iterdir()))
    (photos / "good/5.png").write_bytes(b"no image")
    detector = DinoPatch(features=make_tiny())
    with pytest.raises(ValueError, match=r"^shards\[1\]: X\[2\] .*5\.png"):
        fit_sharded(detector, [paths[:3], paths[3:]])
    with pytest.raises(ValueError, match=r"shards\[1\]: X is empty"):
        fit_sharded(detector, [paths[:3], []])
    with pytest.raises(ValueError, match="No shard"):
        fit_sharded(detector, [])
    with pytest.raises(ValueError, match="'neighborhood' parameter"):
        fit_sharded(DinoPatch(neighborhood=-1), [grids])
    with pytest.raises(ValueError, match="pass standardize=False"):
        fit_sharded(DinoPatch(features=make_tiny_cnn()), [paths])
    with pytest.raises(TypeError, match=r"expected a dask\.distributed.Client"):
        fit_sharded(detector, [paths[:3]], client="localhost")


# -- cache_features -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DFR", "SubspaceAD"])
def test_a_fit_after_the_features_asks_no_network(
    photos, tmp_path, monkeypatch, kind, make_tiny_cnn
):
    paths = sorted(map(str, (photos / "good").iterdir()))
    make = {"DFR": make_tiny_cnn, "SubspaceAD": tiny_features}[kind]
    own = {"DFR": {"n_iter": 30, "holdout": 2}, "SubspaceAD": {"rotations": "none"}}
    cls = getattr(skdinoad, kind)
    whole = quietly(cls(features=make(cache=False), **own[kind]).fit, paths)
    features = make(cache=tmp_path)
    cache_features(features, [paths[:3], paths[3:]])
    assert not hasattr(features, "weights_digest_")
    with monkeypatch.context() as patched:
        asked = []
        patched.setattr(type(features), "_run", lambda *_: asked.append(1))
        detector = quietly(cls(features=features, **own[kind]).fit, paths)
        np.testing.assert_allclose(detector.offset_, whole.offset_, rtol=1e-4)
        assert not asked


def test_features_that_cannot_be_shared_are_named(photos, tmp_path, make_tiny):
    paths = sorted(map(str, (photos / "good").iterdir()))
    for cache in (None, False):
        with pytest.raises(ValueError, match="keeps no features on disk: pass cache="):
            cache_features(make_tiny(cache=cache), [paths])
    features = make_tiny(cache=tmp_path)
    deep = make_images(3).astype(np.uint16) * 9
    with pytest.raises(ValueError, match=r"shards\[1\]: images of more than 8 bits"):
        cache_features(features, [paths, deep])
    with pytest.raises(FileNotFoundError, match=r"shards\[0\]: X\[0\] .*none"):
        cache_features(features, [[str(photos / "none.png")]])
    with pytest.raises(TypeError, match=r"expected a dask\.distributed.Client"):
        cache_features(features, [paths], client="localhost")


# -- score_files ----------------------------------------------------------------------


def rows_of(files):
    texts = [Path(file).read_text().splitlines() for file in sorted(files)]
    return [row for text in texts for row in csv.DictReader(text)]


@pytest.fixture
def many(photos):
    """Paths of twelve photographs: the fifth is odd, the eighth broken."""
    return photographs(photos / "many", 12)


@pytest.fixture
def more(photos):
    """The same of sixty."""
    return photographs(photos / "more", 60)


def photographs(folder, n):
    X = make_images(n, size=(48, 64), random_state=3)
    X[4, 10:30, 20:50] = [255, 0, 255]
    folder.mkdir()
    paths = [str(folder / f"{i:02}.png") for i in range(n)]
    for path, image in zip(paths, X):
        Image.fromarray(image).save(path)
    Path(paths[7]).write_bytes(b"no image")
    return paths


def assert_all_scored(files, paths, model):
    """Each path is there once, with what the model says of it."""
    files = sorted(files)
    rows, detector = rows_of(files), skdinoad.load(model)
    assert [row["path"] for row in rows] == paths
    good = [path for path in paths if path != paths[7]]
    scores = [float(row["score"]) for row in rows if row["score"]]
    np.testing.assert_allclose(scores, detector.score_samples(good), rtol=1e-5)
    said = {row["path"]: row["verdict"] for row in rows}
    labels = {1: "good", -1: "defect"}
    assert [said[path] for path in good] == [labels[y] for y in detector.predict(good)]
    assert said[paths[4]] == "defect"
    assert said[paths[7]] == "broken"
    assert "07.png" in rows[7]["error"]
    regions = rows_of(file.parent.parent / "regions" / file.name for file in files)
    heat = predict_map(detector, [paths[4]])[0]
    expected = skdinoad.find_regions(heat, detector.pixel_threshold_)
    areas = [int(row["area"]) for row in regions if row["path"] == paths[4]]
    assert areas == [region.area for region in expected]
    assert areas


def test_files_are_scored_in_parts(many, model, photos):
    files = score_files(model, [*many, many[0]], photos / "out", part_size=5)
    assert [file.name for file in files] == [f"part-{i:06d}.csv" for i in range(3)]
    assert_all_scored(files, many, model)


def test_images_to_review_are_told(many, reviewed, photos):
    files = score_files(reviewed, many[:4], photos / "out")
    detector = skdinoad.load(reviewed)
    expected = [result.verdict for result in iter_results(detector, many[:4])]
    assert [row["verdict"] for row in rows_of(files)] == expected
    assert "review" in expected


def test_a_part_that_is_there_is_not_scored_again(many, model, photos, monkeypatch):
    """The run is stopped in the second part, and once more between its two files."""
    original = scale.iter_results

    def counting(detector, paths, **how):
        if many[3] in paths:
            raise KeyboardInterrupt
        return original(detector, paths, **how)

    how = {"folder": photos / "out", "part_size": 3}
    with monkeypatch.context() as patched:
        patched.setattr(scale, "iter_results", counting)
        with pytest.raises(KeyboardInterrupt):
            score_files(model, many, **how)
    left = [name for name, _ in parts_to_score(model, many, **how)]
    assert left == [f"part-{i:06d}.csv" for i in (1, 2, 3)]
    first = photos / "out/scores/part-000000.csv"
    before, written = first.stat().st_mtime_ns, scale._write

    def stopping(path, columns, rows):
        if path.parent.name == "scores":
            raise KeyboardInterrupt
        written(path, columns, rows)

    with monkeypatch.context() as patched:
        patched.setattr(scale, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            score_files(model, many, **how)
    files = score_files(model, many, **how)
    assert_all_scored(files, many, model)
    assert first.stat().st_mtime_ns == before
    assert parts_to_score(model, many, **how) == []


def test_another_run_does_not_go_into_the_same_folder(many, model, photos):
    score_files(model, many[:2], photos / "out")
    with pytest.raises(ValueError, match="another paths: choose a new folder"):
        score_files(model, many, photos / "out")
    with pytest.raises(ValueError, match="another part_size"):
        score_files(model, many[:2], photos / "out", part_size=1)
    digest = json.loads((photos / "out/run.json").read_text())["model"]
    save(skdinoad.load(model).set_params(top_fraction=0.5), model)
    with pytest.raises(ValueError, match="another model"):
        score_files(model, many[:2], photos / "out")
    scale._loaded.cache_clear()
    with pytest.raises(ValueError, match="changed since the run began"):
        scale._score_by_file(str(model), digest, many[2:], photos / "out", "a.csv")


def test_a_machine_that_does_not_see_the_images_breaks_none(many, model, photos):
    detector, gone = skdinoad.load(model), str(photos / "unmounted" / "a.png")
    with pytest.raises(FileNotFoundError, match="unmounted' is no folder on"):
        score_files(model, [*many, gone], photos / "out")
    with pytest.raises(FileNotFoundError, match="unmounted"):
        score_part(detector, [gone], photos / "out", "a.csv")
    assert not (photos / "out").exists()
    with pytest.raises(FileNotFoundError):
        score_files(photos / "none.skd", many, photos / "out")
    with pytest.raises(ValueError, match="expected 1 or more"):
        score_files(model, many, photos / "out", part_size=0)
    detector.offset_ = np.nan
    (photos / "out/scores").mkdir(exist_ok=True, parents=True)
    with pytest.raises(ValueError, match="no threshold"):
        score_part(detector, many, photos / "out", "a.csv")
    assert not list((photos / "out/scores").iterdir())


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_formats_hold_the_same_and_do_not_mix(many, model, photos, format):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    how = {"folder": photos / "out", "part_size": 5}
    files = score_files(model, many, format=format, **how)
    assert [file.name for file in files] == [f"part-{i:06d}.{format}" for i in range(3)]
    assert parts_to_score(model, many, format=format, **how) == []
    other = {"csv": "parquet", "parquet": "csv"}[format]
    with pytest.raises(ValueError, match="another format: choose"):
        score_files(model, many, format=other, **how)
    csvs = score_files(model, many, photos / "csv", part_size=5)
    for kind in ("scores", "regions"):
        parts = sorted((photos / "csv" / kind).glob("*.csv"))
        expected = pandas.concat(map(pandas.read_csv, parts), ignore_index=True)
        if format == "parquet":  # the folder is one data set
            found = pandas.read_parquet(photos / "out" / kind)
        else:
            parts = [photos / "out" / kind / part.name for part in parts]
            found = pandas.concat(map(pandas.read_csv, parts), ignore_index=True)
        pandas.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert_all_scored(csvs, many, model)


def test_a_part_of_parquet_is_not_scored_again(many, model, photos, monkeypatch):
    pytest.importorskip("pyarrow")
    how = {"folder": photos / "out", "part_size": 3, "format": "parquet"}
    written = scale._write

    def stopping(path, columns, rows):
        if path == photos / "out/scores/part-000001.parquet":
            raise KeyboardInterrupt
        written(path, columns, rows)

    with monkeypatch.context() as patched:
        patched.setattr(scale, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            score_files(model, many, **how)
    left = [name for name, _ in parts_to_score(model, many, **how)]
    assert left == [f"part-{i:06d}.parquet" for i in (1, 2, 3)]
    first = photos / "out/scores/part-000000.parquet"
    before = first.stat().st_mtime_ns
    assert len(score_files(model, many, **how)) == 4
    assert first.stat().st_mtime_ns == before


def test_a_run_of_before_there_were_formats_goes_on(many, model, photos):
    score_files(model, many[:2], photos / "out", part_size=1)
    file = photos / "out/run.json"
    run = json.loads(file.read_text())
    assert run.pop("format") == "csv"
    file.write_text(json.dumps(run))
    (photos / "out/scores/part-000001.csv").unlink()
    assert len(score_files(model, many[:2], photos / "out", part_size=1)) == 2


@pytest.fixture
def stored(many):
    """The same photographs in fsspec's memory."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    addresses = [f"memory://skdinoad/[{Path(path).name}" for path in many]
    for path, address in zip(many, addresses):
        store.pipe_file(address, Path(path).read_bytes())
    yield addresses
    store.rm("skdinoad", recursive=True)


def test_addresses_are_scored_as_files_are(many, stored, model, photos):
    gone = "memory://skdinoad/gone.png"
    files = score_files(model, [*stored, many[0], gone], photos / "out", part_size=4)
    rows = rows_of(files)
    expected = rows_of(score_files(model, many, photos / "local", part_size=4))
    said = [(row["verdict"], row["score"]) for row in rows]
    local = [(row["verdict"], row["score"]) for row in expected]
    assert said == [*local, local[0], ("broken", "")]
    assert [row["path"] for row in rows] == [*stored, many[0], gone]
    assert stored[7] in rows[7]["error"]
    assert f"{gone!r}) does not exist" in rows[-1]["error"]


def test_a_store_that_does_not_answer_breaks_no_image(
    stored, model, photos, monkeypatch
):
    fsspec = pytest.importorskip("fsspec")
    memory, how = type(fsspec.filesystem("memory")), {"part_size": 3}

    def refusing(self, path, **_):
        raise PermissionError("403")

    with monkeypatch.context() as patched:
        patched.setattr(memory, "cat_file", refusing)
        with pytest.raises(RuntimeError, match=r"memory://.*cannot be fetched: 403"):
            score_files(model, stored, photos / "out", **how)
    assert not list((photos / "out/scores").iterdir())
    with pytest.raises(RuntimeError, match="cannot be fetched: Protocol not known"):
        score_files(model, ["memry://a.png"], photos / "other")
    assert len(score_files(model, stored, photos / "out", **how)) == 4


# -- on clusters ----------------------------------------------------------------------

DOC = Path(skdinoad.__file__).parent.parent / "doc" / "scale.rst"
DOC_TEXT = DOC.read_text()


def recipe(word):
    """Return the block of the page's code that uses a word."""
    blocks = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", DOC.read_text())
    (block,) = (block for block in blocks if word in block)
    return inspect.cleandoc("\n" + block)


def is_killed_midway(run, folder, pids, n):
    """Run in a thread; kill a worker process once some parts are there, but not all.

    Returns the parts that were there, with the time at which each was written.
    """
    thread = Thread(target=run)
    thread.start()
    scores = folder / "scores"
    while not list(scores.glob("part-*.csv")):
        assert thread.is_alive()
        time.sleep(0.001)
    os.kill(pids()[0], signal.SIGKILL)
    there = {file: file.stat().st_mtime_ns for file in scores.glob("part-*.csv")}
    assert len(there) < n
    thread.join()
    return there


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    how = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=2, **how) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with importlib.import_module("distributed").Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


def take_all_cores():
    torch.set_num_threads(2)
    cv2.setNumThreads(2)


def threads():
    return torch.get_num_threads(), cv2.getNumThreads()


def loads():
    """How often a process has read a model's file, and a network."""
    caches = scale._loaded, load_backbone
    return tuple(cache.cache_info().misses for cache in caches)


@pytest.mark.cluster
def test_dask_fits_shards(client, photos):
    paths = sorted(map(str, (photos / "good").iterdir()))
    estimator = AnomalyDINO(features=tiny_features(), bank_size=60)
    found = fit_sharded(estimator, [paths[:3], paths[3:]], client=client)
    assert_same(found, estimator.fit(paths), paths, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"shards\[1\]: X\[0\]"):
        fit_sharded(estimator, [paths, [str(photos)]], client=client)


@pytest.mark.cluster
def test_dask_scores_files(client, many, model, photos):
    client.run(take_all_cores)
    before = client.run(loads)
    files = score_files(model, many, photos / "out", part_size=1, client=client)
    assert_all_scored(files, many, model)
    assert set(client.run(threads).values()) == {(1, 1)}
    for worker, (models, networks) in client.run(loads).items():
        assert models == before[worker][0] + 1
        assert networks == 1


@pytest.mark.cluster
def test_a_killed_worker_of_dask_loses_nothing_and_scores_nothing_twice(
    client, more, model, photos
):
    out, (paths, n) = photos / "out", (more, len(more))
    workers = client.run(os.getpid)
    there = is_killed_midway(
        lambda: score_files(model, paths, out, part_size=1, client=client),
        out,
        lambda: list(workers.values()),
        n,
    )
    assert_all_scored((out / "scores").glob("*.csv"), paths, model)
    assert {file: file.stat().st_mtime_ns for file in there} == there


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore:Port 8787 is already:UserWarning")
def test_the_recipe_for_dask_runs_as_it_stands(many, model, photos):
    pytest.importorskip("distributed")
    good = sorted(map(str, (photos / "good").iterdir()))
    scope = {
        "__name__": "__main__",
        "estimator": AnomalyDINO(features=tiny_features()),
        "shards": [good[:3], good[3:]],
        **{"model": str(model), "paths": many, "folder": str(photos / "out")},
    }
    exec(recipe("LocalCluster"), scope)
    assert np.isfinite(scope["detector"].offset_)
    assert_all_scored(scope["files"], many, model)


@pytest.fixture
def ray():
    ray = pytest.importorskip("ray")
    pytest.importorskip("pyarrow")
    how = {"include_dashboard": False, "log_to_driver": False}
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, **how)
    yield ray
    ray.shutdown()


def actors():
    """Return the processes of this one's actors, by id."""
    psutil = pytest.importorskip("psutil")
    below = psutil.Process().children(recursive=True)
    return [child.pid for child in below if "MapWorker" in " ".join(child.cmdline())]


@pytest.mark.cluster
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")  # about itself
def test_ray_scores_files_though_an_actor_is_killed(ray, more, model, photos):
    """The page's recipe as it stands."""
    out, paths = photos / "out", more
    names = {"model": str(model), "paths": paths, "folder": str(out), "part_size": 1}
    scope = {"__name__": "__main__", **names}
    code = recipe("ray.data")
    there = is_killed_midway(lambda: exec(code, scope), out, actors, len(paths))
    assert_all_scored((out / "scores").glob("*.csv"), paths, model)
    assert {file: file.stat().st_mtime_ns for file in there} == there
    exec(code, scope)  # nothing is left to do
    assert {file: file.stat().st_mtime_ns for file in there} == there


def maps_file(pid, file):
    """Whether a process has a file mapped into its memory."""
    try:
        return str(file) in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return False


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells of maps")
def test_workers_of_dask_share_the_bank(client, many, model, photos):
    score_files(model, many, photos / "out", part_size=1, client=client)
    pids = client.run(os.getpid).values()
    assert all(maps_file(pid, model) for pid in pids)
    for shared in client.run(bank_lies_in_the_file, str(model)).values():
        assert shared


def bank_lies_in_the_file(model):
    vectors = scale._loaded(model, scale._digest(model)).bank_.vectors
    while isinstance(vectors, np.ndarray) and not isinstance(vectors, np.memmap):
        vectors = vectors.base
    return isinstance(vectors, np.memmap) and str(vectors.filename) == model


@pytest.mark.cluster
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")  # about itself
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells of maps")
def test_actors_of_ray_share_the_bank(ray, more, model, photos):
    names = {"model": str(model), "paths": more, "folder": str(photos / "out")}
    scope = {"__name__": "__main__", **names, "part_size": 1}
    thread, seen = Thread(target=lambda: exec(recipe("ray.data"), scope)), set()
    thread.start()
    while thread.is_alive():
        seen |= {pid for pid in actors() if maps_file(pid, model)}
        time.sleep(0.01)
    assert len(seen) == 2


def faults_of_buffers():
    """Return how many pages the system hands out for fifty buffers of 1 MB."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="about glibc's malloc")
def test_workers_of_the_recipe_keep_their_memory(monkeypatch):
    """Dask's default has the system hand out each buffer of a network anew."""
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)  # of other clusters
    found = re.findall(r'^ *"(distributed\.nanny\.[^"]+)": (.+)$', DOC_TEXT, re.M)
    (setting,) = found
    how = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        dask.config.set({setting[0]: ast.literal_eval(setting[1])}),
        distributed.LocalCluster(**how) as cluster,
        distributed.Client(cluster) as client,
    ):
        (faults,) = client.run(faults_of_buffers).values()
    assert faults < 50 * 256 / 5  # a page has 4 KB
