"""What a user writes, for mypy to accept or refuse: make lint. Nothing of it is run.

A line that is to be refused says ``type: ignore`` with the kind of error: where mypy
has nothing against it, it complains of that comment.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skdinoad import (
    AnomalyDINO,
    DinoPatch,
    LocalBank,
    PCAAligner,
    Pipeline,
    ThresholdTunerCV,
    find_regions,
    iter_maps,
    load,
    regions_table,
    save,
)
from skdinoad.datasets import LazyMasks, load_images
from skdinoad.metrics import aupro_score
from skdinoad.plotting import AnomalyMapDisplay, save_maps

if TYPE_CHECKING:
    from typing_extensions import assert_type

Maps = np.ndarray | Any


def a_pipeline(X: np.ndarray) -> None:
    pipe = Pipeline([PCAAligner(), DinoPatch(bank=LocalBank(neighborhood=2))]).fit(X)
    pipe.predict(X)
    assert_type(pipe, Pipeline)
    assert_type(pipe.predict_map(X), Maps)
    assert_type(Pipeline([PCAAligner(), DinoPatch()]).fit_predict(X), np.ndarray)


def the_pixels(pipe: Pipeline, X: np.ndarray, masks: np.ndarray) -> None:
    maps = pipe.predict_map(X)
    maps.max()  # of images of one size there is one array
    regions_table(find_regions(maps, pipe.pixel_threshold_), names=X)
    AnomalyMapDisplay.from_predictions(X, maps, limits=pipe.map_limits_, masks=masks)


def many_images(detector: DinoPatch, X: list[Path]) -> None:
    heats = iter_maps(detector, X)
    assert_type(next(heats), np.ndarray)
    save_maps("maps", X, heats, limits=(0, 1))


def a_detector(paths: list[str], photographs: list[Path]) -> None:
    detector = AnomalyDINO(rotations=(0, 90)).fit(paths)
    assert_type(detector, AnomalyDINO)
    assert_type(detector.score_samples(photographs), np.ndarray)
    assert_type(AnomalyDINO.from_paper(1), AnomalyDINO)
    assert_type(detector.score_batch(paths), np.ndarray)
    assert_type(detector.score_batch(paths, return_maps=True), tuple[np.ndarray, Maps])
    load(save(detector, "model.skd")).predict(paths)


def a_threshold(masks: LazyMasks) -> None:
    X = load_images("good")
    tuner = ThresholdTunerCV(DinoPatch(), target_pixel_fpr=0.1).fit(X, masks)
    maps = tuner.predict_map(X)
    find_regions(maps, tuner.pixel_threshold_, min_area=20)
    assert_type(aupro_score(masks, maps), float)
    assert_type(masks[0], np.ndarray)
    assert_type(masks[1:], LazyMasks)


def what_is_refused(X: np.ndarray) -> None:
    DinoPatch().fit("good/")  # type: ignore[arg-type]
    DinoPatch().fit(3)  # type: ignore[arg-type]
    DinoPatch().fit(X, "good")  # type: ignore[arg-type]
    DinoPatch(neighbourhood=2)  # type: ignore[call-arg]
    DinoPatch(bank=LocalBank(metric="manhattan"))  # type: ignore[arg-type]
    DinoPatch(features=3)  # type: ignore[arg-type]
    ThresholdTunerCV("dinopatch")  # type: ignore[arg-type]
    save("model.skd", DinoPatch())  # type: ignore[arg-type]
    from skdinoad import DinoPach  # type: ignore[attr-defined]  # noqa: F401
