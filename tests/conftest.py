"""Fixtures of all tests: tiny random backbones, and the real ones."""

import csv
import os
from pathlib import Path

# Tests do not access the model hub; they use installed weights.
os.environ["SKDINOAD_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# The networks of tests are so small that threads would only wait for each other, for
# minutes if other processes are busy. Tests run in parallel processes instead.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from skdinoad import (
    DFR,
    DMAD,
    AffineAligner,
    AnomalyDINO,
    CNNFeatures,
    DinoFeatures,
    Dinomaly,
    DinoPatch,
    LinearDFR,
    PCAAligner,
    RegionMask,
    ReverseDistillation,
    Runtime,
    ThresholdTunerCV,
    Training,
    find_regions,
    load,
    predict_map,
    save,
)
from skdinoad._compat.timm import timm
from skdinoad.cli import main
from skdinoad.features import WeightsNotFoundError
from skdinoad.features._store import clear_memory
from skdinoad.testing import make_images

torch.set_num_threads(1)  # also if torch was imported before
cv2.setNumThreads(1)


def tiny_features(**parameters):
    """Return an extractor with a random network of 0.4 million weights.

    Parameters of its runtime may be passed directly.
    """
    return _tiny(DinoFeatures, "test_vit", parameters)


def tiny_cnn(**parameters):
    """Return an extractor with a random CNN of 0.4 million weights."""
    return _tiny(CNNFeatures, "test_efficientnet", parameters)


def _tiny(cls, model, parameters):
    names = set(Runtime().get_params()) & set(parameters)
    runtime = Runtime(**{"batch_size": 4, **{k: parameters.pop(k) for k in names}})
    parameters = {"image_size": 64, "runtime": runtime, **parameters}
    return cls(model=model, weights="random:0", **parameters)


def build(cls):
    """Return a fast instance: a tiny random network, small images."""
    if cls is DinoFeatures:
        return tiny_features()
    if cls is CNNFeatures:
        return tiny_cnn()
    if cls is PCAAligner:
        return cls(output_size=64)
    if cls is RegionMask:
        return cls()
    if cls is AffineAligner:
        tiny = tiny_features(image_size=None)
        return cls(features=tiny, output_size=64, n_samples=20, n_rounds=1)
    if cls is Dinomaly:
        tiny = tiny_features(layers="middle", groups=2)
        training = Training(n_iter=8, learning_rate=0.01)
        return cls(features=tiny, depth=2, training=training, holdout=2)
    if cls is DFR:
        tiny = tiny_cnn(standardize=False)
        training = Training(n_iter=100, batch_size=512)
        return cls(features=tiny, latent_dim=2, training=training, holdout=2)
    if cls is LinearDFR:
        return cls(features=tiny_cnn(standardize=False), latent_dim=2, holdout=2)
    if cls in (DMAD, ReverseDistillation):
        tiny = tiny_cnn(standardize=False, image_size=(64, 64))
        # "pdm" takes a third of the time; the tests of DMAD cover "ppdm".
        how = {"n_codes": 8, "variant": "pdm"} if cls is DMAD else {}
        return cls(
            features=tiny,
            training=Training(n_iter=8, learning_rate=0.01),
            student_width=32,
            holdout=2,
            **how,
        )
    if cls is ThresholdTunerCV:
        detector = DinoPatch(features=tiny_features())
        return cls(detector, target_fpr=0.5, cv=2)
    return cls(features=tiny_features())


@pytest.fixture
def tiny():
    return tiny_features()


@pytest.fixture
def make_tiny():
    return tiny_features


@pytest.fixture
def make_tiny_cnn():
    return tiny_cnn


@pytest.fixture(scope="session")
def real_features():
    """Return the function that builds extractors with real weights."""
    return _with_weights(DinoFeatures)


@pytest.fixture(scope="session")
def real_cnn():
    """Return the function that builds extractors with a real CNN."""
    return _with_weights(CNNFeatures)


def _with_weights(cls):
    try:
        cls().fit(np.zeros((1, 64, 64), np.uint8))
    except WeightsNotFoundError as error:
        pytest.skip(str(error))
    return cls


@pytest.fixture(autouse=True)
def _empty_store():
    clear_memory()


@pytest.fixture
def _in_this_timm(model):
    """Skip a test whose ``model`` is not available, or not with its blocks, in timm."""
    known = timm.is_model(model) and timm.create_model(model)
    if not hasattr(known, "forward_intermediates"):
        pytest.skip(f"timm {timm.__version__} is too old for {model}")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# -- the command line ------------------------------------------------------------


@pytest.fixture
def run(capsys):
    """Return a function that runs the command and returns (status, lines, errors)."""

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        return status, found.out.splitlines(), found.err

    return call


@pytest.fixture
def photos(tmp_path):
    """Return a folder: six good photographs, and new ones, two good, one anomalous."""
    X = make_images(8, size=(48, 64))
    odd = X[0].copy()
    odd[10:30, 20:50] = [255, 0, 255]
    for name, images in {"good": X[:6], "new": [*X[6:], odd]}.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def model(photos):
    """Return a model file with a tiny random network."""
    paths = sorted(str(path) for path in (photos / "good").iterdir())
    detector = AnomalyDINO(features=tiny_features(), masking=None).fit(paths)
    detector.offset_ -= 0.5 * abs(detector.offset_)
    return save(detector, photos / "m.skd")


@pytest.fixture
def reviewed(photos, model):
    """Return the model with a threshold that sends one of the good images to review."""
    detector = load(model)
    scores = detector.score_samples([str(photos / f"new/{i}.png") for i in (0, 1)])
    detector.review_offset_ = float(max(scores))
    return save(detector, photos / "reviewed.skd")


@pytest.fixture
def tiny_default(monkeypatch):
    """Make a tiny random network the default of detectors."""
    for name in ("_anomalydino", "_dinopatch", "_subspacead"):
        monkeypatch.setattr(f"skdinoad.detectors.{name}.DinoFeatures", tiny_features)


# -- data sets of scores -----------------------------------------------------------


@pytest.fixture
def many(photos):
    """Return paths of twelve photographs: the fifth anomalous, the eighth damaged."""
    return photographs(photos / "many", 12)


@pytest.fixture
def more(photos):
    """Return the same with sixty photographs."""
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


def rows_of(files):
    texts = [Path(file).read_text().splitlines() for file in sorted(files)]
    return [row for text in texts for row in csv.DictReader(text)]


def assert_all_scored(files, paths, model):
    """Assert that each path occurs once, with the model's score and verdict."""
    files = sorted(files)
    rows, detector = rows_of(files), load(model)
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
    expected = find_regions(heat, detector.pixel_threshold_)
    areas = [int(row["area"]) for row in regions if row["path"] == paths[4]]
    assert areas == [region.area for region in expected]
    assert areas


# -- fuzzing -----------------------------------------------------------------------

# Few, fixed examples in normal runs; thousands in `make check-fuzz`.
FUZZING = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
    ],
}
settings.register_profile("quick", max_examples=8, derandomize=True, **FUZZING)
settings.register_profile(
    "long",
    max_examples=1000,
    print_blob=True,
    **FUZZING,
)
settings.load_profile("quick")
