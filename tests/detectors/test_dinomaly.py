"""Dinomaly: features, training, scores and maps."""

import io
import pickle

import joblib
import numpy as np
import pytest
import torch
from conftest import tiny_features
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils import Bunch
from torch.nn.functional import interpolate

from skdinoad import DinoFeatures, Dinomaly, PCAAligner, Pipeline, Training, dump
from skdinoad._arrays.maps import aggregate, enlarged
from skdinoad._compat.torch import seeded
from skdinoad._training.loop import batch_rows
from skdinoad._training.tokens import TokenGrids, pack
from skdinoad.datasets import make_screws, plant_defect
from skdinoad.features import _dino
from skdinoad.metrics import pixel_auroc_score
from skdinoad.networks import Reconstructor, rebuild, reconstruction_loss
from skdinoad.testing import make_images


def quick(**parameters):
    """Return a detector that trains in a second."""
    parameters = {
        "features": tiny_features(layers="middle", groups=2),
        "depth": 2,
        "training__n_iter": 20,
        "holdout": None,
        **parameters,
    }
    return Dinomaly().set_params(**parameters)


@pytest.fixture
def grids(rng):
    """Return features of six normal images, (6, 4, 5, 32)."""
    pattern = rng.normal(size=(4, 5, 32))
    return (pattern + rng.normal(size=(6, 4, 5, 32), scale=0.2)).astype(np.float32)


# -- features -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "model", "size", "crop"),
    [
        ("fast", "vit_small_patch14_dinov2.lvd142m", (224, 224), None),
        ("paper", "vit_base_patch14_reg4_dinov2.lvd142m", (448, 448), 392),
        ("dinomaly2", "vit_base_patch14_reg4_dinov2.lvd142m", (448, 448), 392),
    ],
)
def test_presets_are_what_is_documented(preset, model, size, crop):
    detector = Dinomaly(preset=preset)
    features = detector.default_features()
    assert (features.model, features.image_size, features.cropping) == (
        model,
        size,
        crop,
    )
    assert (features.layers, features.groups, features.norm) == ("middle", 2, False)
    assert features.interpolation == ("bicubic" if preset == "fast" else "bilinear")
    expected = {
        "fast": (2, 600, 4, 0.2, 0, False),
        "paper": (8, 5000, 16, 0.2, 0, False),
        "dinomaly2": (8, 40_000, 16, 0.4, 256, True),
    }[preset]
    names = ("depth", "n_iter", "batch_size", "dropout", "neck", "recenter")
    assert tuple(map(detector._setting, names)) == expected
    assert Dinomaly(preset=preset, depth=6)._setting("depth") == 6
    spans = {"fast": (60, 60), "paper": (100, 1000), "dinomaly2": (100, 1000)}[preset]
    found = detector._span("warm_up", 0.1), detector._span("mining_ramp", 0.2)
    assert found == spans


def test_defaults_are_the_papers():
    papers = {
        "learning_rate": 2e-3,
        "dropout": 0.2,
        "weight_decay": 1e-4,
    }
    detector = Dinomaly(preset="paper")
    assert {name: detector._setting(name) for name in papers} == papers
    assert (detector.map_size, detector.aggregate, detector.grad_clip) == (
        256,
        0.01,
        0.1,
    )


def test_schedules_shrink_with_the_training():
    detector = Dinomaly(preset="paper", training=Training(n_iter=200))
    assert detector._span("warm_up", 0.1) == 20
    assert detector._span("mining_ramp", 0.2) == 40
    detector.set_params(training__warm_up=np.int64(70))
    assert detector._span("warm_up", 0.1) == 70
    assert detector.set_params(training__warm_up=0.5)._span("warm_up", 0.1) == 100


def test_preset_decides_on_features_also_when_set_together():
    detector = Dinomaly().set_params(features__runtime__batch_size=2, preset="paper")
    assert detector.features.cropping == 392


