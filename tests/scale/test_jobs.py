"""Jobs on Dask and Ray."""

import ast
import importlib
import inspect
import os
import re
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import torch
from conftest import assert_all_scored, tiny_features

import skdinoad
from skdinoad import (
    AnomalyDINO,
    MemoryBank,
)
from skdinoad.features._backbones import load_backbone
from skdinoad.scale import (
    _score,
    fit_sharded,
    score_files,
)

LEARNED = [
    *("holdout_scores_", "offset_", "layer_scales_", "map_limits_"),
    "pixel_threshold_",
]


def assert_same(detector, whole, new, **tolerance):
    """Both learned the same and score the same; exactly, if no tolerance is given."""
    for name in LEARNED:
        a, b = getattr(detector, name), getattr(whole, name)
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance}, err_msg=name)
    for method in ("score_samples", "predict_map"):
        a, b = getattr(detector, method)(new), getattr(whole, method)(new)
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance}, err_msg=method)


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
    caches = _score._loaded, load_backbone
    return tuple(cache.cache_info().misses for cache in caches)


@pytest.mark.cluster
def test_dask_fits_shards(client, photos):
    paths = sorted(map(str, (photos / "good").iterdir()))
    estimator = AnomalyDINO(features=tiny_features(), bank=MemoryBank(size=60))
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
    vectors = _score._loaded(model, _score._digest(model)).bank_.vectors
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
