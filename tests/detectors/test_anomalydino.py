"""AnomalyDINO. "Point n" numbers the aspects compared with the official code."""

import pickle

import cv2
import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from skdinoad import (
    AnomalyDINO,
    DinoFeatures,
    ForegroundMask,
    MemoryBank,
    PCAAligner,
    Pipeline,
)
from skdinoad._arrays.masks import _grown
from skdinoad.datasets import make_screws
from skdinoad.detectors._object_masks import ObjectMasks
from skdinoad.features._backbones import load_backbone
from skdinoad.testing import make_images


@pytest.fixture
def grids(rng):
    """Return features of five normal images, (5, 4, 6, 8)."""
    return rng.normal(size=(5, 4, 6, 8)).astype(np.float32)


def plain(**parameters):
    """Return a detector for feature grids, without masks."""
    return AnomalyDINO().set_params(
        **{"masking": None, "aggregate": 0.01, **parameters}
    )


def official(references, image, size, *, masked):
    """Reference: the official procedure, step by step, implemented independently."""
    backbone = load_backbone("test_vit", "random:0")
    patch = backbone.patch_size

    def tokens(picture):
        height, width = picture.shape[:2]
        scale = size / min(height, width)
        resized = (int(height * scale + 1e-6), int(width * scale + 1e-6))
        # Equals Pillow's resize up to one grey level of rounding: test_preprocess.
        x = torch.tensor(picture).permute(2, 0, 1)[None]
        x = torch.nn.functional.interpolate(x, resized, mode="bicubic", antialias=True)
        gh, gw = x.shape[2] // patch, x.shape[3] // patch
        mean, std = backbone.mean_std[:, None, :, None, None]
        x = (x[..., : gh * patch, : gw * patch] / 255 - mean) / std
        with torch.inference_mode():
            out = backbone.network.forward_features(x)
        return out[0, backbone.network.num_prefix_tokens :].numpy(), (gh, gw)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    bank = []
    for picture in references:
        height, width = picture.shape[:2]
        for angle in range(0, 360, 45):
            m = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
            turned = cv2.warpAffine(
                picture, m, (width, height), borderMode=cv2.BORDER_REFLECT_101
            )
            bank.append(unit(tokens(turned)[0]))
    bank = np.concatenate(bank)
    raw, (gh, gw) = tokens(image)
    keep = np.ones(len(raw), bool)
    if masked:
        first = PCA(1, svd_solver="full").fit_transform(raw)[:, 0]
        centre = np.zeros((gh, gw), bool)
        centre[int(gh * 0.2) : int(gh * 0.8), int(gw * 0.2) : int(gw * 0.8)] = True
        sides = [first > masked, -first > masked]
        keep = max(sides, key=lambda side: side[centre.ravel()].sum())
        kernel = np.ones((3, 3), np.uint8)
        column = cv2.dilate(keep.astype(np.uint8)[:, None], kernel)
        keep = cv2.morphologyEx(column, cv2.MORPH_CLOSE, kernel).ravel() > 0
    d = np.zeros(len(raw))
    d[keep] = (1 - unit(raw) @ bank.T).min(1)[keep]
    top = int(len(d) * 0.01)
    return np.sort(d)[::-1][:top].mean() if top else d.max()


@pytest.fixture
def pictures(rng):
    """Return four textured pictures, 97 x 143, with a bright block in the middle."""
    X = rng.integers(0, 60, (4, 97, 143, 3), dtype=np.uint8)
    X[:, 30:70, 50:100] = rng.integers(180, 255, (4, 40, 50, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(image, (9, 9), 0) for image in X])


