"""DFR: rows of features, training, scores and thresholds."""

import cv2
import joblib
import numpy as np
import pytest
import torch
from conftest import tiny_cnn
from scipy import ndimage
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from skdinoad import DFR, CNNFeatures, LinearDFR, PCAAligner, Pipeline, Training, dump
from skdinoad._compat.timm import timm
from skdinoad.datasets import make_screws, plant_defect
from skdinoad.detectors._dfr import PRESETS
from skdinoad.features._backbones import load_backbone
from skdinoad.metrics import pixel_auroc_score
from skdinoad.testing import make_images

#: Few iterations are enough for most tests; the others set their own number.
pytestmark = pytest.mark.filterwarnings("ignore:Under-trained")


def quick(**parameters):
    """Return a detector that trains quickly on grids."""
    parameters = {
        "latent_dim": 3,
        "training__n_iter": 60,
        "training__batch_size": 64,
        "holdout": None,
        "score_smoothing": 0,
        **parameters,
    }
    return DFR().set_params(**parameters)


def linear(**parameters):
    """Return the linear detector for grids."""
    how = {"latent_dim": 3, "holdout": None, "score_smoothing": 0}
    return LinearDFR(**{**how, **parameters})


@pytest.fixture
def grids(rng):
    """Return features of eight good images, (8, 5, 6, 12), with three directions."""
    F = rng.normal(size=(8, 5, 6, 3)) @ rng.normal(size=(3, 12))
    return (F + rng.normal(size=F.shape, scale=0.05)).astype(np.float32)


# -- presets ------------------------------------------------------------------------


def test_the_papers_features_are_vggs_first_twelve_relus():
    """3456 channels at 64 x 64 positions, nearest resizing, mirrored edges."""
    if not hasattr(timm.create_model("vgg11"), "forward_intermediates"):
        pytest.skip("this timm gives no levels of VGG; CNNFeatures refuses it")
    features = DFR(preset="paper").default_features()
    F = features.set_params(weights="random:0").transform(make_images(1))
    assert F.shape == (1, 64, 64, 3456)
    assert (F >= 0).all()
    assert (features.padding, features.interpolation) == ("reflect", "nearest")
    paper = PRESETS["paper"]
    assert (paper["learning_rate"], paper["schedule"]) == (1e-4, "constant")
    assert (paper["standardize"], paper["score_smoothing"]) == (False, 0)
    assert paper["n_iter"] * paper["batch_size"] // (209 * 64**2) == pytest.approx(
        700, rel=0.01
    )


def test_fast_presets():
    fast, vit = (DFR(preset=p).default_features() for p in ("fast", "vit"))
    assert (fast.layers, fast.stride, fast.image_size) == ((1, 2, 3, 4), 8, 224)
    assert (vit.layers, vit.norm, vit.image_size) == ((2, 5, 8), False, 224)


def test_preset_decides_what_is_not_given():
    detector = DFR(preset="paper", training=Training(n_iter=7))
    assert detector._setting("n_iter") == 7
    assert detector._rate(0) == detector._rate(6) == 1e-4
    detector.set_params(preset="fast", training__n_iter=100)
    rates = [detector._rate(i) for i in range(100)]
    assert np.argmax(rates) == 9
    assert rates[0] == 0
    assert rates[-1] < 1e-5


# -- rows and the code --------------------------------------------------------------


def test_constant_channels_and_images_stay_finite(rng):
    F = rng.normal(size=(4, 3, 3, 8)).astype(np.float32)
    F[..., 5] = 2
    scores = quick().fit(F).score_samples(F)
    assert np.isfinite(scores).all()
    ones = np.arange(1, 5).reshape(4, 1, 1, 1) * 1e-9 + np.ones((4, 3, 3, 8))
    flat = quick().fit(ones)
    assert flat.latent_dim_ == 3
    assert np.isfinite(flat.score_samples(F)).all()
    flat = linear(latent_dim=None).fit(ones)
    assert flat.latent_dim_ == 1
    assert np.array_equal(flat.score_samples(np.ones((1, 3, 3, 8))), [0])


def test_rows_are_taken_from_all_images_alike(grids):
    detector = quick(max_rows=40)
    detector._reset()
    detector.features_, detector._seed = None, 0
    data = detector._gather(grids)
    assert data.rows.shape == (40, 12)
    assert np.bincount(data.image).tolist() == [5] * 8
    for row, image in zip(data.rows.numpy(), data.image):
        assert (grids[image] == row).all(-1).any()


@pytest.mark.parametrize("cos_weight", [0, 0.5])
def test_the_autoencoder_beats_the_projection_it_starts_from(rng, cos_weight):
    """Features on a curve are described by one number, but not by a straight line."""
    t = rng.uniform(-2, 2, size=(10, 6, 6, 1))
    F = np.cos(t * np.linspace(0.2, 1.5, 24) + rng.uniform(0, 6, size=24))
    detector = quick(
        latent_dim=2, training__n_iter=400, cos_weight=cos_weight, holdout=2
    ).fit(F)
    for ours, projection in detector.errors_.values():
        assert ours < 0.7 * projection


