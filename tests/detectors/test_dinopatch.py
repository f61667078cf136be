import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skdinoad import DinoPatch, LocalBank, Outline, PCAAligner, Pipeline, ScoreCleaning
from skdinoad._arrays.normal_scores import NormalScores
from skdinoad.datasets import make_screws, plant_defect
from skdinoad.datasets._screws import SCREW_DEFECTS
from skdinoad.testing import make_images


@pytest.fixture
def grids(rng):
    """Return features of six normal images, (6, 5, 6, 8)."""
    return rng.normal(size=(6, 5, 6, 8)).astype(np.float32)


def leave_one_out(F, **parameters):
    """Reference: score each image with a detector fitted on the others."""
    scores = []
    for i in range(len(F)):
        detector = DinoPatch().set_params(**parameters).fit(np.delete(F, i, axis=0))
        scores.append(detector.score_samples(F[i : i + 1])[0])
    return np.array(scores)


def test_known_answer():
    """The nearest of (0, 0) and (1, 0) to (3, 4), searched at its location only."""
    F = np.zeros((2, 2, 2, 8), np.float32)
    F[1, 0, 0, 0] = 1
    query = np.zeros((1, 2, 2, 8), np.float32)
    query[0, 0, 0, :2] = [3, 4]
    query[0, 1, 1, 0] = 1
    local = DinoPatch(bank=LocalBank(neighborhood=0)).fit(F)
    expected = [[np.sqrt(20), 0], [0, 1]]
    np.testing.assert_allclose(local.predict_map(query)[0], expected, rtol=1e-6)
    everywhere = DinoPatch(bank=LocalBank(neighborhood=1)).fit(F)
    assert everywhere.predict_map(query)[0, 1, 1] == 0  # (1, 0) is known elsewhere


def test_cosine_is_one_minus_cosine(grids):
    bank = np.stack([grids[0], 2 * grids[0]])  # the same directions
    detector = DinoPatch(bank=LocalBank(metric="cosine", neighborhood=0)).fit(bank)
    a, b = grids[0], grids[1]
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    out = detector.predict_map(grids[1:2])[0]
    np.testing.assert_allclose(out, 1 - cosine, atol=1e-6)


def test_training_images_score_zero_but_the_threshold_does_not(grids):
    detector = DinoPatch().fit(grids)
    assert (detector.score_samples(grids) == 0).all()
    assert detector.offset_ < -1


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("neighborhood", [0, 1, 6])
def test_holdout_scores_equal_refitting_without_the_image(grids, metric, neighborhood):
    parameters = {"bank__metric": metric, "bank__neighborhood": neighborhood}
    detector = DinoPatch().set_params(**parameters).fit(grids)
    expected = leave_one_out(grids, **parameters)
    np.testing.assert_allclose(detector.holdout_scores_, expected, rtol=1e-5)
    limit = NormalScores(-detector.holdout_scores_).threshold(0.05)
    assert detector.offset_ == pytest.approx(-limit)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"bank__metric": "cosine"},
        {"baseline": "subtract"},
        {"cleaning": ScoreCleaning(quantile=0.9)},
    ],
)
def test_partial_fit_equals_one_fit_on_all(grids, parameters):
    whole = DinoPatch().set_params(**parameters).fit(grids)
    parts = (
        DinoPatch()
        .set_params(**parameters)
        .partial_fit(grids[:2])
        .partial_fit(grids[2:])
    )
    new = grids[::-1] + 0.1
    assert np.array_equal(parts.score_samples(new), whole.score_samples(new))
    assert parts.offset_ == whole.offset_


def test_partial_fit_leaves_anomalous_rows_out(grids):
    y = [1, -1, 1, 1]
    parts = DinoPatch().partial_fit(grids[:2]).partial_fit(grids[2:], y)
    assert parts.bank_.vectors.shape[3] == 5
    with pytest.raises(ValueError, match="gives a patch grid"):
        parts.partial_fit(grids[:, :3])


def test_partial_fit_with_another_metric_is_refused(grids):
    detector = DinoPatch().fit(grids).set_params(bank__metric="cosine")
    with pytest.raises(ValueError, match="fit again"):
        detector.partial_fit(grids)