@pytest.mark.parametrize(("size", "masked"), [(96, 0), (96, 0.5), (208, 0), (208, 0.5)])
def test_from_paper_equals_the_official_procedure(pictures, size, masked):
    """Image scores with equal weights: points 1, 2, 3 and 4 together."""
    masks = None
    if masked:
        how = {"threshold": masked, "morphology": "raster"}
        masks = ForegroundMask(masking=True, **how)
    detector = AnomalyDINO.from_paper(shots=2, image_size=size, masking=masks)
    detector.set_params(features__model="test_vit", features__weights="random:0")
    detector.fit(pictures[:2])
    scores = detector.score_samples(pictures[2:])
    for score, image in zip(scores, pictures[2:]):
        expected = official(pictures[:2], image, size, masked=masked)
        assert -score == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_from_paper_knows_the_table_of_the_code():
    detector = AnomalyDINO.from_paper(shots=4, category="carpet")
    assert not detector.masking
    assert detector.features.image_size == 448
    assert detector.features.layers == "last"
    assert detector.features.norm is True
    assert AnomalyDINO.from_paper(shots=1, category="pcb2", image_size=672).masking
    batched = AnomalyDINO.from_paper(shots=0)
    assert (batched.features.image_size, batched.rotations) == (672, "none")
    with pytest.raises(ValueError, match="'gear': expected None or one of"):
        AnomalyDINO.from_paper(shots=1, category="gear")
    with pytest.raises(ValueError, match="shots=-1"):
        AnomalyDINO.from_paper(shots=-1)


def test_final_norm_and_prefix_tokens_as_in_forward_features():
    """Point 1, through the extractor of the preset."""
    features = AnomalyDINO.from_paper(shots=1, image_size=64).features
    features.set_params(model="test_vit", weights="random:0")
    X = make_images(1, size=(64, 64))
    backbone = load_backbone("test_vit", "random:0")
    mean, std = backbone.mean_std[:, :, None, None]
    x = (torch.tensor(X).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        tokens = backbone.network.forward_features(x)
    expected = tokens[0, backbone.network.num_prefix_tokens :].reshape(4, 4, -1)
    np.testing.assert_allclose(features.transform(X)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "count"), [((9, 11), 1), ((10, 10), 1), ((20, 10), 2), ((32, 32), 10)]
)
def test_floor_rule(shape, count, rng):
    """Point 2: the largest if there are fewer than 100 patches, else floor(n / 100)."""
    D = rng.random((1, *shape)).astype(np.float32)
    expected = np.sort(D.ravel())[-count:].mean()
    assert plain()._aggregate(D[:, None])[0] == pytest.approx(expected)


def test_masked_patches_count_for_the_floor_rule_but_not_in_the_mean():
    D = np.full((1, 20, 20), np.nan, np.float32)
    D[0, 0, :2] = [3, 5]
    # The top 4 of 400, of which 2 are valid.
    assert plain()._aggregate(D[:, None])[0] == 4
    masks = ObjectMasks("official")
    masks.used = True
    assert plain()._aggregate([masks.filled(D)])[0] == 2


@pytest.mark.parametrize("k", [1, 3])
def test_distance_is_one_minus_cosine(grids, k):
    """Point 3, compared with a loop."""
    detector = plain(bank__n_neighbors=k).fit(grids[:3])
    D = detector.score_grids(grids[3:4, :, :, None])[0, 0]
    for y, x in np.ndindex(4, 6):
        q = grids[3, y, x]
        cosines = [
            r @ q / np.linalg.norm(r) / np.linalg.norm(q)
            for r in grids[:3].reshape(-1, 8)
        ]
        expected = np.mean(1 - np.sort(cosines)[::-1][:k])
        assert D[y, x] == pytest.approx(expected, abs=1e-6)


def test_raster_morphology_is_the_flattened_one():
    """Point 4."""
    mask = np.zeros((8, 10), bool)
    mask[5, 9] = True
    assert np.argwhere(_grown(mask, "raster")).tolist() == [[5, 8], [5, 9], [6, 0]]