class Stub:
    """An extractor whose tokens are pixels; some of the first row are prefix tokens.

    No pixel is used for both, so that each kind can be changed separately.
    """

    n_groups_ = 2

    def __init__(self, p=3):
        self.p = p

    def get_params(self, deep=True):
        return {"p": self.p}

    def fit(self, X, y=None):
        return self

    def transform_affines(self, X):
        return np.stack(self.transform_tokens(X)[0]), np.stack([np.eye(3)] * len(X))

    def transform_tokens(self, X):
        pixels = np.stack(list(X)).astype(np.float32) / 100
        grids = np.concatenate([pixels[:, ::8, ::8]] * 2, axis=-1)
        prefix = pixels[:, 0, 1 : 1 + self.p, :1] + np.ones(6, np.float32)
        return list(grids), prefix, np.stack([np.eye(3)] * len(X))


@pytest.mark.parametrize("p", [1, 3])
def test_tokens_before_the_patches_take_part_and_are_dropped_last(p):
    X = make_images()
    detector = quick(features=Stub(p)).fit(X)
    grid = detector.features_.transform_tokens(X[:1])[0][0]
    D = next(detector._iter_score_grids(X[:1]))[0]
    assert D.shape[1:] == grid.shape[:2]
    for token in range(p):
        other = X[:1].copy()
        other[:, 0, 1 + token] = 255
        assert np.array_equal(other[:, ::8, ::8], X[:1, ::8, ::8])
        assert (next(detector._iter_score_grids(other))[0] != D).any()


def test_without_recentering_plain_grids_do(grids):
    detector = quick(features=None).fit(grids)
    assert detector.n_groups_ == 1
    assert detector.predict_map(grids).shape == (6, 4, 5)
    with pytest.raises(ValueError, match="needs class tokens"):
        quick(features=None, recenter=True).fit(grids)


@pytest.mark.parametrize("model", ["test_vit2", "xcit_nano_12_p8_224"])
def test_network_without_a_class_token(model):
    """A register is not a class token, so it must not be subtracted."""
    features = tiny_features(layers=[1, 2], groups=2).set_params(model=model)
    X = make_images(size=(64, 64))
    assert quick(features=features).fit(X).predict_map(X).shape == (len(X), 64, 64)
    with pytest.raises(ValueError, match=f"class tokens, and model='{model}' has none"):
        quick(features=features, recenter=True).fit(X)


def test_grids_in_groups_equal_images_without_a_class_token():
    X = make_images(size=(64, 64))
    features = tiny_features(layers="middle", groups=2)
    F = features.fit_transform(X)
    detector = quick(features="passthrough", groups=2).fit(F)
    assert detector.n_groups_ == 2
    assert len(detector.decoder_["bottleneck.outer.bias"]) == 64

    pipe = Pipeline([features, quick(features=None, groups=2)]).fit(X)
    expected = detector.score_samples(F)
    np.testing.assert_allclose(pipe.score_samples(X), expected, rtol=1e-5)


def test_grids_of_another_extractor_are_refused(grids):
    detector = quick(features=None).fit(grids)
    with pytest.raises(ValueError, match=r"16 channels .* fitted on 32"):
        detector.score_samples(grids[..., :16])


def ranking(estimator, X, y):
    return -estimator.score_samples(X)[y == -1].mean()


def test_the_encoder_sees_each_image_once_in_a_whole_search(monkeypatch):
    seen = []
    run = _dino.DinoFeatures._run
    monkeypatch.setattr(
        _dino.DinoFeatures,
        "_run",
        lambda self, images, *rest: seen.extend(images) or run(self, images, *rest),
    )
    X = make_images(8)
    y = np.array([1, -1] * 4)
    grid = {"training__n_iter": [2, 4], "dropout": [0.0, 0.2]}
    GridSearchCV(quick(), grid, cv=KFold(2), scoring=ranking).fit(X, y)
    assert len(seen) == 8


def test_half_precision_features_move_scores_little():
    X = make_images()
    detector = quick(training__n_iter=40).fit(X)
    F, _ = detector._read_batch(X)
    tokens, valid = pack(F, 2)
    exact = detector._distances(detector._network(), tokens, valid)
    half = detector._distances(detector._network(), tokens.half().float(), valid)
    np.testing.assert_allclose(half, exact, atol=1e-4)


# -- training -----------------------------------------------------------------------


