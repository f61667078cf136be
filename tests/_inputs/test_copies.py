import warnings

import numpy as np
import pytest
from PIL import Image

from skdinoad import (
    DFR,
    DMAD,
    AnomalyDINO,
    Dinomaly,
    DinoPatch,
    LinearDFR,
    LocalBank,
    ThresholdTunerCV,
    Training,
)
from skdinoad._arrays.normal_scores import NormalScores
from skdinoad._inputs.copies import (
    content,
    first_of_each,
    in_order,
    suspects_among,
    warn_of_copies,
)
from skdinoad._inputs.images import as_images
from skdinoad.testing import make_images


def test_content_is_that_of_the_pixels_in_whatever_form(tmp_path):
    X = make_images(2)
    Image.fromarray(X[0]).save(tmp_path / "a.png")
    Image.fromarray(X[0]).save(tmp_path / "b.bmp")
    opaque = np.dstack([X[0], np.full(X.shape[1:3], 200, np.uint8)])
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.bmp")]
    forms = as_images([X[0], X[0] / 255, opaque, *paths, X[1]])
    contents = [content(forms, row) for row in range(len(forms))]
    assert first_of_each(contents).tolist() == [0, 0, 0, 0, 0, 5]


def test_shape_and_hidden_pixels_are_content():
    image = np.zeros((4, 6, 3), np.uint8)
    hidden = np.dstack([image, np.zeros((4, 6), np.uint8)])
    forms = as_images([image, image.reshape(6, 4, 3), hidden])
    assert len({content(forms, row) for row in range(3)}) == 3


def test_grids_have_content_too(rng):
    F = rng.normal(size=(3, 2, 2, 5))
    F[2] = F[0]
    assert first_of_each([content(F, row) for row in range(3)]).tolist() == [0, 1, 0]