def test_baseline_discounts_what_always_varies(rng):
    F = rng.normal(0, 0.01, (8, 3, 3, 8)).astype(np.float32)
    F[:, 0, 0] = rng.normal(0, 5, (8, 8))  # a location that always varies
    query = F[:1] * 0
    query[0, 0, 0] = 5
    query[0, 2, 2] = 1
    for baseline, hottest in ((None, 0), ("subtract", None), ("divide", 8)):
        detector = DinoPatch(baseline=baseline, bank=LocalBank(neighborhood=0)).fit(F)
        D = detector.predict_map(query)[0]
        if hottest is not None:
            assert D.argmax() == hottest
        if baseline == "subtract":
            raw = DinoPatch(bank=LocalBank(neighborhood=0)).fit(F).predict_map(query)[0]
            expected = np.maximum(raw - detector.baseline_[1], 0)
            np.testing.assert_allclose(D, expected, rtol=1e-5)


def test_holdout_baseline_leaves_the_image_out_too(grids):
    detector = DinoPatch(
        baseline="divide", aggregate="max", bank=LocalBank(neighborhood=0)
    ).fit(grids)
    raw = DinoPatch(bank=LocalBank(neighborhood=0)).fit(grids)._holdout
    own = np.stack([np.delete(raw, i, 0).mean(0) for i in range(6)])
    expected = -(raw / own)[:, 0].max(axis=(1, 2))
    np.testing.assert_allclose(detector.holdout_scores_, expected, rtol=1e-5)


def test_threshold_comes_from_held_out_maps_and_cleans_good_ones(grids):
    detector = DinoPatch(
        bank=LocalBank(neighborhood=0), cleaning=ScoreCleaning(quantile=1.0)
    ).fit(grids)
    raw = DinoPatch(bank=LocalBank(neighborhood=0)).fit(grids)._holdout
    assert detector.threshold_.tolist() == [raw.max()] * 2  # of scores and maps
    assert not detector.predict_map(grids + 0.01).any()
    assert detector.predict_map(grids[:1] + 50).all()


def test_smoothing_spreads_and_lowers_a_peak(grids):
    query = grids[:1].copy()
    query[0, 2, 3] += 30
    peaks = [
        DinoPatch(score_smoothing=s / 4, bank=LocalBank(neighborhood=0))
        .fit(grids)
        .predict_map(query)
        for s in (0, 1)
    ]
    assert [p.argmax() for p in peaks] == [2 * 6 + 3] * 2
    assert peaks[1].max() < peaks[0].max()


def test_invalid_patches_are_neither_learned_nor_scored(grids):
    F = grids.copy()
    F[:, 0] = np.nan  # never valid in training
    F[2, 3, 3] = np.nan
    detector = DinoPatch(bank=LocalBank(neighborhood=0)).fit(F)
    out = detector.predict_map(grids)
    assert (out[:, 0] == 0).all()
    expected = np.linalg.norm(grids[2, 3, 3] - np.delete(grids[:, 3, 3], 2, 0), axis=-1)
    np.testing.assert_allclose(out[2, 3, 3], expected.min(), rtol=1e-6)


def test_masked_pixels_never_raise_a_score(grids):
    detector = DinoPatch().fit(grids)
    query = grids + 1
    masked = query.copy()
    masked[:, 2:4] = np.nan
    assert (detector.score_samples(masked) >= detector.score_samples(query)).all()


def test_swapping_samples_swaps_scores(grids):
    detector = DinoPatch().fit(grids[:3])
    scores = detector.score_samples(grids[3:])
    assert np.array_equal(detector.score_samples(grids[:2:-1]), scores[::-1])


def test_pinned_scores():
    """Regenerate the values only after an intended change of the scores."""
    F = np.sin(np.arange(4 * 3 * 3 * 8, dtype=np.float32)).reshape(4, 3, 3, 8)
    detector = DinoPatch(bank=LocalBank(neighborhood=1)).fit(F)
    found = [*detector.holdout_scores_, *detector.score_samples(F[:2] * 1.5)]
    expected = PINNED
    np.testing.assert_allclose(found, expected, rtol=1e-5)


PINNED = [-1.061004, -0.981904, -1.085906, -1.084736, -1.070698, -1.062679]