def test_learning_beats_the_best_constant(grids):
    detector = quick(
        features=None, training__n_iter=200, training__learning_rate=0.01
    ).fit(grids)
    flat = grids.reshape(6, -1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    constant = np.broadcast_to(grids.mean((0, 1, 2)), grids.shape).reshape(6, -1)
    cosine = (unit * constant).sum(1) / np.linalg.norm(constant, axis=1)
    assert np.mean(detector.loss_curve_[-20:]) < 0.6 * (1 - cosine.mean())


def official_training(X, detector, n_iter, warm_up, ramp, second=False):
    """Reference: the official training, implemented independently; losses, weights.

    It uses hooks on the decoder's outputs, a list of learning rates, and an explicit
    optimiser. Dropout is off; features, initial weights and batches are ours.
    ``second`` selects Dinomaly2, with a neck, recentred targets, no AMSGrad and a
    constant learning rate after the warm-up.
    """
    grids, prefix, _ = detector.features_.transform_tokens(X)
    tokens = np.concatenate([prefix, np.stack(grids).reshape(len(X), 16, -1)], axis=1)
    encoder = torch.tensor(tokens).half().float().chunk(2, dim=-1)  # two groups
    with seeded(detector._seed):
        kind = {"neck": 256, "eps": 1e-8} if second else {}
        network = Reconstructor(64, 2, 4, dropout=0.0, **kind)
    names, weights = zip(*network.named_parameters())
    m, v, vmax = ([torch.zeros_like(w) for w in weights] for _ in range(3))
    rates = np.r_[
        np.linspace(0, 2e-3, warm_up),
        2e-4
        + 0.9e-3
        * (1 + np.cos(np.pi * np.arange(n_iter - warm_up) / (n_iter - warm_up))),
    ]
    if second:
        rates[:warm_up] = 2e-3 * np.arange(warm_up) / warm_up
        rates[warm_up:] = 2e-3
    losses = []
    for it in range(n_iter):
        rows = batch_rows(len(X), 4, it, detector._seed)
        en = [group[rows, 1:] for group in encoder]
        if second:
            en = [e - group[rows, :1] for e, group in zip(en, encoder)]
            centred = [e - e.mean(-1, keepdim=True) for e in en]
            en = [e / e.square().mean(-1, keepdim=True).sqrt() for e in centred]
        decoded = network((encoder[0][rows] + encoder[1][rows]) / 2)
        loss, share = 0, min(0.9 * it / ramp, 0.9)
        for g in range(2):
            de = decoded[:, g, 1:]
            distance = 1 - torch.cosine_similarity(en[g], de.detach(), dim=-1)
            k = max(1, int(distance.numel() * (1 - share)))
            easy = distance < distance.flatten().topk(k).values[-1]
            de.register_hook(
                lambda grad, easy=easy: grad * (1 - 0.9 * easy[..., None].float())
            )
            whole = torch.cosine_similarity(en[g].flatten(1), de.flatten(1), dim=-1)
            loss = loss + (1 - whole).mean() / 2
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, weights)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for i, w in enumerate(weights):
            g = gradients[i] * min(1, 0.1 / (norm.item() + 1e-6))
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            vmax[i] = v[i] if second else torch.maximum(vmax[i], v[i])
            expected = vmax[i].sqrt() / np.sqrt(1 - 0.999 ** (it + 1))
            expected = expected + (1e-10 if second else 1e-8)
            clip = max(1, (g / expected).square().mean().sqrt().item())
            rate = rates[it] / 10 if ".neck." in names[i] else rates[it]
            new = w.data * (1 - rate * 1e-4)
            w.data = new - rate / (1 - 0.9 ** (it + 1)) / clip * m[i] / expected
    return losses, dict(zip(names, weights))


@pytest.mark.parametrize("preset", ["paper", "dinomaly2"])
def test_training_equals_the_official_procedure(preset):
    X = make_images(6, size=(64, 64))
    schedule = {"training__n_iter": 30, "training__warm_up": 4}
    exact = {
        "dropout": 0.0,
        "training__batch_size": 4,
        "training__precision": "float32",
        "depth": 4,
    }
    detector = quick(preset=preset, **schedule, **exact).fit(X)
    second = preset == "dinomaly2"
    losses, weights = official_training(
        X, detector, n_iter=30, warm_up=4, ramp=6, second=second
    )
    assert ("bottleneck.neck.weight" in weights) == second
    np.testing.assert_allclose(detector.loss_curve_, losses, rtol=1e-3)
    assert losses[-1] < losses[0]
    for name, w in weights.items():
        moved = np.abs(detector.decoder_[name] - w.detach().numpy()).max()
        assert moved < 2e-4, name  # a tenth of the largest single step