def test_the_warning_counts_and_names():
    with pytest.warns(UserWarning, match=r"2 of 5 .* \(image 2 of image 0"):
        warn_of_copies(np.array([0, 1, 0, 3, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_copies(np.arange(5))


# -- every detector and the tuner ------------------------------------------------------


def detectors(tiny, cnn):
    short = {"training": Training(n_iter=5), "holdout": 3}
    return {
        "DinoPatch": DinoPatch(features=tiny()),
        "local pca": DinoPatch(
            features=tiny(), bank=LocalBank(pca="local", n_components=2, neighborhood=0)
        ),
        "AnomalyDINO": AnomalyDINO(features=tiny(), masking=None, rotations="none"),
        "DFR": DFR(
            features=cnn(), latent_dim=2, holdout=3, training=Training(n_iter=100)
        ),
        "DFR linear": LinearDFR(features=cnn(), holdout=3),
        "DMAD": DMAD(
            features=cnn(standardize=False, image_size=(64, 64)),
            n_codes=8,
            student_width=32,
            **short,
        ),
        "Dinomaly": Dinomaly(
            features=tiny(layers="middle", groups=2), depth=2, **short
        ),
    }


@pytest.mark.parametrize("name", list(detectors(lambda **_: None, lambda **_: None)))
def test_copies_are_held_out_together(name, make_tiny, make_tiny_cnn):
    X = make_images(6)
    detector = detectors(make_tiny, make_tiny_cnn)[name]
    with pytest.warns(UserWarning, match=r"4 of 10 training images are exact copies"):
        detector.fit(np.concatenate([X, X[:4]]))
    assert detector.holdout_scores_.shape == (6,)
    assert detector.offset_ < detector.score_samples(X[:4]).max() - 1e-6


@pytest.mark.parametrize("cls", [DinoPatch, AnomalyDINO])
def test_banks_hold_copies_out_as_if_they_were_not_there(cls, make_tiny):
    X = make_images(6)
    with pytest.warns(UserWarning, match="exact copies"):
        twice = cls(features=make_tiny()).fit(np.concatenate([X, X]))
    once = cls(features=make_tiny()).fit(X)
    np.testing.assert_allclose(twice.holdout_scores_, once.holdout_scores_, rtol=1e-5)
    assert twice.offset_ == pytest.approx(once.offset_, rel=1e-5)


@pytest.mark.parametrize("cls", [DinoPatch, AnomalyDINO])
def test_a_copy_that_comes_later_is_known(cls, make_tiny):
    X = make_images(6)
    detector = cls(features=make_tiny(), **_plain(cls)).fit(X[:4])
    with pytest.warns(UserWarning, match="1 of 7 training images are exact copies"):
        detector.partial_fit(np.concatenate([X[4:], X[:1]]))
    whole = cls(features=make_tiny(), **_plain(cls)).fit(X)
    np.testing.assert_allclose(
        detector.holdout_scores_, whole.holdout_scores_, rtol=1e-5
    )


def _plain(cls):
    return {"rotations": "none", "masking": None} if cls is AnomalyDINO else {}


def test_copies_of_one_image_are_one_image(make_tiny):
    X = make_images(1).repeat(3, 0)
    detector = DinoPatch(features=make_tiny())
    with (
        pytest.warns(UserWarning, match="2 of 3"),
        pytest.warns(UserWarning, match="no threshold"),
    ):
        detector.fit(X)
    assert np.isnan(detector.offset_)


def test_copies_in_a_batch_excuse_nothing(make_tiny):
    X = make_images(6)
    X[0, 10:40, 10:50] = [255, 0, 255]
    detector = AnomalyDINO(features=make_tiny(), masking=None)
    with pytest.warns(UserWarning, match="1 of 7"):
        scores = detector.score_batch(np.concatenate([X, X[:1]]))
    assert scores[0] == pytest.approx(scores[6])
    assert scores[0] < scores[1:6].min()


@pytest.mark.filterwarnings("ignore:.*exact copies:UserWarning")  # in folds too
def test_the_tuner_keeps_its_promise_with_copies(make_tiny):
    X = np.concatenate([make_images(10), make_images(10)])
    tuner = ThresholdTunerCV(DinoPatch(features=make_tiny()), target_fpr=0.1).fit(X)
    held = tuner.holdout_scores_
    np.testing.assert_allclose(held[:10], held[10:])
    assert tuner.offset_ == held.min()  # the lowest of 10: of 11 * 0.1
    new = make_images(20, random_state=3)
    assert tuner.p_values(new).min() >= 1 / 11
    assert (tuner.predict(new) == -1).mean() <= 0.4


def test_splits_that_part_copies_do_not_learn_what_they_hold_out(make_tiny):
    X = np.concatenate([make_images(12), make_images(6)])
    cv = [(np.arange(12), np.arange(12, 18))]  # copies of six training images
    tuner = ThresholdTunerCV(
        DinoPatch(features=make_tiny()), target_fpr=0.2, cv=cv, refit=False
    )
    with pytest.warns(UserWarning, match="6 of 18"):
        tuner.fit(X)
    expected = DinoPatch(features=make_tiny()).fit(X[6:12]).score_samples(X[12:])
    np.testing.assert_allclose(tuner.holdout_scores_[12:], expected, rtol=1e-5)


def test_copies_count_once_where_images_are_too_few(make_tiny):
    X = np.concatenate([make_images(5), make_images(5)])
    tuner = ThresholdTunerCV(DinoPatch(features=make_tiny()), target_fpr=0.1)
    with (
        pytest.warns(UserWarning, match="5 of 10"),
        pytest.raises(ValueError, match=r"needs 9 .* there are 5 \(exact copies"),
    ):
        tuner.fit(X)


def test_copies_with_two_labels_are_refused(make_tiny):
    X = np.concatenate([make_images(6), make_images(1)])
    y = [1] * 6 + [-1]
    with pytest.raises(ValueError, match=r"X\[6\] is labelled -1 and is an exact copy"):
        ThresholdTunerCV(DinoPatch(features=make_tiny()), scoring="f1").fit(X, y)


def test_deep_images_are_compared_with_all_their_bits():
    X = np.full((3, 8, 9), 1000, np.uint16)
    X[1, 0, 0], X[2, 0, 0] = 1001, 65535
    images = as_images(X).by_own_range()
    assert np.array_equal(images[0], images[1])  # because the range is wide
    assert len({content(images, row) for row in range(3)}) == 3
    opaque = np.concatenate([np.dstack([X[0]] * 3), np.full((8, 9, 1), 65535)], axis=-1)
    again = as_images([X[0].astype(">u2"), opaque.astype(np.uint16)])
    assert {content(again, row) for row in range(2)} == {content(images, 0)}


def test_order_goes_by_what_is_seen_and_grids_keep_theirs():
    X, given = make_images(6), np.array([3, 0, 5, 1, 4, 2])
    ordered, rows, known = in_order(as_images(X))
    others, again, _ = in_order(as_images(X[given]))
    assert np.array_equal(X[rows], X[given][again])
    assert np.array_equal(np.stack([*ordered]), np.stack([*others]))
    assert known == [content(as_images(X), row) for row in range(6)]
    deep = as_images(X.astype(np.uint16) << 4).by_own_range()
    shallow = as_images(np.stack([*deep]))
    assert np.array_equal(in_order(deep)[1], in_order(shallow)[1])
    assert in_order(deep)[2] is None  # content uses all bits
    assert in_order(as_images(X[[1, 1, 1]]))[1].tolist() == [0, 1, 2]
    grids = X.astype(np.float32)
    kept, rows, _ = in_order(grids)
    assert kept is grids  # no copy
    assert rows.tolist() == [*range(6)]


def test_suspects_are_sorted_and_compared_with_the_usual_score():
    scores = np.array([1.0, 9.0, 1.1, 0.9, 12.0, 1.0, 1.05, 0.95])
    sources = [(10 + i, f"{i}.png") for i in range(8)]
    found = suspects_among(scores, sources, NormalScores(scores))
    assert [(s.row, s.path) for s in found] == [(14, "4.png"), (11, "1.png")]
    assert [s.ratio for s in found] == [12.0, 9.0]
