"""Images compared with each other by ``AnomalyDINO.score_batch``."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from skdinoad import AnomalyDINO, ForegroundMask
from skdinoad.detectors._zero_shot import rescored
from skdinoad.testing import make_images


@pytest.fixture
def grids(rng):
    return rng.normal(size=(5, 4, 6, 8)).astype(np.float32)


@pytest.fixture
def pictures():
    return make_images(4, size=(64, 96))


def plain(**parameters):
    return AnomalyDINO(masking=None).set_params(**parameters)


def test_batch_without_references_finds_the_odd_ones(rng):
    F = rng.normal(size=(4, 4, 8)) + rng.normal(0, 0.1, (20, 4, 4, 8))
    F[3, 1, 2] = F[7, 1, 2] = rng.normal(size=8) * 2  # twins
    F = F.astype(np.float32)
    for rule in ("images", 0.02):
        scores = plain().score_batch(F, neighbors=rule)
        assert set(np.argsort(scores)[:2]) == {3, 7}
        rest = np.delete(F, [3, 7], axis=0)
        clean = plain().score_batch(rest, neighbors=rule)
        others = np.delete(scores, [3, 7])
        np.testing.assert_allclose(others, clean, rtol=0.2)  # not affected


@pytest.mark.parametrize("rule", [0, -1, 1.5, np.nan, "a", None])
def test_unknown_neighbors_are_refused(grids, rule):
    with pytest.raises(ValueError, match="neighbors="):
        plain().score_batch(grids, neighbors=rule)


def test_empty_masks_in_a_batch_are_named(grids):
    detector = AnomalyDINO(masking=ForegroundMask(masking=True, threshold=1e6))
    with pytest.warns(UserWarning, match=r"5 of 5 .* X\[0\]"):
        detector.score_batch(grids)


def test_batch_leaves_the_estimator_alone(pictures, tiny):
    detector = AnomalyDINO(features=tiny)
    before = vars(detector).copy()
    scores, maps = detector.score_batch(pictures, return_maps=True)
    assert vars(detector) == before
    assert scores.shape == (4,)
    assert maps.shape == pictures.shape[:3]
    assert np.array_equal(detector.score_batch(pictures), scores)


def test_a_batch_of_one_is_refused(pictures, tiny):
    with pytest.raises(ValueError, match="compares images with each other"):
        AnomalyDINO(features=tiny).score_batch(pictures[:1])


def test_copies_of_one_image_are_refused(grids):
    with (
        pytest.warns(UserWarning, match="2 of 3"),
        pytest.raises(ValueError, match="All 3 images are exact copies of one"),
    ):
        plain().score_batch(grids[:1].repeat(3, 0))


def musc(F, tokens, windows, n):
    """Reference: mutual scoring of unit patches (n, h, w, c) with plain loops."""
    count, h, w, _ = F.shape
    total = np.zeros((count, h, w))
    for r in windows:
        half = r // 2
        G = np.zeros_like(F)
        for y in range(h):
            for x in range(w):
                rows = slice(max(0, y - half), y + half + 1)
                columns = slice(max(0, x - half), x + half + 1)
                G[:, y, x] = F[:, rows, columns].mean((1, 2))
        G /= np.linalg.norm(G, axis=-1, keepdims=True)
        for i in range(count):
            others = [j for j in range(count) if j != i]
            near = [
                np.square(G[i][:, :, None] - G[j].reshape(-1, 8)).sum(-1).min(-1) / 2
                for j in others
            ]
            total[i] += np.sort(near, axis=0)[:3].mean(0) / len(windows)
    scores = total.reshape(count, -1).max(1)
    if n:
        unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
        W, means = unit @ unit.T, []
        for k in range(1, n + 1):
            for_k = []
            for i in range(count):
                nearest = np.argsort(-W[i])[:k]
                for_k.append(np.average(scores[nearest], weights=W[i, nearest]))
            means.append(for_k)
        scores = np.mean(means, axis=0)
    return -scores, total


@pytest.mark.parametrize("windows", [(1,), (1, 3, 5), (3,)])
def test_windows_and_mutual_scores_are_those_of_the_plain_loops(grids, windows):
    F = grids / np.linalg.norm(grids, axis=-1, keepdims=True)
    scores, maps = musc(F.astype(float), None, windows, 0)
    ours = plain().score_batch(grids, aggregation=windows, return_maps=True)
    np.testing.assert_allclose(ours[0], scores, rtol=1e-5)
    np.testing.assert_allclose(ours[1], maps, rtol=1e-4, atol=1e-6)


def test_scores_are_averaged_over_images_that_look_alike(pictures, tiny):
    X = make_images(6, size=(64, 96))
    detector = AnomalyDINO(features=tiny, masking=None)
    before, maps = detector.score_batch(X, return_maps=True)
    after, same = detector.score_batch(X, rescoring=3, return_maps=True)
    tokens = tiny.fit(X).transform_tokens(X)[1][:, 0].astype(float)
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    W, expected = unit @ unit.T, []
    for i in range(6):
        order = np.argsort(-W[i])
        expected.append(
            np.mean(
                [
                    np.average(before[order[:k]], weights=W[i, order[:k]])
                    for k in (1, 2, 3)
                ]
            )
        )
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    assert np.array_equal(maps, same)
    assert np.array_equal(detector.score_batch(X, rescoring=1), before)


def official_musc(F, tokens, windows, counts, size):
    """The official arithmetic, from its description: F (n, layers, h, w, c)."""
    n, _, h, w, c = F.shape
    windowed = []
    for r in windows:
        of_layers = []
        for Z in np.moveaxis(F, 1, 0):
            Z = Z - Z.mean((1, 2, 3), keepdims=True)
            Z = Z / Z.std((1, 2, 3), keepdims=True)
            edge = r // 2
            padded = np.pad(Z, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
            shifts = [(y, x) for y in range(r) for x in range(r)]
            G = np.mean([padded[:, y : y + h, x : x + w] for y, x in shifts], axis=0)
            G = (G / np.linalg.norm(G, axis=-1, keepdims=True)).reshape(n, h * w, c)
            D = []
            for i in range(n):
                others = [cdist(G[i], G[j]).min(1) for j in range(n) if j != i]
                k = int(0.3 * (n - 1))
                D.append(np.sort(others, axis=0)[:k].mean(0))
            of_layers.append(D)
        windowed.append(np.mean(of_layers, axis=0))
    maps = torch.from_numpy(np.mean(windowed, axis=0).reshape(n, 1, h, w))
    maps = torch.nn.functional.interpolate(
        maps, size, mode="bilinear", align_corners=True
    )
    scores = maps.reshape(n, -1).max(1).values.numpy()
    tokens = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    W, means = tokens @ tokens.T, []
    for k in counts:
        kept = np.where(np.sort(W, axis=1)[:, [-k]] <= W, W, 0)
        means.append(kept / kept.sum(1, keepdims=True) @ scores)
    return np.mean(means, axis=0)


def test_musc_equals_the_official_arithmetic(make_tiny):
    X = make_images(8, size=(64, 64))
    features = make_tiny(layers=(1, 3), image_size=(64, 64))
    grids = features.fit_transform(X).reshape(8, 4, 4, 2, -1).transpose(0, 3, 1, 2, 4)
    tokens = features.transform_tokens(X)[1][:, 0]
    expected = official_musc(
        grids.astype(float), tokens.astype(float), (1, 3, 5), (1, 4, 5), (64, 64)
    )
    detector = plain(features=features)
    how = {"neighbors": "musc", "aggregation": (1, 3, 5), "rescoring": (1, 4, 5)}
    scores, maps = detector.score_batch(X, **how, return_maps=True)
    np.testing.assert_allclose(-scores, expected, rtol=1e-4)
    assert maps.shape == (8, 64, 64)
    order = np.argsort(detector.score_batch(X))
    assert not np.array_equal(np.argsort(scores), order)  # another rule by default


def test_windows_do_not_mix_in_invalid_patches(grids):
    holes, loud = grids.copy(), grids.copy()
    holes[0, 1, 1], loud[0, 1, 1] = np.nan, 1e3
    clean = plain().score_batch(holes, aggregation=(3,))
    assert np.isfinite(clean).all()
    assert not np.allclose(clean, plain().score_batch(loud, aggregation=(3,)))


@pytest.mark.parametrize(
    "how",
    [
        {"aggregation": ()},
        {"aggregation": (2,)},
        {"aggregation": [1.5]},
        {"aggregation": "3"},
        {"rescoring": -1},
        {"rescoring": 1.5},
        {"rescoring": ()},
        {"rescoring": (0, 2)},
    ],
)
def test_bad_steps_are_refused(grids, how):
    with pytest.raises(ValueError, match=f"{next(iter(how))}="):
        plain().score_batch(grids, **how)


def test_rescoring_needs_class_tokens(grids):
    with pytest.raises(ValueError, match="class tokens"):
        plain().score_batch(grids, rescoring=2)


@pytest.mark.parametrize("counts", [(1,), (1, 2, 3), (1, 5, 6), (2, 50)])
def test_rescoring_weighs_images_by_how_alike_they_are(rng, counts):
    scores, tokens = rng.normal(size=7), rng.normal(size=(7, 3))
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    expected = []
    for i in range(7):
        alike = np.maximum(unit @ unit[i], 0)
        alike[i] = 1
        order = [i, *(j for j in np.argsort(-alike) if j != i)]
        means = []
        for k in counts:
            means.append(np.average(scores[order[:k]], weights=alike[order[:k]]))
        expected.append(np.mean(means))
    np.testing.assert_allclose(rescored(scores, tokens, counts), expected)