def test_one_image_and_fewer_than_a_batch(grids):
    with pytest.warns(UserWarning, match="single image"):
        one = quick(features=None, holdout=3).fit(grids[:1])
    assert np.isnan(one.offset_)
    assert np.isfinite(one.score_samples(grids)).all()
    two = quick(features=None, holdout=3, training__batch_size=50).fit(grids[:2])
    assert len(two.holdout_scores_) == 2


def test_equal_seeds_give_equal_scores(grids):
    one, two, other = (
        quick(features=None, random_state=s).fit(grids).score_samples(grids)
        for s in (0, 0, 1)
    )
    assert np.array_equal(one, two)
    assert not np.allclose(one, other)


def test_warm_start_goes_on_as_if_it_had_never_stopped(grids):
    once = quick(features=None, holdout=2).fit(grids)
    parts = quick(
        features=None, holdout=2, training__warm_start=True, training__max_time=0
    )
    with pytest.warns(ConvergenceWarning, match="1 of 20 iterations"):
        parts.fit(grids)
    assert parts.n_iter_ == 1
    parts.set_params(training__max_time=None).fit(grids)
    assert parts.n_iter_ == 20
    assert parts.loss_curve_ == once.loss_curve_
    assert np.array_equal(parts.score_samples(grids), once.score_samples(grids))
    assert np.array_equal(parts.holdout_scores_, once.holdout_scores_)


def test_warm_start_after_loading_goes_on_with_the_weights(grids):
    detector = quick(features=None, training__warm_start=True, holdout=2).fit(grids)
    loaded = pickle.loads(pickle.dumps(detector))
    loaded.set_params(training__n_iter=21).fit(grids)
    assert loaded.n_iter_ == 21
    assert loaded.loss_curve_[:20] == detector.loss_curve_
    assert len(loaded.holdout_scores_) == 6
    np.testing.assert_allclose(
        loaded.decoder_["blocks.0.qkv.weight"],
        detector.decoder_["blocks.0.qkv.weight"],
        atol=0.01,
    )


def test_warm_start_after_a_fit_without_it(grids):
    detector = quick(features=None, random_state=None).fit(grids)
    before = detector.loss_curve_
    detector.set_params(training__warm_start=True, training__n_iter=25).fit(grids)
    assert detector.loss_curve_[:20] == before
    assert detector.n_iter_ == 25


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 4},
        {"recenter": True},
        {"holdout": 0.34},
        {"random_state": 7},
        {"features__layers": [0, 1]},
        None,
    ],
)
def test_another_training_starts_anew_and_says_so(change):
    X = make_images(size=(64, 64))
    detector = quick(training__warm_start=True).fit(X)
    other = X if change else X[::-1]
    detector.set_params(**(change or {}))
    with pytest.warns(UserWarning, match="starts anew"):
        detector.fit(other)
    fresh = clone(detector).fit(other)
    assert detector.loss_curve_ == fresh.loss_curve_
    assert np.array_equal(detector.holdout_scores_, fresh.holdout_scores_)


def test_fewer_iterations_than_are_done_are_refused(grids):
    detector = quick(features=None, training__warm_start=True).fit(grids)
    with pytest.raises(ValueError, match=r"n_iter=19 .* 20 iterations are done"):
        detector.set_params(training__n_iter=19).fit(grids)