def test_planted_defect_is_the_maximum_of_the_map(tiny):
    X = make_images(8, size=(64, 96))
    bad = X[:1].copy()
    bad[0, 40:52, 70:82] = [255, 0, 255]
    detector = DinoPatch(features=tiny).fit(X[1:])
    y, x = np.unravel_index(detector.predict_map(bad)[0].argmax(), (64, 96))
    assert 32 <= y <= 60
    assert 62 <= x <= 90


@pytest.mark.real
def test_planted_defect_is_found_in_a_real_photograph(real_features):
    data = pytest.importorskip("skimage.data")
    brick = np.stack([data.brick()] * 3, -1)
    crops = [
        brick[y : y + 192, x : x + 192] for y in (0, 160, 320) for x in (0, 160, 320)
    ]
    bad, mask = plant_defect(crops[4], kind="blob", random_state=1)
    features = real_features(image_size=224)
    detector = DinoPatch(features=features, bank=LocalBank(neighborhood=16)).fit(
        crops[:4] + crops[5:]
    )
    maps = detector.predict_map(np.stack([bad, crops[4]]))
    assert mask[np.unravel_index(maps[0].argmax(), mask.shape)]
    assert maps[0].max() > 1.5 * maps[1].max()
    assert detector.predict(bad[None]) == [-1]


@pytest.mark.real
def test_planted_defect_is_the_maximum_also_through_the_aligner(real_features):
    good, _ = make_screws(8, random_state=0)
    bad, masks = make_screws(3, defect="scratch", random_state=1)
    pipe = Pipeline([PCAAligner(), DinoPatch(features=real_features())])
    maps = pipe.fit(good).predict_map(bad)
    for heat, mask in zip(maps, masks):
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        rows, columns = np.nonzero(mask)
        assert np.hypot(rows - y, columns - x).min() < 8  # within a patch


@pytest.mark.real
def test_orderings_of_the_toy_table(real_features):
    """Alignment is decisive; banks without locations hardly detect misplaced parts."""
    train, _ = make_screws(8, random_state=0)
    good, _ = make_screws(4, random_state=1)
    bad = {d: make_screws(3, defect=d, random_state=2)[0] for d in SCREW_DEFECTS}

    def scores(support, radius):
        closing = 7 if support == "hull" else 0  # exactly the recipe
        pipe = Pipeline(
            [
                PCAAligner(
                    support=support, output_size=252, outline=Outline(closing=closing)
                ),
                DinoPatch(
                    features=real_features(image_size=252, layers="last"),
                    texture=None,
                    bank=LocalBank(neighborhood=radius, metric="cosine"),
                ),
            ]
        ).fit(train)
        return {k: -pipe.score_samples(X) for k, X in {"good": good, **bad}.items()}

    hull = {radius: scores("hull", radius) for radius in (0, 1, 18)}
    edges = {radius: scores("edges", radius) for radius in (0, 1)}
    for found in hull.values():
        for defect in SCREW_DEFECTS:
            y = [0] * 4 + [1] * 3
            both = np.concatenate([found["good"], found[defect]])
            assert roc_auc_score(y, both) == 1.0, defect
    # (a) the hull stabilises the pose: good parts score far lower than with edges
    assert hull[0]["good"].mean() < 0.6 * edges[0]["good"].mean()
    # (b) a neighbourhood tolerates the remaining jitter
    assert hull[1]["good"].mean() < hull[0]["good"].mean()
    assert edges[1]["good"].mean() < 0.7 * edges[0]["good"].mean()
    # (c) wider search weakens a second washer, which is normal at another location
    margins = [hull[r]["second_washer"].mean() for r in (0, 1, 18)]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] < 0.5 * margins[0]


# -- local and global together, smaller banks ----------------------------------------


def held_out(grids, **parameters):
    """Return held-out scores with a radius of 0 and other parameters."""
    detector = DinoPatch(aggregate="mean", bank=LocalBank(neighborhood=0))
    return detector.set_params(**parameters).fit(grids).holdout_scores_


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_global_weight_blends_the_two_distances(grids, metric):
    def maps(**parameters):
        detector = (
            DinoPatch(bank=LocalBank(metric=metric))
            .set_params(**parameters)
            .fit(grids[:5])
        )
        return detector.predict_map(grids[5:])

    local, everywhere = maps(bank__neighborhood=0), maps(bank__neighborhood=6)
    blend = maps(bank__neighborhood=0, bank__global_weight=0.3)
    np.testing.assert_allclose(blend, 0.7 * local + 0.3 * everywhere, rtol=1e-4)
    alone = maps(bank__neighborhood=0, bank__global_weight=1)
    np.testing.assert_allclose(alone, everywhere, rtol=1e-5)


