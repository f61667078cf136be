"""DMAD: deformation, reconstruction, scores of two parts; also its baseline."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from conftest import tiny_cnn, tiny_features
from scipy import ndimage
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skdinoad import DMAD, PCAAligner, Pipeline, Training, dump
from skdinoad.datasets import make_screws, plant_defect
from skdinoad.detectors._dmad import PRESETS
from skdinoad.features._backbones import load_backbone
from skdinoad.metrics import pixel_auroc_score
from skdinoad.networks import magnitude, moved
from skdinoad.testing import make_images

#: Neither deformation nor prototypes.
BASELINE = {"scales": (), "n_codes": 0}


def quick(**parameters):
    """Return a detector that trains a little in a second."""
    parameters = {
        "features": tiny_cnn(standardize=False, image_size=(64, 64)),
        "training__n_iter": 8,
        "n_codes": 8,
        "student_width": 32,
        "holdout": None,
        **parameters,
    }
    return DMAD().set_params(**parameters)


@pytest.fixture
def X():
    return make_images(6, size=(64, 64))


@pytest.fixture(scope="module")
def plain_scores():
    X = make_images(6, size=(64, 64))
    return quick(training__precision="bfloat16").fit(X).score_samples(X)


# -- presets and settings -----------------------------------------------------------


def test_the_papers_setting():
    detector = DMAD(preset="paper")
    features = detector.default_features()
    assert features.model.startswith("wide_resnet50_2")
    assert (features.layers, features.image_size) == ((1, 2, 3), (256, 256))
    assert not features.standardize
    paper = PRESETS["paper"]
    assert (paper["learning_rate"], paper["batch_size"], paper["n_codes"]) == (
        5e-3,
        8,
        200,
    )
    assert paper["n_iter"] == pytest.approx(400 * 209 / 8, rel=0.01)
    assert (paper["offset_width"], paper["offset_stem"]) == (64, 1)
    assert (paper["student_width"], paper["student_depth"]) == (0, (6, 4, 3))
    assert (detector.alpha, detector.aggregate) == (0.05, "max")
    assert (paper["scale_channels"], paper["variant"]) == (False, "ppdm")
    (group,) = detector._optimizer(torch.nn.Linear(1, 1)).param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.999), 1e-2)
    assert detector.scales == ((8 / 256, 8), (3 / 256, 2))
    rates = [detector._rate(i) for i in (0, 5225, 10449)]
    np.testing.assert_allclose(rates, [5e-3, 2.5e-3, 0], atol=1e-5)


def test_presets_for_a_cpu():
    assert DMAD()._setting("variant") == "ppdm"
    assert DMAD(preset="vit")._setting("variant") == "pdm"
    assert DMAD(preset="vit", variant="ppdm")._setting("variant") == "ppdm"
    assert DMAD(preset="vit").default_features().layers == (2, 5, 8)


# -- the teacher --------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["ppdm", "pdm"])
def test_the_teacher_never_changes(X, variant):
    network = load_backbone("test_efficientnet", "random:0").network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    quick(variant=variant).fit(X).predict_map(X)
    assert not network.training
    assert all(p.grad is None for p in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_offsets_learn_through_the_teacher(X):
    """Gradients of the reconstruction reach the fields only through moved pixels."""
    detector = quick(training__n_iter=1)
    detector._reset()
    detector.features_ = detector.features.fit()
    detector._seed = 0
    data = detector._gather(detector._check_input(X))
    network = detector._new_network(data, data.image)
    losses = network.losses(data.x, detector._taught)
    losses["reconstruction"].backward()
    grads = [p.grad for p in network.deformer.forth.parameters()]
    assert max(float(g.abs().max()) for g in grads) > 0
    for weight in network.deformer.back.parameters():
        assert weight.grad is None or not weight.grad.any()


# -- deformation --------------------------------------------------------------------


def still(detector):
    """Set all fields of a fitted detector to 0."""
    for name, value in detector.student_.items():
        if name.startswith("deformer.") and ("forth" in name or "back" in name):
            value[...] = 0
    detector._loaded = None
    return detector


@pytest.mark.parametrize("variant", ["ppdm", "pdm"])
def test_without_offsets_it_is_reverse_distillation(X, variant):
    detector = still(quick(variant=variant, n_codes=0).fit(X))
    plain = quick(**BASELINE).fit(X)
    plain.student_ = {
        k: v for k, v in detector.student_.items() if k.startswith("distiller.")
    }
    plain._loaded = None
    np.testing.assert_allclose(
        detector.score_parts(X)[:, 0], plain.score_parts(X)[:, 0], rtol=1e-4
    )
    np.testing.assert_allclose(detector.score_parts(X)[:, 1], 0, atol=1e-5)


def test_maps_go_back_to_where_the_image_was(X):
    """Known answer: forward fields shift by (6, -4) pixels, inverse ones shift back."""
    detector = quick(scales=((0.25, 8),), score_smoothing=0, n_codes=0).fit(X)
    field = torch.tensor([2 * 6 / 63, -2 * 4 / 63])[None, :, None, None]
    field = field.expand(1, 2, 64, 64)
    network = detector._network()
    network.deformer.forward = lambda x: ([field], [-field])
    spot = torch.zeros(1, 1, 64, 64)
    spot[..., 20, 30] = 1
    seen = moved(spot, [field])[0, 0]
    assert np.argwhere(seen.numpy() > 0.9).tolist() == [[24, 24]]
    # An error of the student in the moved image
    detector._levels_at_image_size = lambda *_: moved(spot, [field])
    x = torch.zeros(1, 3, 64, 64)
    parts = detector._part_maps(network, x, torch.ones(1, 64, 64, dtype=torch.bool))
    # is reported at its position in the original image.
    assert np.unravel_index(parts[0, 0].argmax(), (64, 64)) == (20, 30)
    length = float(magnitude(field)[0, 0, 0, 0])
    np.testing.assert_allclose(parts[0, 1], length, rtol=1e-4)


def test_size_of_deformation_is_that_of_the_inverse_fields_moved(X):
    detector = quick(score_smoothing=0).fit(X)
    network = detector._network()
    coarse, fine = (0.05 * torch.randn(1, 2, 64, 64) for _ in range(2))
    zero = torch.zeros(1, 2, 64, 64)
    network.deformer.forward = lambda x: ([zero, zero], [coarse, fine])
    x = torch.zeros(1, 3, 64, 64)
    parts = detector._part_maps(network, x, torch.ones(1, 64, 64, dtype=torch.bool))
    expected = moved(magnitude(fine), [coarse]) + magnitude(coarse)
    np.testing.assert_allclose(parts[0, 1], expected[0, 0], rtol=1e-4)


def test_inverse_fields_learn_to_undo():
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 255, (10, 10, 3), dtype=np.uint8)
    canvas = np.kron(canvas, np.ones((10, 10, 1), np.uint8))
    X = np.stack(
        [canvas[r : r + 64, c : c + 64] for r, c in rng.integers(0, 36, (8, 2))]
    )
    detector = quick(training__n_iter=60).fit(X)
    network = detector._network()
    x = torch.from_numpy(detector.features_.prepared(X)[0]).permute(0, 3, 1, 2)
    forth, back = network.deformer(x)
    there = moved(x, forth)
    again = moved(there, back[::-1])
    assert (again - x).square().mean() < 0.9 * (there - x).square().mean()


def test_fields_come_in_pixels_of_the_image_given():
    detector = quick().fit(make_images(4, size=(64, 64)))
    mixed = [make_images(1, size=(64, 64))[0], make_images(1, size=(80, 120))[0]]
    found = detector.predict_deformation(mixed)
    assert [f.shape for f in found] == [(2, 64, 64, 2), (2, 80, 120, 2)]
    with pytest.raises(ValueError, match="no deformation"):
        quick(**BASELINE).fit(mixed).predict_deformation(mixed)


# -- scores -------------------------------------------------------------------------


def test_alpha_0_is_the_reconstruction_alone(X):
    detector = quick(alpha=0).fit(X)
    np.testing.assert_allclose(
        detector.score_samples(X), -detector.score_parts(X)[:, 0], rtol=1e-6
    )


def test_score_is_the_weighted_sum_of_the_highest_of_both_maps(X):
    detector = quick(alpha=0.3).fit(X)
    error, size = detector.score_parts(X).T
    weight = 0.3 * detector.part_scales_[0] / detector.part_scales_[1]
    np.testing.assert_allclose(detector.score_samples(X), -(error + weight * size))
    spread = np.quantile(error, 0.95) - np.quantile(error, 0.05)
    floor = 0.05 * np.median(error)
    assert detector.part_scales_[0] == pytest.approx(max(spread, floor), rel=1e-3)


def test_scores_are_the_highest_values_of_both_maps(X):
    """Of smoothed maps, not their mean; computed by hand from the grids."""
    detector = quick(alpha=0.3).fit(X)
    grids = [grid for D, _ in detector._iter_score_grids(X) for grid in D]
    expected = [[grid.max() for grid in pair] for pair in grids]
    np.testing.assert_allclose(detector.score_parts(X), expected, rtol=1e-5)
    weight = detector.deformation_weight_
    heat = detector.predict_map(X)[0]  # 64 pixels: a position is a pixel
    np.testing.assert_allclose(heat, grids[0][0] + weight * grids[0][1], rtol=1e-4)


def known_errors(detector, monkeypatch, *levels):
    """Make a detector without deformation return these errors at its levels."""
    name = "skdinoad.networks._student.level_distances"
    monkeypatch.setattr(name, lambda *_: list(levels))
    return still(detector)


def test_the_map_is_the_sum_of_all_levels(X, monkeypatch):
    detector = quick(**BASELINE, score_smoothing=0).fit(X)
    flat = [torch.full((1, 1, 64 >> k, 64 >> k), float(k)) for k in (2, 3, 4)]
    known_errors(detector, monkeypatch, *flat)
    ((grids, _),) = detector._iter_score_grids(X[:1])
    np.testing.assert_allclose(grids[0][0], 2 + 3 + 4, rtol=1e-4)


def test_maps_are_smoothed_by_a_share_of_the_height(X, monkeypatch):
    detector = quick(**BASELINE, score_smoothing=8 / 256).fit(X)
    spot = torch.zeros(1, 1, 64, 64)
    spot[..., 30, 20] = 1
    detector._levels_at_image_size = lambda *_: spot
    ((grids, _),) = detector._iter_score_grids(X[:1])
    expected = ndimage.gaussian_filter(spot[0, 0].numpy(), 8 * 64 / 256)
    np.testing.assert_allclose(grids[0][0], expected, atol=1e-4)


def test_alpha_counts_from_fit_on(X):
    """A new weight with an old threshold would flag good images without an error."""
    detector = quick(holdout=2).fit(X)
    before = detector.decision_function(X)
    detector.set_params(alpha=5.0)
    np.testing.assert_array_equal(detector.decision_function(X), before)


def test_scores_know_nothing_of_other_images(X):
    """Scores are not scaled over the test set, so a single image can be scored."""
    detector = quick().fit(X)
    bad = X[:1].copy()
    bad[0, 10:40, 10:50] = [255, 0, 255]
    alone = detector.score_samples(X[1:2])
    beside = detector.score_samples(np.concatenate([bad, X[1:2]]))
    assert beside[1] == pytest.approx(alone[0], rel=1e-5)


def test_new_alpha_gets_its_threshold_without_training(X):
    detector = quick(training__warm_start=True, holdout=2).fit(X)
    before = detector.offset_
    again = detector.set_params(alpha=0.9).fit(X)
    assert again.n_iter_ == 8
    assert again.offset_ != before
    fresh = clone(detector).set_params(training__warm_start=False).fit(X)
    np.testing.assert_allclose(again.holdout_scores_, fresh.holdout_scores_, rtol=1e-5)


def test_invalid_pixels_are_not_seen_not_scored_and_have_no_say(X):
    alpha = np.full_like(X[..., :1], 255)
    alpha[:, :, 40:] = 0
    masked = np.concatenate([X, alpha], axis=-1)
    other = masked.copy()
    other[:, :, 40:, :3] = 255 - other[:, :, 40:, :3]
    detector = quick().fit(masked)
    np.testing.assert_array_equal(
        detector.score_samples(masked), detector.score_samples(other)
    )
    maps = detector.predict_map(masked)
    assert (maps[:, :, 42:] == 0).all()
    assert (maps[:, :, :38] > 0).any()


def test_masked_places_never_raise_a_score(X, monkeypatch):
    """Errors are 1 at invalid positions and 0 elsewhere, so all scores are low."""
    alpha = np.full_like(X[..., :1], 255)
    alpha[:, :, 36:] = 0
    masked = np.concatenate([X, alpha], axis=-1)
    detector = quick(**BASELINE).fit(masked)
    levels = [torch.zeros(1, 1, 64 >> k, 64 >> k) for k in (2, 3, 4)]
    for k, level in zip((2, 3, 4), levels):
        level[..., (36 + (1 << k) // 2) >> k :] = 1  # cells mostly invalid
    known_errors(detector, monkeypatch, *levels)
    assert detector.score_parts(masked[:1])[0, 0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("variant", ["ppdm", "pdm"])
def test_a_mask_changes_little_where_nothing_is_odd(X, variant):
    alpha = np.full_like(X[..., :1], 255)
    alpha[:, :, 36:] = 0
    masked = np.concatenate([X, alpha], axis=-1)
    detector = quick(variant=variant, training__n_iter=80, score_smoothing=0).fit(
        masked
    )
    grids = [grid[0] for D, _ in detector._iter_score_grids(masked) for grid in D]
    columns = np.mean(grids, axis=(0, 1))
    assert columns[30:36].mean() < 3 * columns[4:30].mean()  # used to be nine times


def test_hidden_colours_have_no_say_where_images_are_resized():
    X = make_images(4, size=(96, 96))
    alpha = np.full_like(X[..., :1], 255)
    alpha[:, :, 50:] = 0
    masked = np.concatenate([X, alpha], axis=-1)
    other = masked.copy()
    other[:, :, 50:, :3] = 255 - other[:, :, 50:, :3]
    detector = quick().fit(masked)
    np.testing.assert_array_equal(
        detector.score_samples(masked), detector.score_samples(other)
    )


@pytest.mark.parametrize("shape", [(6, 6), (64, 6), (2, 2)])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"n_codes": 0}, {"loss": "local"}, {"variant": "pdm"}, {"holdout": 2}],
    ids=str,
)
def test_thin_parts_can_be_learned_and_scored(X, shape, parameters):
    alpha = np.zeros_like(X[..., :1])
    alpha[1:, : shape[0], 20 : 20 + shape[1]] = 255
    alpha[0] = 255  # one image is whole
    masked = np.concatenate([X, alpha], axis=-1)
    small = {"training__batch_size": 2, "training__n_iter": 2, **parameters}
    detector = quick(**small).fit(masked)
    assert np.isfinite(detector.score_samples(masked)).all()
    thin = quick(**small).fit(masked[1:])
    assert np.isfinite(thin.score_samples(masked[1:])).all()


def test_deformation_of_what_cannot_be_scored_is_refused(X):
    detector = quick(features=tiny_cnn(standardize=False, image_size=64)).fit(X)
    with pytest.raises(ValueError, match="patch grid of shape"):
        detector.predict_deformation(np.zeros((1, 64, 96, 3), np.uint8))
    clear = np.zeros((1, 64, 64, 4), np.uint8)
    with pytest.raises(ValueError, match=r"X\[0\]"):
        detector.predict_deformation(clear)


def test_features_that_cannot_teach_are_refused(X):
    for features in ("passthrough", object()):
        with pytest.raises(TypeError, match="cannot teach"):
            DMAD(features=features).fit(X)


def test_codes_in_use_are_counted(X):
    detector = quick().fit(X)
    assert detector.code_usage_.shape == (8,)
    assert detector.code_usage_.sum() == 6 * 4 * 4  # the level with stride 16
    assert quick(**BASELINE).fit(X).code_usage_.shape == (0,)
    few = quick(n_codes=200).fit(X)
    assert len(few.code_usage_) == 24  # a quarter of the positions


@pytest.mark.parametrize(
    "parameters",
    [
        {"variant": "pdm"},
        BASELINE,
        {"scales": ()},
        {"n_codes": 0},
        {"scales": ((0.03, 4),)},
        {"loss": "local"},
        {"student_width": 0},
        {"training__precision": "float32"},
    ],
)
def test_every_option_changes_the_result_and_still_works(X, plain_scores, parameters):
    settings = {"training__precision": "bfloat16", **parameters}
    scores = quick(**settings).fit(X).score_samples(X)
    assert np.isfinite(scores).all()
    assert not np.array_equal(scores, plain_scores)


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (48, 64)])
@pytest.mark.parametrize("preset", ["fast", "vit"])
def test_sizes_and_teachers(size, preset):
    if preset == "vit":
        teacher = tiny_features(layers=(1, 3, 5), norm=False, image_size=(64, 80))
    else:
        teacher = tiny_cnn(standardize=False, image_size=(64, 96))
    X = make_images(3, size=size)
    detector = quick(features=teacher, training__n_iter=1, preset=preset).fit(X)
    assert detector.predict_map(X).shape == (3, *size)


def test_two_or_four_levels_work(X):
    for layers in ((2, 3), (0, 1, 2, 3)):
        teacher = tiny_cnn(standardize=False, image_size=(64, 64), layers=layers)
        assert np.isfinite(quick(features=teacher).fit(X).score_samples(X)).all()


@pytest.mark.parametrize(
    "scales",
    [
        ((float("nan"), 8),),
        ((8, 8),),
        ((-0.1, 8),),
        ((0.01, 2.5),),
        ((0.01, 0),),
        (8 / 256, 8),
        ((0.03, 8, 1),),
    ],
)
def test_scales_that_are_none_are_named(X, scales):
    with pytest.raises(ValueError, match=r"scales holds .*expected pairs"):
        quick(scales=scales).fit(X)


def test_a_student_of_one_channel_works(X):
    assert np.isfinite(quick(student_width=1).fit(X).score_samples(X)).all()


def test_levels_come_shallow_to_deep_in_whatever_order_asked(X):
    one, other = (
        quick(
            features=tiny_cnn(standardize=False, image_size=(64, 64), layers=layers)
        ).fit(X)
        for layers in ((1, 2, 3), (3, 1, 2))
    )
    np.testing.assert_allclose(one.score_samples(X), other.score_samples(X), rtol=1e-5)


def test_prototypes_stand_for_valid_places_alone(X):
    alpha = np.full_like(X[..., :1], 255)
    alpha[:, :, :48] = 0
    masked = np.concatenate([X, alpha], axis=-1)
    detector = quick(n_codes=3).fit(masked)
    assert detector.code_usage_.sum() == 6 * 4 * 1


def test_parts_of_an_image_without_valid_pixels_are_an_error(X):
    alpha = np.full_like(X[..., :1], 255)
    masked = np.concatenate([X, alpha], axis=-1)
    detector = quick().fit(masked)
    masked[2, ..., 3] = 0
    with pytest.raises(ValueError, match=r"X\[2\] has no valid patch"):
        detector.score_parts(masked)


@pytest.mark.parametrize(
    "change",
    [
        {"features__weights": "random:1"},
        {"features__layers": (0, 1, 2)},
        {"loss": "local"},
        {"student_width": 16},
    ],
)
def test_another_training_starts_anew_and_says_so(X, change):
    detector = quick(training__warm_start=True).fit(X)
    with pytest.warns(UserWarning, match="starts anew"):
        detector.set_params(**change).fit(X)
    assert detector.loss_curve_ == clone(detector).fit(X).loss_curve_


def test_one_constant_grey_image():
    flat = np.full((1, 64, 64), 127, np.uint8)
    detector = quick(training__n_iter=1).fit(flat)
    assert np.isfinite(detector.score_samples(flat)).all()


def test_images_of_different_shapes_need_a_size():
    X = [*make_images(2, size=(64, 64)), *make_images(1, size=(64, 128))]
    teacher = tiny_cnn(standardize=False, image_size=64)
    with pytest.raises(ValueError, match=r"X\[2\] gives.*one size"):
        quick(features=teacher).fit(X)


def test_features_instead_of_images_are_refused(rng):
    with pytest.raises(ValueError, match="DMAD needs images"):
        DMAD().fit(rng.normal(size=(4, 5, 5, 16)))


# -- training -----------------------------------------------------------------------


def test_loss_is_the_sum_of_its_parts_and_falls(X):
    detector = quick(training__n_iter=40).fit(X)
    parts = {k: np.array(v) for k, v in detector.loss_parts_.items()}
    total = sum(parts.values())
    np.testing.assert_allclose(detector.loss_curve_, total, rtol=1e-4)
    rebuilt = parts["reconstruction"]
    assert rebuilt[-5:].mean() < 0.8 * rebuilt[:5].mean()
    assert set(quick(**BASELINE).fit(X).loss_parts_) == {"reconstruction", "codebook"}


@pytest.mark.parametrize("variant", ["ppdm", "pdm"])
def test_stopped_and_resumed_is_never_stopped(X, variant):
    once = quick(variant=variant, holdout=2).fit(X)
    parts = clone(once).set_params(
        training__warm_start=True, training__n_iter=8, training__max_time=0
    )
    parts.fit(X)
    assert parts.n_iter_ == 1
    parts.set_params(training__max_time=None).fit(X)
    assert parts.n_iter_ == 8
    assert np.array_equal(parts.score_samples(X), once.score_samples(X))
    assert np.array_equal(parts.holdout_scores_, once.holdout_scores_)


def test_an_interrupted_fit_keeps_no_images(X, monkeypatch):
    detector = quick(training__warm_start=True)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DMAD, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(X)
    assert len(pickle.dumps(detector)) < X.nbytes / 4


def test_stopping_early_is_said(X):
    with pytest.warns(ConvergenceWarning, match="1 of 40 iterations"):
        quick(training__n_iter=40, training__max_time=0).fit(X)


def test_file_holds_the_student_and_no_teacher(tmp_path, X):
    detector = quick(training__warm_start=True).fit(X)
    path = tmp_path / "model.joblib"
    dump(detector, path)
    weights = sum(w.nbytes for w in detector.student_.values())
    assert path.stat().st_size < weights + 60_000
    assert b"torch.nn" not in pickle.dumps(detector)
    loaded = joblib.load(path)
    assert np.array_equal(loaded.score_samples(X), detector.score_samples(X))


# -- real images --------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("parameters", [{}, BASELINE])
def test_planted_defects_are_found_on_a_texture(real_cnn, parameters):
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(0)
    texture = np.stack([data.brick()] * 3, axis=-1)
    corners = rng.integers(0, 512 - 192, size=(24, 2))
    X = np.stack([texture[r : r + 192, c : c + 192] for r, c in corners])
    bad, masks = zip(
        *(plant_defect(x, kind="blob", random_state=i) for i, x in enumerate(X[16:]))
    )
    teacher = real_cnn(layers=(1, 2, 3), image_size=(128, 128), standardize=False)
    settings = {"training__n_iter": 30, "holdout": None, **parameters}
    detector = DMAD(features=teacher).set_params(**settings).fit(X[:16])
    good, odd = detector.score_samples(X[16:]), detector.score_samples(np.stack(bad))
    assert (odd < good).mean() > 0.8
    assert (
        pixel_auroc_score(np.stack(masks), detector.predict_map(np.stack(bad))) > 0.85
    )


@pytest.mark.real
def test_pasted_defect_is_the_maximum_through_the_aligner(real_cnn):
    X, _ = make_screws(8)
    bad = make_screws(1, random_state=7)[0]
    ys, xs = np.nonzero(bad[0].min(-1) > 150)
    place = np.array([np.median(ys), np.median(xs)]).astype(int)
    bad[0, place[0] - 9 : place[0] + 9, place[1] - 9 : place[1] + 9] = [180, 0, 90]
    teacher = real_cnn(layers=(1, 2, 3), image_size=(128, 128), standardize=False)
    detector = DMAD(features=teacher, holdout=None, training=Training(n_iter=30))
    pipe = Pipeline([PCAAligner(output_size=128), detector]).fit(X)
    heat = pipe.predict_map(bad)[0]
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(np.subtract(peak, place)).max() < 24