def test_an_interrupted_training_goes_on(grids, monkeypatch):
    once = quick(features=None, holdout=2).fit(grids)
    detector = quick(features=None, holdout=2, training__warm_start=True)
    judge, calls = detector._score_row, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 5:  # in the second fold
            raise KeyboardInterrupt
        return judge(*args)

    monkeypatch.setattr(detector, "_score_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(grids)
    assert not hasattr(detector, "decoder_")
    detector.fit(grids)
    assert np.array_equal(detector.score_samples(grids), once.score_samples(grids))
    assert np.array_equal(detector.holdout_scores_, once.holdout_scores_)


def test_after_a_breakdown_the_remedy_helps(grids, monkeypatch):
    wild = {"training__learning_rate": 1e38, "training__warm_up": 0}
    monkeypatch.setattr(Dinomaly, "grad_clip", 1e9)
    detector = quick(features=None, training__warm_start=True, **wild)
    with pytest.raises(FloatingPointError):
        detector.fit(grids)
    monkeypatch.undo()
    detector.set_params(training__learning_rate=2e-3, training__warm_up=None)
    detector.fit(grids)
    fresh = quick(features=None).fit(grids)
    assert detector.loss_curve_ == fresh.loss_curve_


def test_the_number_of_folds_does_not_change_the_network(grids):
    one, other = (quick(features=None, holdout=h).fit(grids) for h in (None, 3))
    assert one.loss_curve_ == other.loss_curve_


def test_networks_of_folds_are_dropped(grids):
    detector = quick(features=None, holdout=3).fit(grids)
    assert not detector._runs


def test_a_failed_fit_leaves_no_half_model(grids, monkeypatch):
    monkeypatch.setattr(Dinomaly, "grad_clip", 1e9)
    detector = quick(features=None).fit(grids)
    detector.set_params(training__learning_rate=1e38, training__warm_up=0)
    with pytest.raises(FloatingPointError, match=r"iteration \d+.*learning_rate"):
        detector.fit(grids)
    assert not hasattr(detector, "decoder_")


def test_depth_must_divide_into_groups():
    with pytest.raises(ValueError, match="depth=3 does not divide into 2 groups"):
        quick(depth=3).fit(make_images())


def test_low_precision_moves_loss_and_gradient_little():
    # One step of a trained network; over many steps any two runs diverge.
    detector = quick(training__n_iter=40, dropout=0.0, training__warm_start=True).fit(
        make_images()
    )
    network, found = detector._runs[0].network, {}
    F, _ = detector._read_batch(make_images())
    tokens, _ = pack(F, 2)
    for low in (False, True):
        network.zero_grad()
        loss = reconstruction_loss(*rebuild(network, tokens, prefix=1, low=low))
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        found[low] = loss.item(), gradient
    assert found[True][0] != found[False][0]
    assert found[True][0] == pytest.approx(found[False][0], rel=0.01)
    assert torch.cosine_similarity(found[True][1], found[False][1], dim=0) > 0.98


def test_scores_do_not_depend_on_the_precision_of_training(grids):
    detector = quick(features=None, training__precision="bfloat16").fit(grids)
    low = detector.score_samples(grids)
    detector.set_params(training__precision="float32")
    assert np.array_equal(detector.score_samples(grids), low)


@pytest.mark.parametrize(
    "parameters",
    [
        {"preset": "dinomaly2"},
        {"recenter": True},
        {"augmentation": "dihedral"},
        {"augmentation": "crops"},
        {"dropout": 0.0},
        {"training__weight_decay": 0.1},
    ],
)
def test_every_option_changes_the_result_and_still_works(parameters):
    X = make_images(size=(64, 64))
    plain = quick().fit(X)
    assert np.array_equal(quick().fit(X).score_samples(X), plain.score_samples(X))
    detector = quick(holdout=2, **parameters).fit(X)
    assert detector.holdout_scores_.shape == (6,)
    assert not np.allclose(detector.score_samples(X), plain.score_samples(X), rtol=1e-6)


def test_features_cannot_be_augmented(grids):
    with pytest.raises(ValueError, match="only images can be turned"):
        quick(features=None, augmentation="dihedral").fit(grids)


def test_copies_are_held_out_with_their_image():
    X = make_images(4, size=(64, 64))
    detector = quick(holdout=2, augmentation="dihedral")
    learned = []
    train = detector._train

    def spy(run, data, rows, *rest):
        learned.append(set(data.image[rows]))
        return train(run, data, rows, *rest)

    detector._train = spy
    detector.fit(X)
    assert [len(images) for images in learned] == [2, 2, 4]
    assert learned[0].isdisjoint(learned[1])


# -- thresholds ---------------------------------------------------------------------


def test_folds_are_scored_by_networks_that_have_not_seen_them(grids):
    detector = quick(features=None, holdout=6).fit(grids)
    # Leave-one-out, each network with its own seed; the first is refitted by hand.
    seed = detector._seed
    order = [
        held[0] for _, held in KFold(6, shuffle=True, random_state=seed).split(grids)
    ]
    alone = quick(features=None, random_state=detector.random_state)
    alone.fit(np.delete(grids, order[0], axis=0))
    expected = alone.score_samples(grids[order[0]][None])
    np.testing.assert_allclose(detector.holdout_scores_[order[0]], expected, rtol=1e-3)


def test_a_share_held_out_is_never_learned(grids):
    detector = quick(features=None, holdout=0.34).fit(grids)
    assert detector.holdout_scores_.shape == (2,)
    scores = detector.score_samples(grids)
    matches = np.isclose(scores[:, None], detector.holdout_scores_, rtol=1e-4)
    assert matches.any(0).all()  # the same network scored them


def test_no_holdout_no_threshold_no_warning(grids):
    detector = quick(features=None).fit(grids)
    assert np.isnan(detector.offset_)
    with pytest.raises(ValueError, match="no threshold"):
        detector.predict(grids)


# -- scores and maps ----------------------------------------------------------------


def test_score_is_the_mean_of_the_655_largest_of_the_256_map(grids):
    detector = quick(features=None).fit(grids)
    D = torch.tensor(next(detector._iter_score_grids(grids))[0])[:, None]
    big = interpolate(D, (56, 70), mode="bilinear", align_corners=True)
    big = interpolate(big, (256, 256), mode="bilinear", align_corners=False)
    line = torch.exp(-(torch.arange(-2.0, 3) ** 2) / 32)
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum())[None, None]
    padded = torch.nn.functional.pad(big, (2, 2, 2, 2), mode="reflect")
    smooth = torch.nn.functional.conv2d(padded, kernel)
    expected = -smooth.flatten(1).topk(655).values.mean(1).numpy()
    np.testing.assert_allclose(detector.score_samples(grids), expected, rtol=1e-4)