@pytest.mark.parametrize(
    "parameters",
    [
        {"bank__global_weight": 0.5},
        {"bank__nearest_images": 2},
        {"bank__global_weight": 1.0, "bank__metric": "cosine"},
        {"bank__n_components": 3, "bank__pca": "local", "bank__neighborhood": 0},
    ],
)
def test_holdout_leaves_the_image_out_of_every_part(grids, parameters):
    detector = DinoPatch().set_params(**parameters).fit(grids)
    expected = leave_one_out(grids, **parameters)
    np.testing.assert_allclose(detector.holdout_scores_, expected, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_nearest_images_within_a_window_are_rads_rule(rng, k):
    """1 - the largest cosine over the k most similar images, mean over layers."""
    F, query = rng.normal(size=(2, 5, 4, 4, 2, 6)).astype(np.float32)
    bank = LocalBank(nearest_images=k, neighborhood=1, metric="cosine")
    detector = DinoPatch(bank=bank, aggregate="max").fit(F)
    F, query = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (F, query))
    means = [x.mean((1, 2)).reshape(5, -1) for x in (F, query)]
    known, seen = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in means)
    expected = np.zeros((5, 4, 4))
    for i, y, x in np.ndindex(5, 4, 4):
        similar = np.argsort(-(known @ seen[i]))[:k]
        window = np.s_[similar, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        cosine = (F[window] * query[i, y, x]).sum(-1).reshape(-1, 2)
        expected[i, y, x] = ((1 - cosine.max(0)) / detector.layer_scales_).mean()
    np.testing.assert_allclose(detector.predict_map(query), expected, rtol=1e-4)


def test_nearest_images_need_whole_images(grids):
    bank = LocalBank(nearest_images=2, n_prototypes=3)
    with pytest.raises(ValueError, match="prototypes do not belong to whole images"):
        DinoPatch(bank=bank).fit(grids)


def test_max_images_keeps_what_k_centre_keeps(grids):
    twins = np.concatenate([grids, grids[:3] + 1e-4])
    detector = DinoPatch(bank=LocalBank(neighborhood=0, max_images=6)).fit(twins)
    assert detector.bank_.vectors.shape[2] == 6
    kept = set(detector.bank_.image[0, 0] % 6)
    assert kept == set(range(6))  # one of each pair of twins
    assert detector.holdout_scores_.shape == (9,)


def test_prototypes_are_chosen_at_each_location(grids):
    twins = np.concatenate([grids, grids[:3] + 1e-4])
    detector = DinoPatch(bank=LocalBank(neighborhood=0, n_prototypes=6)).fit(twins)
    assert detector.bank_.vectors.shape[2] == 6
    assert all(len({i % 6 for i in cell}) == 6 for cell in detector.bank_.image[0])
    whole = DinoPatch(bank=LocalBank(neighborhood=0)).fit(twins)
    new = grids + 0.3
    np.testing.assert_allclose(
        detector.score_samples(new), whole.score_samples(new), atol=1e-3
    )


def test_fewer_prototypes_score_no_nearer(grids):
    whole = DinoPatch(bank=LocalBank(neighborhood=0)).fit(grids)
    few = DinoPatch(bank=LocalBank(neighborhood=0, n_prototypes=2)).fit(grids)
    new = grids[::-1] + 0.3
    assert (few.predict_map(new) >= whole.predict_map(new) - 1e-6).all()
    assert (few.holdout_scores_ <= whole.holdout_scores_ + 1e-6).all()


def test_holdout_of_a_reduced_bank_never_sees_the_own_image(grids):
    for parameters in ({"bank__n_prototypes": 2}, {"bank__max_images": 2}):
        assert (held_out(grids, **parameters) < -1).all()


@pytest.mark.parametrize("pca", ["shared", "local"])
def test_components_that_keep_everything_change_nothing(rng, pca):
    basis = rng.normal(size=(3, 8))
    grids = (rng.normal(size=(7, 4, 5, 3)) @ basis).astype(np.float32)
    parameters = {"bank__neighborhood": 0}
    whole = DinoPatch().set_params(**parameters).fit(grids[:6])
    reduced = (
        DinoPatch(bank=LocalBank(n_components=3, pca=pca))
        .set_params(**parameters)
        .fit(grids[:6])
    )
    assert reduced.bank_.vectors.shape == (1, 4, 5, 6, 4)
    np.testing.assert_allclose(
        reduced.predict_map(grids[6:]), whole.predict_map(grids[6:]), rtol=1e-3
    )


def test_local_bases_are_compared_at_their_own_location_only(grids):
    for parameters in (
        {"bank__neighborhood": 1},
        {"bank__neighborhood": 0, "bank__global_weight": 0.5},
    ):
        with pytest.raises(ValueError, match="must both be 0"):
            DinoPatch(bank=LocalBank(n_components=2, pca="local")).set_params(
                **parameters
            ).fit(grids)
    detector = DinoPatch(
        bank=LocalBank(n_components=2, pca="local", neighborhood=0)
    ).fit(grids)
    with pytest.raises(ValueError, match="fit again"):
        detector.partial_fit(grids)


@pytest.mark.parametrize("neighborhood", [0, 1])
def test_half_precision_bank_moves_scores_little(grids, neighborhood):
    parameters = {"bank__neighborhood": neighborhood, "bank__global_weight": 0.5}
    half = (
        DinoPatch(bank=LocalBank(dtype="float16")).set_params(**parameters).fit(grids)
    )
    whole = DinoPatch().set_params(**parameters).fit(grids)
    assert half.bank_.vectors.dtype == np.float16
    new = grids[::-1] + 0.5
    # Each component changes by at most 2^-11 of itself.
    bound = 2**-11 * np.linalg.norm(grids, axis=-1).max()
    assert abs(half.score_samples(new) - whole.score_samples(new)).max() <= bound


@pytest.mark.parametrize(
    "parameters", [{"bank__max_images": 3}, {"bank__n_prototypes": 3}]
)
def test_partial_fit_reduces_again(grids, parameters):
    detector = (
        DinoPatch()
        .set_params(**parameters)
        .partial_fit(grids[:4])
        .partial_fit(grids[4:])
    )
    assert detector.bank_.vectors.shape[3] == 3
    assert detector.holdout_scores_.shape == (6,)
    assert (detector.holdout_scores_ < 0).all()


def test_every_new_parameter_can_be_searched(grids):
    from sklearn.model_selection import ParameterGrid

    space = {
        "bank__global_weight": [0, 0.5],
        "bank__n_prototypes": [None, 2],
        "bank__max_images": [3],
    }
    for parameters in ParameterGrid(space):
        DinoPatch().set_params(**parameters).fit(grids).score_samples(grids)


@pytest.mark.parametrize("neighborhood", [0, 1])
def test_held_out_scores_know_of_alpha(make_tiny, neighborhood):
    """Reference: fit on the others and score the remaining one, also behind masks."""
    X = make_images(6, size=(64, 64))
    alpha = np.full((6, 64, 64, 1), 255, np.uint8)
    for i in range(0, 6, 2):
        alpha[i, : 16 + 4 * i, :24] = 0  # like the corners behind an aligner
    X = np.concatenate([X, alpha], axis=-1)
    detector = DinoPatch(
        features=make_tiny(), bank=LocalBank(neighborhood=neighborhood)
    ).fit(X)
    for i, held_out in enumerate(detector.holdout_scores_):
        alone = DinoPatch(
            features=make_tiny(), bank=LocalBank(neighborhood=neighborhood)
        )
        alone.fit(np.delete(X, i, axis=0))
        expected = alone.score_samples(X[i : i + 1])[0]
        assert held_out == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("part", ["_collect", "_hold_out", "_set_offset"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_partial_fit_adds_nothing(grids, monkeypatch, part, error):
    detector = DinoPatch(bank=LocalBank(n_prototypes=3)).fit(grids[:4])
    before = vars(detector).copy()

    def stop(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(DinoPatch, part, stop)
        with pytest.raises(error):
            detector.partial_fit(grids[4:])
    assert vars(detector).keys() == before.keys()
    assert all(vars(detector)[name] is value for name, value in before.items())
    expected = (
        DinoPatch(bank=LocalBank(n_prototypes=3)).fit(grids[:4]).partial_fit(grids[4:])
    )
    assert detector.partial_fit(grids[4:]).offset_ == expected.offset_