def test_sign_of_the_features_does_not_change_the_mask(rng):
    """Point 5."""
    grid = rng.normal(size=(10, 12, 8)).astype(np.float32)
    grid[3:8, 4:9, 0] += 6
    masks = ObjectMasks("auto")
    assert np.array_equal(masks.of(grid[:, :, None]), masks.of(-grid[:, :, None]))


def test_empty_mask_falls_back_to_the_whole_image(grids):
    """Point 6: with one warning that names the rows; the paper's code scores 0."""
    detector = AnomalyDINO(masking=ForegroundMask(masking=True, threshold=1e6)).fit(
        grids
    )
    new = grids[::-1] + 1
    with pytest.warns(
        UserWarning, match=r"5 of 5 .* scored without a mask: X\[0\]"
    ) as caught:
        scores = detector.score_samples(new)
    assert len(caught) == 1
    assert np.array_equal(scores, plain().fit(grids).score_samples(new))
    with pytest.warns(UserWarning, match="scored without a mask"):
        assert detector.predict_map(new).any(axis=(1, 2)).all()


def test_batches_do_not_change_the_scores(pictures, make_tiny):
    """Point 7; the tiles of the search have their own test."""
    one = plain(features=make_tiny(batch_size=1, cache=False)).fit(pictures)
    many = plain(features=make_tiny(batch_size=4, cache=False)).fit(pictures)
    new = pictures[:, ::-1]
    np.testing.assert_allclose(
        one.score_samples(new), many.score_samples(new), rtol=1e-4
    )


def test_grey_is_grey_in_three_channels(pictures, tiny):
    """Point 8."""
    grey = pictures[..., 0]
    detector = AnomalyDINO(features=tiny).fit(grey)
    colour = detector.score_samples(np.repeat(grey[..., None], 3, axis=-1))
    assert np.array_equal(detector.score_samples(grey), colour)


@pytest.mark.parametrize("cropping", [None, "patches"])
def test_map_of_a_size_that_is_no_multiple_of_a_patch(cropping):
    """Point 9: 1000 x 1562 at 448 is 448 x 699, 32 x 49 patches."""
    image = np.zeros((1, 1000, 1562, 3), np.uint8)
    features = DinoFeatures(image_size=448, cropping=cropping)
    features.patch_size_ = 14  # only geometry, no network needed
    resized, grid = features._plan(image.shape[1:3])
    assert grid == ((32, 49) if cropping else (32, 50))
    affine = features._affine(image.shape[1:3])
    detector = plain(features=features)
    detector.features_, detector._masks = features, ObjectMasks(None)
    for y, x in [(0, 0), (10, 30), (31, 48)]:
        D = np.zeros(grid, np.float32)
        D[y, x] = 1
        heat = detector._map(np.stack([D, D]), affine, (1000, 1562))
        assert heat.shape == (1000, 1562)
        scale = 1000 / 448 if cropping else np.divide((1000, 1562), resized)
        true = (np.array([y, x]) * 14 + 7) * scale
        peak = np.mean(np.argwhere(heat > 0.99 * heat.max()), axis=0)
        half = 7 * 1000 / 448
        assert abs(peak - true).max() < half + 13 * 1000 / 448 * (x == 48)
    edge = detector._map(np.ones((2, *grid), np.float32), affine, (1000, 1562))
    assert edge.min() > 0.99  # cropped pixels get the value of the edge


