"""Merged detectors equal one fit; parts of files are scored once, whoever dies."""

import csv
import importlib
import inspect
import json
import os
import re
import signal
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
    predict_map,
    save,
    scale,
)
from skdinoad.features._backbones import load_backbone
from skdinoad.scale import (
    fit_sharded,
    merge,
    parts_to_score,
    score_files,
    score_part,
)
from skdinoad.testing import make_images
from skdinoad.verdicts import Judge

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


# -- fit_sharded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        *kinds().values(),
        plain(bank_size=70),
        plain(bank_size=0.3, bank_dtype="float16"),
        plain(bank_size=50, sampling="random", random_state=0),
        AnomalyDINO(rotations="informed", contamination=0.2),
        DinoPatch(metric="cosine", n_prototypes=3, bank_dtype="float16"),
        DinoPatch(max_images=4, n_components=3, contamination=0.2),
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


def test_what_is_to_be_looked_at_is_told(many, reviewed, photos):
    files = score_files(reviewed, many[:4], photos / "out")
    detector = skdinoad.load(reviewed)
    scores = detector.score_samples(many[:4])
    judge = Judge.of(detector)
    expected = [judge.row(*pair)["verdict"] for pair in zip(many, scores)]
    assert [row["verdict"] for row in rows_of(files)] == expected
    assert "look" in expected


def test_a_part_that_is_there_is_not_scored_again(many, model, photos, monkeypatch):
    """The run is stopped in the second part, and once more between its two files."""
    scored, original = [], scale._scored

    def counting(detector, paths):
        scored.extend(paths)
        if many[3] in paths:
            raise KeyboardInterrupt
        return original(detector, paths)

    how = {"folder": photos / "out", "part_size": 3}
    with monkeypatch.context() as patched:
        patched.setattr(scale, "_scored", counting)
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


# -- on clusters ----------------------------------------------------------------------

DOC = Path(skdinoad.__file__).parent.parent / "doc" / "scale.rst"


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