def test_under_training_is_said(grids):
    with pytest.warns(ConvergenceWarning, match=r"Under-trained.*LinearDFR"):
        quick(training__n_iter=1).fit(grids)


def test_training_sees_the_whole_set_and_is_what_is_documented(grids):
    """Training is Adam on the mean squared error over rows of all images."""
    from skdinoad._compat.torch import seeded
    from skdinoad._training.loop import batch_rows
    from skdinoad.networks import RowAutoencoder

    settings = {
        "preset": "paper",  # has a constant learning rate
        "training__learning_rate": 1e-3,
        "training__precision": "float32",
    }
    detector = quick(training__n_iter=4, standardize=False, **settings).fit(grids)
    with seeded(detector._seed):
        network = RowAutoencoder(12, 3)
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    rows, losses = torch.from_numpy(grids.reshape(-1, 12)), []
    for i in range(4):
        z = rows[batch_rows(len(rows), 64, i, detector._seed)]
        loss = (z - network(z)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    np.testing.assert_allclose(detector.loss_curve_, losses, rtol=1e-5)


def test_batch_norm_scores_with_the_statistics_of_all_rows(grids):
    """Running means lag behind after few steps; they are recomputed at the end."""
    detector = quick(training__n_iter=5, training__precision="float32").fit(grids)
    network = detector._network()
    z = network.standardised(torch.from_numpy(grids.reshape(-1, 12)))
    first = network.layers[0][0](z)
    np.testing.assert_allclose(
        detector.autoencoder_["layers.0.1.running_mean"], first.mean(0), atol=1e-5
    )


def test_stopped_and_resumed_is_never_stopped(grids):
    once = quick(holdout=2).fit(grids)
    parts = clone(once).set_params(
        training__warm_start=True, training__n_iter=60, training__max_time=0
    )
    with pytest.warns(ConvergenceWarning, match="1 of 60 iterations"):
        parts.fit(grids)
    parts.set_params(training__max_time=None).fit(grids)
    assert parts.n_iter_ == 60
    assert np.array_equal(parts.score_samples(grids), once.score_samples(grids))
    assert np.array_equal(parts.holdout_scores_, once.holdout_scores_)


# -- scores, maps, thresholds -------------------------------------------------------


def test_invalid_places_are_neither_learned_nor_scored(grids):
    holed = grids.copy()
    holed[2, 1, 4] = np.nan
    for detector in (quick(), LinearDFR(latent_dim=3, holdout=None)):
        detector.fit(holed)
        D = detector.score_grids(holed)
        assert np.argwhere(np.isnan(D)).tolist() == [[2, 1, 4]]
        whole = detector.score_grids(grids)
        valid = np.isfinite(D)
        np.testing.assert_allclose(D[valid], whole[valid], rtol=1e-4, atol=1e-6)
    loud = grids.copy()
    loud[2, 1, 4] = 1e4
    assert np.isfinite(holed[2, 0, 0]).all()
    again = LinearDFR(latent_dim=3, holdout=None).fit(holed).autoencoder_["scale"]
    assert (
        LinearDFR(latent_dim=3, holdout=None).fit(loud).autoencoder_["scale"] > again
    ).all()


def test_score_is_the_maximum_of_the_map_enlarged_and_smoothed():
    """Reference: a single patch, enlarged to 256 pixels, then smoothed by 4 pixels."""
    detector, grid = DFR(preset="vit"), np.zeros((1, 16, 16), np.float32)
    grid[0, 7, 8] = 1
    found = detector._aggregate(grid)[0]
    large = cv2.resize(grid[0], (256, 256), interpolation=cv2.INTER_LINEAR)
    heat = ndimage.gaussian_filter(large, 4)
    assert found == pytest.approx(heat.max(), rel=0.05)
    assert found < 0.7
    assert DFR(preset="paper")._aggregate(grid)[0] == 1


def test_papers_numbers():
    """They are 90 % of the variance, and the maximum of the map."""
    assert (DFR().variance, DFR().aggregate) == (0.9, "max")


def test_a_single_channel_leaves_no_code(rng):
    with pytest.raises(ValueError, match="2 channels at least"):
        DFR(features=OneChannel()).fit(make_images(4))


class OneChannel(BaseEstimator):
    """An extractor that returns grey values."""

    def fit(self, X, y=None):
        return self

    def transform_affines(self, X):
        F = np.stack([image[::8, ::8, :1] / 255 for image in X]).astype(np.float32)
        return F, np.broadcast_to(np.diag([8.0, 8, 1]), (len(F), 3, 3))


def test_an_odd_place_appears_where_it_is(grids):
    odd = grids[:1].copy()
    odd[0, 3, 1] += 3 * np.resize([1, -1], 12)
    heat = quick().fit(grids[1:]).predict_map(odd)[0]
    assert np.unravel_index(heat.argmax(), heat.shape) == (3, 1)


def test_images_may_differ_in_size():
    X = [*make_images(3, size=(48, 64)), *make_images(3, size=(80, 64))]
    detector = quick(features=tiny_cnn(standardize=False)).fit(X)
    maps = detector.predict_map(X)
    assert [m.shape for m in maps] == [(48, 64)] * 3 + [(80, 64)] * 3
    single = [detector.score_samples([x])[0] for x in X]
    np.testing.assert_allclose(detector.score_samples(X), single, rtol=1e-4)


def test_another_number_of_channels_is_refused(grids):
    detector = linear().fit(grids)
    with pytest.raises(ValueError, match="9 channels; fitted on 12"):
        detector.score_samples(grids[..., :9])
    with pytest.raises(ValueError, match=r"X\[1\] gives features of 9 channels"):
        quick().fit([grids[0], grids[1, ..., :9]])


def test_one_image_and_one_place(rng):
    F = rng.normal(size=(1, 1, 1, 8))
    assert np.isfinite(linear().fit(F).score_samples(F)).all()
    with pytest.raises(ValueError, match="one valid place to learn from"):
        quick().fit(F)
    F = rng.normal(size=(1, 1, 2, 8))
    assert np.isfinite(quick(latent_dim=1).fit(F).score_samples(F)).all()


@pytest.mark.parametrize(
    "change", [{"cos_weight": 0.5}, {"latent_dim": 2}, {"holdout": 2}]
)
def test_another_training_starts_anew_and_says_so(grids, change):
    detector = quick(training__warm_start=True).fit(grids)
    with pytest.warns(UserWarning, match="starts anew"):
        detector.set_params(**change).fit(grids)
    assert detector.loss_curve_ == clone(detector).fit(grids).loss_curve_


def test_a_search_over_widths_sees_each_image_once(monkeypatch):
    X, seen = make_images(6), []
    run = CNNFeatures._run
    counted = lambda self, images, *a: seen.extend(images) or run(self, images, *a)  # noqa: E731
    monkeypatch.setattr(CNNFeatures, "_run", counted)
    cnn = tiny_cnn(standardize=False)
    detector = LinearDFR(features=cnn, holdout=2)
    search = GridSearchCV(
        detector,
        {"latent_dim": [1, 2, 3]},
        scoring=lambda e, X, y=None: e.score_samples(X).mean(),
        cv=3,
    )
    search.fit(X)
    assert len(seen) == 6


def test_training_leaves_the_backbone_alone():
    network = load_backbone("test_efficientnet", "random:0").network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    X = make_images(4, size=(64, 64))
    quick(features=tiny_cnn(standardize=False)).fit(X).predict_map(X)
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_file_holds_the_autoencoder_and_little_else(tmp_path, grids):
    detector = quick(training__warm_start=True).fit(grids)
    path = tmp_path / "model.joblib"
    dump(detector, path)
    assert path.stat().st_size < 20_000
    loaded = joblib.load(path)
    assert np.array_equal(loaded.score_samples(grids), detector.score_samples(grids))


# -- real images --------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize(
    "detector",
    [
        DFR(training=Training(n_iter=200), holdout=None),
        LinearDFR(holdout=None),
    ],
)
def test_planted_defects_are_found_on_textures(real_cnn, detector):
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(0)
    texture = np.stack([data.brick()] * 3, axis=-1)
    corners = rng.integers(0, 512 - 192, size=(16, 2))
    X = np.stack([texture[r : r + 192, c : c + 192] for r, c in corners])
    bad, masks = zip(*(plant_defect(x, random_state=i) for i, x in enumerate(X[10:])))
    detector = clone(detector).fit(X[:10])
    test = np.concatenate([X[10:], bad])
    y = [1] * 6 + [-1] * 6
    assert roc_auc_score(y, detector.score_samples(test)) > 0.9
    maps = detector.predict_map(np.stack(bad))
    assert pixel_auroc_score(np.stack(masks), maps) > 0.85


@pytest.mark.real
def test_pasted_defect_is_the_maximum_also_through_the_aligner(real_cnn):
    X, _ = make_screws(12)
    bad, masks = make_screws(4, defect="second_washer", random_state=1)
    pipe = Pipeline([PCAAligner(), LinearDFR()]).fit(X)
    good, _ = make_screws(4, random_state=2)
    assert pipe.score_samples(bad).max() < pipe.score_samples(good).min()
    for heat, mask in zip(pipe.predict_map(bad), masks):
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        assert np.hypot(*(np.argwhere(mask) - hottest).T).min() < 12  # pixels