def test_distance_is_the_mean_over_groups_of_one_minus_cosine():
    X = make_images(2)
    detector = quick().fit(X)
    network = Reconstructor(64, 2, 2).eval()
    state = {k: torch.tensor(v) for k, v in detector.decoder_.items()}
    network.load_state_dict(state)
    grids, prefix, _ = detector.features_.transform_tokens(X)
    patches = np.stack(grids).reshape(2, -1, 128)
    tokens = np.concatenate([prefix, patches], axis=1)
    z = (tokens[..., :64] + tokens[..., 64:]) / 2
    with torch.no_grad():
        rebuilt = network(torch.tensor(z))[:, :, 1:].numpy()
    expected = 0
    for g in range(2):
        a, b = patches[..., 64 * g : 64 * g + 64], rebuilt[:, g]
        cosine = (
            (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        )
        expected = expected + (1 - cosine) / 2
    D = next(detector._iter_score_grids(X))[0]
    np.testing.assert_allclose(D.reshape(2, -1), expected, atol=1e-5)


def test_invalid_patches_change_nothing_elsewhere():
    X = make_images()
    alpha = np.full((*X.shape[:3], 1), 255, np.uint8)
    alpha[:, :, 40:] = 0
    X = np.concatenate([X, alpha], axis=-1)
    detector = quick(features=tiny_features(layers="middle", groups=2)).fit(X)
    D = next(detector._iter_score_grids(X))[0]
    assert np.isnan(D).any()
    assert np.isfinite(D).any()
    assert (detector.predict_map(X)[:, :, 60:] == 0).all()


def test_a_grid_with_an_invalid_patch_is_scored_as_if_it_had_none(grids):
    detector = quick(features=None).fit(grids)
    grids[:, 0, 0] = np.nan
    D = next(detector._iter_score_grids(grids))[0]
    assert np.isnan(D[:, 0, 0]).all()
    tokens, valid = pack(TokenGrids(grids), 1)
    without = detector._distances(detector._network(), tokens[:, :, 1:], valid[:, 1:])
    np.testing.assert_allclose(D.reshape(6, -1)[:, 1:], without, atol=1e-6)


def test_images_of_any_size_are_scored_together():
    features = tiny_features(layers="middle", groups=2)
    detector = quick(features=features).fit(make_images(size=(64, 64)))
    X = [make_images(1, size=(64, 64))[0], make_images(1, size=(48, 96))[0]]
    scores = detector.score_samples(X)
    alone = [detector.score_samples([image])[0] for image in X]
    np.testing.assert_allclose(scores, alone, rtol=1e-4)
    assert [heat.shape for heat in detector.predict_map(X)] == [(64, 64), (48, 96)]


def test_smoothing_does_not_cross_the_border_of_what_is_seen():
    X = make_images(4, size=(128, 128))
    features = tiny_features(
        layers="middle", groups=2, image_size=(128, 128), cropping=96
    )
    detector = quick(features=features).fit(X)
    smooth = detector.predict_map(X[:1])[0]
    sharp = detector.set_params(map_smoothing=0).predict_map(X[:1])[0]
    assert (smooth[:16] == 0).all()
    assert (smooth[:, :16] == 0).all()
    edge = slice(20, 108), slice(16, 18)  # just inside the crop
    np.testing.assert_allclose(smooth[edge].mean(), sharp[edge].mean(), rtol=0.1)


def test_maps_of_grids_are_not_smoothed(grids):
    detector = quick(features=None).fit(grids)
    D = next(detector._iter_score_grids(grids))[0]
    np.testing.assert_allclose(detector.predict_map(grids), D, rtol=1e-5)


def test_a_copy_of_another_size_is_named_by_its_image():
    features = tiny_features(layers="middle", groups=2)  # keeps the aspect ratio
    X = [*make_images(3, size=(64, 64)), make_images(1, size=(64, 96))[0]]
    with pytest.raises(ValueError, match=r"^X\[3\] gives a patch grid"):
        quick(features=features, augmentation="dihedral").fit(X)
    with pytest.raises(ValueError, match=r"A copy of X\[0\] gives .*image_size"):
        quick(features=features, augmentation="dihedral").fit(X[3:])


@pytest.mark.parametrize("channels", [10, 200, 128])
def test_any_width_of_features_can_be_rebuilt(channels, rng):
    F = rng.normal(size=(3, 4, 4, channels)).astype(np.float32)
    assert quick(features=None, training__n_iter=2).fit(F).score_samples(F).shape == (
        3,
    )


def test_training_images_of_different_grids_are_refused():
    features = tiny_features(layers="middle", groups=2)
    X = [*make_images(2, size=(64, 64)), *make_images(1, size=(48, 96))]
    with pytest.raises(ValueError, match=r"X\[2\] gives a patch grid .*image_size"):
        quick(features=features).fit(X)


@pytest.mark.parametrize("crop", [None, 64])
def test_an_odd_patch_appears_at_its_place_in_a_rectangle(crop):
    features = DinoFeatures(
        model="test_vit",
        weights="random:0",
        layers="middle",
        groups=2,
        image_size=(96, 144),
        cropping=crop,
    )
    detector = quick(features=features).fit(make_images(4, size=(96, 144)))
    h, w = detector._shape[:2]
    D = np.zeros((1, h, w), np.float32)
    D[0, 2, 1] = 1
    detector._distances = lambda *_: D.reshape(1, -1)
    heat = detector.set_params(map_smoothing=0).predict_map(
        make_images(1, size=(96, 144))
    )[0]
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    corner = (0, 0) if crop is None else (16, 40)  # (96 - 64) / 2, (144 - 64) / 2
    assert abs(y - (corner[0] + 2 * 16 + 7.5)) <= 1
    assert abs(x - (corner[1] + 1 * 16 + 7.5)) <= 1
    if crop:
        assert (heat[:16] == 0).all()
        assert (heat[:, :40] == 0).all()


# -- files --------------------------------------------------------------------------


def test_file_holds_the_decoder_and_little_else(tmp_path):
    X = make_images()
    detector = quick(training__warm_start=True).fit(X)
    path = dump(detector, tmp_path / "model.joblib")
    weights = sum(w.nbytes for w in detector.decoder_.values())
    assert path.stat().st_size < weights + 2**20
    loaded = joblib.load(path)
    assert np.array_equal(loaded.score_samples(X), detector.score_samples(X))
    assert np.array_equal(loaded.predict_map(X), detector.predict_map(X))
    mapped = joblib.load(path, mmap_mode="r")
    assert np.array_equal(mapped.score_samples(X), detector.score_samples(X))


def test_clone_knows_nothing_of_the_fit(grids):
    detector = quick(features=None, training__warm_start=True).fit(grids)
    assert len(pickle.dumps(clone(detector))) < 10_000
    buffer = io.BytesIO()
    joblib.dump(clone(detector), buffer)


# -- real weights -------------------------------------------------------------------


@pytest.mark.real
def test_planted_defects_are_found_on_textures(real_features):
    from skimage import data

    wall = data.brick()
    tiles = [
        wall[i : i + 112, j : j + 112] for i in range(0, 400, 56) for j in (0, 260)
    ]
    good = np.stack([np.stack(tiles)] * 3, axis=-1)
    X, normal = good[:10], good[10:14]
    planted = [
        plant_defect(tile, kind="blob", random_state=i) for i, tile in enumerate(normal)
    ]
    bad, masks = map(np.stack, zip(*planted))
    features = real_features(
        image_size=(112, 112), layers="middle", groups=2, norm=False
    )
    parameters = {
        "depth": 2,
        "training__n_iter": 60,
        "training__batch_size": 4,
        "holdout": None,
    }
    detector = Dinomaly(features=features).set_params(**parameters)
    detector.fit(X)
    assert detector.loss_curve_[-1] < 0.3  # the best constant per image gives 0.3
    y, test = np.repeat([1, -1], 4), np.concatenate([normal, bad])
    assert roc_auc_score(y, detector.score_samples(test)) == 1
    assert pixel_auroc_score(masks, detector.predict_map(bad)) > 0.9


@pytest.mark.real
def test_pasted_defect_is_the_maximum_through_the_aligner(real_features):
    features = real_features(
        image_size=(112, 112), layers="middle", groups=2, norm=False
    )
    X, _ = make_screws(8, size=320, random_state=0)
    bad = make_screws(1, size=320, random_state=7)[0]
    ys, xs = np.nonzero(bad[0].min(-1) > 150)
    place = np.array([np.median(ys), np.median(xs)]).astype(int)
    bad[0, place[0] - 12 : place[0] + 12, place[1] - 12 : place[1] + 12] = [180, 0, 90]
    parameters = {
        "depth": 2,
        "training__n_iter": 40,
        "training__batch_size": 4,
        "holdout": None,
    }
    detector = Dinomaly(features=features).set_params(**parameters)
    pipe = Pipeline([PCAAligner(output_size=224), detector]).fit(X)
    heat = pipe.predict_map(bad)[0]
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(np.subtract(peak, place)).max() < 24


def test_the_score_sees_a_map_of_the_networks_patches(grids):
    detector = quick(features=None).fit(grids)
    D = detector._iter_score_grids(grids).__next__()[0]
    fourteen = detector._aggregate(D)
    detector.features_ = Bunch(patch_size_=16)
    expected = aggregate([enlarged(grid, 256, 16) for grid in D], 0.01)
    np.testing.assert_allclose(detector._aggregate(D), expected)
    assert not np.array_equal(fourteen, expected)


def test_smoothing_is_a_share_of_the_image():
    features = tiny_features(layers="middle", groups=2, image_size=(64, 64))
    detector = quick(features=features, map_smoothing=8 / 256).fit(make_images(4))
    grid = np.random.default_rng(0).random((4, 4), dtype=np.float32)
    affine = np.array([[16, 0, 7.5], [0, 16, 7.5], [0, 0, 1]])
    twice = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]]) @ affine
    small = detector._map(grid, affine, (64, 64))
    large = detector._map(grid, twice, (128, 128))
    halved = large.reshape(64, 2, 64, 2).mean((1, 3))
    assert np.abs(halved - small).max() < 0.02 * np.ptp(small)
