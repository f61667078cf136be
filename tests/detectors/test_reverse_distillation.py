"""Reverse distillation: the student cannot reconstruct defects."""

import numpy as np
import pytest
from conftest import build
from sklearn.metrics import roc_auc_score

from skdinoad import DMAD, ReverseDistillation, Training
from skdinoad.datasets import plant_defect
from skdinoad.metrics import pixel_auroc_score
from skdinoad.testing import make_images


def test_it_is_dmad_without_deformation_and_prototypes():
    """Known answer: the baseline of DMAD with the same seed."""
    X = make_images(6, size=(64, 64))
    plain = build(ReverseDistillation).set_params(holdout=None)
    settings = plain.get_params(deep=False)
    other = DMAD(**settings, scales=(), n_codes=0).fit(X)
    scores = plain.fit(X).score_samples(X)
    np.testing.assert_allclose(scores, other.score_samples(X), rtol=1e-4)
    np.testing.assert_allclose(
        plain.predict_map(X), other.predict_map(X), rtol=1e-3, atol=1e-6
    )
    assert not hasattr(plain, "alpha")


def test_training_falls_and_goes_on():
    X = make_images(6, size=(64, 64))
    detector = build(ReverseDistillation).set_params(holdout=None)
    detector.set_params(training__n_iter=20, training__warm_start=True).fit(X)
    curve = detector.loss_curve_
    assert np.mean(curve[-3:]) < np.mean(curve[:3])
    detector.set_params(training__n_iter=22).fit(X)
    assert detector.loss_curve_[:20] == curve
    assert detector.n_iter_ == 22


def test_held_out_scores_are_of_networks_that_have_not_seen_the_image():
    X = make_images(6, size=(64, 64))
    detector = build(ReverseDistillation).fit(X)
    assert detector.holdout_rows_.tolist() == list(range(6))
    assert np.isfinite(detector.offset_)


@pytest.mark.real
def test_planted_defects_are_found_on_a_texture(real_cnn):
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(0)
    texture = np.stack([data.brick()] * 3, axis=-1)
    corners = rng.integers(0, 512 - 192, size=(24, 2))
    X = np.stack([texture[r : r + 192, c : c + 192] for r, c in corners])
    planted = [
        plant_defect(x, kind="blob", random_state=i) for i, x in enumerate(X[16:])
    ]
    bad, masks = map(np.stack, zip(*planted))
    teacher = real_cnn(layers=(1, 2, 3), image_size=(128, 128), standardize=False)
    training = Training(n_iter=30)
    detector = ReverseDistillation(features=teacher, training=training, holdout=None)
    detector.fit(X[:16])
    test, y = np.concatenate([X[16:], bad]), [1] * 8 + [-1] * 8
    assert roc_auc_score(y, detector.score_samples(test)) > 0.8
    assert pixel_auroc_score(masks, detector.predict_map(bad)) > 0.85
