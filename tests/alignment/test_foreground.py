import numpy as np
import pytest

from skdinoad import (
    AnomalyDINO,
    DinoPatch,
    ForegroundMask,
    LocalBank,
    PCAAligner,
    Pipeline,
)
from skdinoad.datasets import make_screws
from skdinoad.testing import make_images


class Colours:
    """An extractor whose features are the mean colours of 8-pixel cells."""

    batch_size = 4

    def get_params(self, deep=True):
        return {}

    def fit(self, X, y=None):
        return self

    def transform_affines(self, X):
        from skdinoad._arrays.geometry import resize_affine

        grids = []
        for image in X:
            h, w = image.shape[0] // 8, image.shape[1] // 8
            cells = image[: h * 8, : w * 8, :3].reshape(h, 8, w, 8, 3).mean((1, 3))
            grids.append(np.concatenate([cells, cells], -1).astype(np.float32))
        affines = [resize_affine(x.shape[:2], g.shape[:2]) for x, g in zip(X, grids)]
        return grids, np.stack(affines)


@pytest.fixture
def scenes(rng):
    """Return four pictures of a bright block on a dark background."""
    X = rng.integers(20, 30, (4, 96, 128, 3), dtype=np.uint8)
    X[:, 24:72, 32:96] = 220
    return X


def test_alpha_covers_the_object_and_one_cell_around(scenes):
    Z, affines = (
        ForegroundMask(features=Colours()).fit(scenes).transform_affines(scenes)
    )
    assert Z.shape == (4, 96, 128, 4)
    assert np.array_equal(Z[..., :3], scenes)
    assert (Z[:, 24:72, 32:96, 3] == 255).all()
    assert (Z[:, 18:78, 26:102, 3] == 255).mean() > 0.99  # corners are rounded
    assert not Z[:, :12, :, 3].any()
    assert not Z[:, :, 108:, 3].any()
    assert np.array_equal(affines, np.broadcast_to(np.eye(3), (4, 3, 3)))


def test_verdict_is_taken_once_in_fit(scenes, rng):
    mask = ForegroundMask(features=Colours()).fit(scenes)
    assert mask.masking_
    assert mask.mask_statistics_["border"] == 0
    noise = rng.integers(0, 255, scenes.shape, dtype=np.uint8)
    texture = ForegroundMask(features=Colours()).fit(noise)
    assert not texture.masking_
    assert (texture.transform(scenes)[..., 3] == 255).all()
    assert ForegroundMask(features=Colours(), masking=True).fit(noise).masking_


def test_what_was_transparent_stays_so(scenes):
    clear = np.concatenate([scenes, np.full_like(scenes[..., :1], 255)], -1)
    clear[:, 40:48, 40:48, 3] = 0
    Z = ForegroundMask(features=Colours(), masking=True).fit(clear).transform(clear)
    assert not Z[:, 40:48, 40:48, 3].any()
    assert (Z[:, 50:60, 50:60, 3] == 255).all()


def test_empty_masks_are_named_and_left_open(scenes):
    mask = ForegroundMask(features=Colours()).fit(scenes)
    X = [scenes[0], np.full((96, 128, 3), 60, np.uint8), scenes[1]]
    with pytest.warns(UserWarning, match=r"1 of 3 images is empty.*X\[1\]"):
        Z = mask.transform(X)
    assert (Z[1][..., 3] == 255).all()
    assert (Z[0][..., 3] == 0).any()


def test_images_of_several_sizes(scenes):
    X = [scenes[0], scenes[1][:80]]
    Z = ForegroundMask(features=Colours(), masking=True).fit(X).transform(X)
    assert [z.shape for z in Z] == [(96, 128, 4), (80, 128, 4)]


def test_anomalous_rows_do_not_decide(scenes, rng):
    noise = rng.integers(0, 255, (5, 96, 128, 3), dtype=np.uint8)
    X, y = np.concatenate([scenes, noise]), [1] * 4 + [-1] * 5
    assert ForegroundMask(features=Colours()).fit(X, y).masking_


def test_shares_the_networks_pass_with_the_detector(tiny, monkeypatch):
    count, run = [], type(tiny)._run
    monkeypatch.setattr(
        type(tiny), "_run", lambda self, *a: count.append(len(a[0])) or run(self, *a)
    )
    X = make_images(4)
    mask = ForegroundMask(features=tiny, masking=True)
    Pipeline([mask, DinoPatch(features=tiny)]).fit(X).score_samples(X)
    assert sum(count) == 4


@pytest.mark.real
@pytest.mark.parametrize(
    ("detector", "aligned", "parameters"),
    [
        (AnomalyDINO, False, {"rotations": "none"}),
        (AnomalyDINO, True, {"rotations": "none"}),
        (DinoPatch, False, {"bank": LocalBank(neighborhood=16)}),
        (DinoPatch, True, {}),
    ],
)
def test_map_lands_on_the_defect_in_the_source(
    detector, aligned, parameters, real_features
):
    X, _ = make_screws(6, size=320, random_state=0)
    bad = make_screws(1, size=320, random_state=7)[0]
    ys, xs = np.nonzero(bad[0].min(-1) > 150)
    place = np.array([np.median(ys), np.median(xs)]).astype(int)  # on the shaft
    bad[0, place[0] - 12 : place[0] + 12, place[1] - 12 : place[1] + 12] = [180, 0, 90]
    features = real_features(image_size=224)
    steps = [PCAAligner(output_size=224)] if aligned else []
    mask = ForegroundMask(features=features, masking=True)
    pipe = Pipeline([*steps, mask, detector(features=features, **parameters)]).fit(X)
    heat = pipe.predict_map(bad)[0]
    assert heat.shape == (320, 320)
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(np.subtract(peak, place)).max() < 20