@pytest.mark.parametrize("bank_dtype", ["float32", "float16"])
def test_clone_parameters_and_file_give_equal_scores(
    pictures, tiny, tmp_path, bank_dtype
):
    """Point 10."""
    detector = AnomalyDINO(
        features=tiny, bank=MemoryBank(dtype=bank_dtype, n_neighbors=2)
    )
    same = clone(detector)
    expected = detector.fit(pictures).score_samples(pictures[::-1])
    assert np.array_equal(same.fit(pictures).score_samples(pictures[::-1]), expected)
    joblib.dump(detector, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert np.array_equal(loaded.score_samples(pictures[::-1]), expected)
    assert np.array_equal(loaded.predict_map(pictures), detector.predict_map(pictures))


# -- rotations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rotations", "angles"),
    [
        ("auto", tuple(range(0, 360, 45))),
        ("agnostic", tuple(range(0, 360, 45))),
        ("none", (0,)),
        ((90, 450, -90), (0, 90, 270)),
        (np.array([0, 90]), (0, 90)),
    ],
)
def test_angles_in_the_bank(rotations, angles, pictures, tiny):
    detector = plain(features=tiny, rotations=rotations).fit(pictures)
    assert detector.angles_ == angles
    patches = 4 * 4 * 6
    assert len(detector.bank_) == patches * len(angles)
    assert detector.bank_.turned.sum() == patches * (len(angles) - 1)


def test_auto_turns_a_few_images_only(tiny):
    assert len(plain(features=tiny).fit(make_images(8)).angles_) == 8
    assert plain(features=tiny).fit(make_images(9)).angles_ == (0,)


@pytest.mark.real
def test_informed_without_turns_is_as_without(real_features):
    features = real_features(image_size=112)
    X = np.repeat(make_screws(1, size=224)[0], 5, axis=0)
    X[:, ::7, ::5] += np.arange(5, dtype=np.uint8)[:, None, None, None]
    parameters = {"features": features, "bank__size": 0.25, "masking": None}
    informed = AnomalyDINO(rotations="informed").set_params(**parameters).fit(X)
    none = AnomalyDINO(rotations="none").set_params(**parameters).fit(X)
    assert len(informed.bank_) == len(none.bank_) == 80
    assert informed.offset_ == none.offset_


@pytest.mark.real
def test_informed_turns_where_the_parts_are_turned(real_features):
    features = real_features(image_size=112)
    turned, _ = make_screws(8, size=224, random_state=0)
    informed = plain(features=features, rotations="informed").fit(turned)
    assert informed.rotation_gain_ >= 0.1
    assert len(informed.angles_) == 8
    still = np.repeat(turned[:1], 6, axis=0)
    still[:, ::7, ::5] += np.arange(6, dtype=np.uint8)[:, None, None, None]
    fixed = plain(features=features, rotations="informed").fit(still)
    assert fixed.rotation_gain_ < 0.1
    assert fixed.angles_ == (0,)
    none = plain(features=features, rotations="none").fit(still)
    assert np.array_equal(fixed.holdout_scores_, none.holdout_scores_)


@pytest.mark.real
def test_a_turned_copy_is_nearer_with_rotations(real_features):
    features = real_features(image_size=112)
    X, _ = make_screws(3, size=224, random_state=0)
    turned = np.rot90(X, axes=(1, 2)).copy()
    gain = [
        plain(features=features, rotations=rotations).fit(X).score_samples(turned)
        for rotations in ("none", "agnostic")
    ]
    assert (gain[1] > 0.8 * gain[0]).all()  # scores are negative


def test_features_cannot_be_turned(grids):
    assert plain(rotations="agnostic").fit(grids).angles_ == (0,)
    with pytest.raises(ValueError, match="only images can be turned"):
        plain(rotations=(0, 90)).fit(grids)


# -- thresholds, more images, smaller banks -----------------------------------------


@pytest.mark.parametrize("rotations", ["none", (0, 90)])
@pytest.mark.parametrize("masking", [ForegroundMask(masking=True), None])
def test_holdout_scores_equal_refitting_without_the_image(
    pictures, tiny, rotations, masking
):
    parameters = {"features": tiny, "rotations": rotations, "masking": masking}
    whole = AnomalyDINO().set_params(**parameters).fit(pictures)
    for i, score in enumerate(whole.holdout_scores_):
        rest = (
            AnomalyDINO().set_params(**parameters).fit(np.delete(pictures, i, axis=0))
        )
        assert rest.score_samples(pictures[i : i + 1])[0] == pytest.approx(score, 1e-5)


@pytest.mark.parametrize("rotations", ["none", (0, 90)])
def test_partial_fit_equals_one_fit_on_all(pictures, tiny, rotations):
    parameters = {
        "features": tiny,
        "rotations": rotations,
        "masking": ForegroundMask(masking=True),
    }
    whole = AnomalyDINO().set_params(**parameters).fit(pictures)
    parts = AnomalyDINO().set_params(**parameters).partial_fit(pictures[:2])
    parts.partial_fit(pictures[2:3]).partial_fit(pictures[2:], [-1, 1])
    new = pictures[:, :, ::-1]
    np.testing.assert_allclose(
        parts.score_samples(new), whole.score_samples(new), rtol=1e-6
    )
    np.testing.assert_allclose(parts.holdout_scores_, whole.holdout_scores_, rtol=1e-6)
    assert parts.offset_ == pytest.approx(whole.offset_)


def test_half_precision_bank_moves_scores_little(grids):
    half = plain(bank__dtype="float16").fit(grids)
    assert half.bank_.vectors.dtype == np.float16
    whole = plain().fit(grids)
    new = grids[::-1] + 0.5
    np.testing.assert_allclose(
        half.score_samples(new), whole.score_samples(new), atol=2e-3
    )


# -- images of any kind -------------------------------------------------------------


def test_images_of_any_size_in_one_batch(tiny):
    X = [*make_images(3), *make_images(2, size=(80, 50)), *make_images(1, (64, 64))]
    detector = AnomalyDINO(features=tiny).fit(X)
    scores = detector.score_samples(X)
    alone = [detector.score_samples([image])[0] for image in X]
    np.testing.assert_allclose(scores, alone, atol=1e-6)
    assert [m.shape for m in detector.predict_map(X)] == [x.shape[:2] for x in X]
    other = [make_images(1, size=(100, 70))[0]]
    assert detector.predict_map(other).shape == (1, 100, 70)


def test_one_image_scores_but_gives_no_threshold(tiny):
    with pytest.warns(UserWarning, match="single image"):
        detector = AnomalyDINO(features=tiny).fit(make_images(1))
    assert np.isfinite(detector.score_samples(make_images(3))).all()
    with pytest.raises(ValueError, match="no threshold"):
        detector.predict(make_images(3))
    assert np.isfinite(detector.partial_fit(make_images(3, random_state=1)).offset_)


def test_transparent_patches_are_neither_learned_nor_scored(tiny):
    X = make_images(4)
    clear = np.concatenate([X, np.full_like(X[..., :1], 255)], axis=-1)
    clear[:, :, :20, 3] = 0
    detector = plain(features=tiny, rotations="none").fit(clear)
    assert len(detector.bank_) < 4 * 20
    broken = clear.copy()
    broken[:, :, :12, :3] = [255, 0, 255]
    heat = detector.predict_map(broken)
    assert not heat[:, :, :4].any()


def test_other_channels_than_in_fit_leave_the_model_as_it_was(grids):
    detector = plain().fit(grids[:4])
    with pytest.raises(ValueError, match="6 channels, the bank of 8"):
        detector.score_samples(grids[..., :6])
    with pytest.raises(ValueError, match=r"X\[0\] has features of 6 channels"):
        detector.partial_fit(grids[4:, ..., :6])
    detector.partial_fit(grids[4:])
    assert detector.offset_ == pytest.approx(plain().fit(grids).offset_)
    with pytest.raises(ValueError, match=r"X\[1\] has features of 6"):
        plain().fit([grids[0], grids[1, ..., :6]])


@pytest.mark.parametrize(
    "rotations", [(np.nan,), (np.inf, 0), ("a",), (None,), ((1, 2),)]
)
def test_angles_must_be_numbers(pictures, tiny, rotations):
    with pytest.raises(ValueError, match="expected angles in degrees"):
        plain(features=tiny, rotations=rotations).fit(pictures)


@pytest.mark.parametrize(
    "change", [{"masking": None}, {"rotations": (0, 90)}, {"bank__dtype": "float16"}]
)
def test_bank_is_not_continued_in_another_way(grids, change):
    detector = (
        AnomalyDINO(masking=ForegroundMask(masking=True))
        .fit(grids)
        .set_params(**change)
    )
    with pytest.raises(ValueError, match="fit again"):
        detector.partial_fit(grids)


def test_failed_fit_leaves_no_half_model(pictures, make_tiny):
    detector = plain(features=make_tiny()).fit(pictures)
    detector.set_params(features=make_tiny(layers=2))
    with pytest.raises(ValueError, match="NaN"):
        detector.fit([*pictures, np.full((97, 143, 3), np.nan)])
    with pytest.raises(NotFittedError):
        detector.score_samples(pictures)


def test_masked_ground_stays_zero_in_the_map(pictures, tiny):
    clear = np.concatenate([pictures, np.full_like(pictures[..., :1], 255)], axis=-1)
    clear[:, :, :70, 3] = 0
    detector = plain(features=tiny, rotations="none").fit(clear[:3])
    heat = detector.predict_map(clear[3:])[0]
    assert not heat[:, :60].any()
    sharp = detector.set_params(map_smoothing=0).predict_map(clear[3:])[0]
    edge = np.flatnonzero(sharp[48] > 0)[0]
    assert heat[48, edge] > 0.7 * sharp[48, edge : edge + 5].mean()  # no leakage


def test_refit_forgets(grids, tiny):
    detector = AnomalyDINO(masking="auto").fit(grids)
    detector.set_params(masking=None).fit(grids[:3])
    assert detector.mask_statistics_ is None
    assert detector.holdout_scores_.shape == (3,)


# -- real photographs ---------------------------------------------------------------


@pytest.mark.real
def test_pasted_defect_is_the_maximum_through_aligner_and_mask(real_features):
    features = real_features(image_size=224)
    X, _ = make_screws(14, size=320, random_state=0)
    bad = make_screws(1, size=320, random_state=7)[0]
    ys, xs = np.nonzero(bad[0].min(-1) > 150)
    place = np.array([np.median(ys), np.median(xs)]).astype(int)
    bad[0, place[0] - 12 : place[0] + 12, place[1] - 12 : place[1] + 12] = [180, 0, 90]
    for steps in ([PCAAligner(output_size=224)], [ForegroundMask(features=features)]):
        pipe = Pipeline([*steps, AnomalyDINO(features=features, rotations="none")])
        heat = pipe.fit(X).predict_map(bad)[0]
        peak = np.unravel_index(heat.argmax(), heat.shape)
        assert abs(np.subtract(peak, place)).max() < 20
        assert pipe.predict(bad) == -1


@pytest.mark.real
def test_one_good_photograph_is_enough(real_features):
    from skimage import data

    brick = data.brick()
    tiles = [brick[i : i + 128, j : j + 128] for i in (0, 200) for j in (0, 200)]
    broken = tiles[3].copy()
    broken[50:62, 40:90] = 20
    with pytest.warns(UserWarning, match="single image"):
        detector = AnomalyDINO(features=real_features(image_size=224)).fit(tiles[:1])
    scores = detector.score_samples([*tiles[1:], broken])
    assert scores[-1] < scores[:-1].min()


def test_a_partial_fit_interrupted_late_leaves_held_out_scores(grids, monkeypatch):
    """At this time all earlier images have new held-out scores."""
    detector = plain().fit(grids[:4])
    before = pickle.dumps(detector)
    monkeypatch.setattr(AnomalyDINO, "_set_offset", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector.partial_fit(grids[:1] + 1)
    assert pickle.dumps(detector) == before
