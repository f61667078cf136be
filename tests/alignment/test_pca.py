import warnings

import cv2
import numpy as np
import pytest

from skdinoad import Outline, PCAAligner
from skdinoad.datasets import make_screws
from skdinoad.testing import make_images

#: Head centre and tip of the rendered screw on its canvas, (x, y).
HEAD, TIP = (60, 80), (372, 80)


def screws(n=6, seed=0, **kwargs):
    """Return screws and the positions of heads and tips, (n, 2, 2) in pixels."""
    import skdinoad.datasets._screws as module

    poses, draw = [], module._random_pose
    module._random_pose = lambda size, rng: poses.append(draw(size, rng)) or poses[-1]
    try:
        X, _ = make_screws(n, random_state=seed, **kwargs)
    finally:
        module._random_pose = draw
    marks = np.array([[*HEAD, 1], [*TIP, 1]]).T
    return X, np.stack([(pose @ marks).T for pose in poses])


def landmarks(affines, marks):
    """Return positions of source points in the aligned images, (n, points, 2)."""
    ones = np.ones((*marks.shape[:2], 1))
    points = np.concatenate([marks, ones], -1).transpose(0, 2, 1)
    return (np.linalg.inv(affines) @ points).transpose(0, 2, 1)[..., :2]


def jitter(support, n=20):
    """Return the distance of each head or tip to its usual position, in pixels."""
    X, marks = screws(n)
    aligner = PCAAligner(support=support, output_size=256).fit(X)
    placed = landmarks(aligner.align(X)[1], marks)
    return placed, np.abs(placed - np.median(placed, axis=0)).max(axis=(1, 2))


def test_screws_come_to_one_pose():
    placed, deviation = jitter("hull")
    assert np.median(deviation) < 1
    assert deviation.max() < 3
    assert (placed[:, 0, 0] < 70).all()  # every head on the left
    assert (abs(placed[:, :, 1] - 127.5) < 5).all()  # every axis is horizontal
    assert ((placed >= -1) & (placed <= 256)).all()  # nothing leaves the output


def test_hull_beats_contour_points():
    """Visible threads depend on the rotation and must not affect the moments."""
    assert jitter("hull")[1].mean() < 0.5 * jitter("edges")[1].mean()


def test_rotating_the_photograph_changes_little():
    X, _ = screws(4)
    aligner = PCAAligner(output_size=128).fit(X)
    turned = np.stack([np.rot90(x) for x in X])
    a, b = aligner.transform(X), aligner.transform(turned)
    part = (slice(None), slice(40, 88), slice(20, 108), slice(0, 3))
    difference = np.abs(a[part].astype(float) - b[part]).mean()
    assert difference < 6
    unrelated = np.abs(X[part].astype(float) - turned[part]).mean()
    assert unrelated > 4 * difference


@pytest.mark.parametrize("flip", ["rotate", "mirror"])
def test_flip_keeps_or_changes_handedness(flip):
    X, marks = screws(8)
    affines = PCAAligner(flip=flip).fit(X).align(X)[1]
    handed = np.sign(np.linalg.det(affines[:, :2, :2]))
    assert (handed > 0).all() if flip == "rotate" else (handed < 0).any()
    assert (landmarks(affines, marks)[:, 0, 0] < 224).all()


@pytest.mark.parametrize("size", [(160, 448), (448, 160)])
def test_output_can_be_a_strip(size):
    X, marks = screws(4)
    Z, affines, _ = PCAAligner(output_size=size).fit(X).align(X)
    assert Z.shape == (4, *size, 4)
    placed = landmarks(affines, marks)
    assert ((placed >= -1) & (placed <= np.array(size[::-1]))).all()


def test_rotation_turns_the_axis():
    X, marks = screws(4)
    affines = PCAAligner(rotation=90, output_size=448).fit(X).align(X)[1]
    head, tip = landmarks(affines, marks).transpose(1, 0, 2)
    assert (abs(head[:, 0] - tip[:, 0]) < 8).all()
    assert (tip[:, 1] - head[:, 1] > 200).all()  # clockwise: x turns to y


@pytest.mark.parametrize("mode", ["none", "centre", "centre+scale"])
def test_lesser_modes_do_not_rotate(mode):
    X, _ = screws(4)
    Z, affines, flags = PCAAligner(mode=mode, output_size=256).fit(X).align(X)
    assert np.allclose(affines[:, 0, 1], 0)
    assert not any(flags[name].any() for name in flags.dtype.names)
    if mode == "none":
        assert np.array_equal(Z[..., :3], X)  # same size: pixel for pixel
    if mode == "centre":
        assert np.allclose(affines[:, 0, 0], 1)


def test_none_keeps_the_shape_of_the_images():
    X = make_images(2, size=(60, 90))
    assert PCAAligner(mode="none", output_size=40).fit(X).transform(X).shape[1:3] == (
        40,
        60,
    )
    fitted = PCAAligner(mode="none", output_size=60).fit(X)
    assert np.array_equal(fitted.transform(X)[..., :3], X)


def test_alpha_marks_what_the_photograph_shows():
    X, _ = screws(3)
    Z, affines, _ = PCAAligner(output_size=200).fit(X).align(X)
    y, x = np.mgrid[:200, :200]
    for z, affine in zip(Z, affines):
        source = affine @ np.stack([x.ravel(), y.ravel(), np.ones(200 * 200)])
        inside = ((source[:2] >= 0) & (source[:2] <= 255)).all(0).reshape(200, 200)
        assert (inside == (z[..., 3] == 255)).mean() > 0.98
    assert (Z[..., 3] == 0).any()
    assert (Z[..., :3][Z[..., 3] == 0] > 0).any()  # wrapped, not black


@pytest.mark.parametrize("border", ["wrap", "reflect", "replicate", "constant"])
def test_border_fills_what_is_outside(border):
    X, _ = screws(3)
    Z = PCAAligner(border=border, output_size=200).fit(X).transform(X)
    outside = Z[..., :3][Z[..., 3] == 0]
    assert (np.median(outside) == 0) == (border == "constant")


# -- flags --------------------------------------------------------------------------


def blank(size=256):
    return np.full((size, size, 3), 90, np.uint8)


def test_empty_image_is_flagged_and_left_out_of_training():
    X, _ = screws(5)
    X[2] = blank()
    aligner = PCAAligner(output_size=64)
    with pytest.warns(UserWarning, match=r"No object found in X\[2\]"):
        Z = aligner.fit_transform(X)
    assert (Z[2, ..., 3] == 0).all()
    Z, _, flags = aligner.align(X)
    assert flags["no_object"].tolist() == [False, False, True, False, False]
    assert (Z[2, ..., 3] == 255).all()  # at test time it is scored, and is anomalous


def test_textures_are_not_aligned(rng):
    X = rng.integers(0, 255, (6, 64, 64, 3), np.uint8)
    with pytest.warns(UserWarning, match="Nothing is aligned"):
        aligner = PCAAligner(output_size=64).fit(X)
    assert aligner.mode_ == "none"
    assert np.array_equal(aligner.transform(X)[..., :3], X)


def test_outlines_without_common_shape_are_not_aligned(rng):
    X = np.stack([blank() for _ in range(8)])
    for i, x in enumerate(X):
        axes = (30 + 10 * i, 30) if i % 2 else (30, 30)
        cv2.ellipse(x, (128, 128), axes, 20.0 * i, 0, 360, (240, 240, 240), -1)
    with pytest.warns(UserWarning, match="no common shape"):
        assert PCAAligner().fit(X).mode_ == "none"


def test_full_frame_is_flagged():
    X, _ = screws(5)
    whole = blank()
    whole[3:-3, 3:-3] = 240
    _, affines, flags = PCAAligner(output_size=256).fit(X).align([whole])
    assert flags["full_frame"].all()
    np.testing.assert_allclose(affines[0], np.eye(3))


def test_round_part_is_isotropic_and_not_rotated():
    X = np.stack([blank() for _ in range(3)])
    for i, x in enumerate(X):
        cv2.circle(x, (110 + 10 * i, 128), 60, (240, 240, 240), -1)
    aligner = PCAAligner().fit(X)
    _, affines, flags = aligner.align(X)
    assert aligner.isotropic_
    assert flags["isotropic"].all()
    assert np.allclose(affines[:, 0, 1], 0)


def test_symmetric_part_is_ambiguous():
    X = np.stack([blank() for _ in range(3)])
    X[:, 100:150, 40:220] = 240
    _, _, flags = PCAAligner().fit(X).align(X)
    assert flags["ambiguous"].all()


def test_far_too_large_part_is_clamped():
    X, _ = screws(4)
    tiny = np.stack([cv2.resize(x, (40, 40), interpolation=cv2.INTER_AREA) for x in X])
    small = np.tile(blank(), (4, 1, 1, 1))
    small[:, 100:140, 100:140] = tiny
    small = (
        PCAAligner(outline=Outline(min_share=0, canny=(20, 60))).fit(X).align(small)[2]
    )
    assert small["clamped"].any()


@pytest.mark.parametrize("support", ["hull", "filled", "edges", "mask"])
@pytest.mark.parametrize("mode", ["none", "centre", "centre+scale", "full"])
def test_odd_input_never_crashes(support, mode, rng):
    odd = [
        np.zeros((1, 1), np.uint8),
        np.zeros((1, 300, 3), np.uint8),
        np.full((40, 3, 4), 255, np.uint8),
        rng.integers(0, 255, (33, 65, 4), np.uint8),
        rng.random((17, 9, 1)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aligner = PCAAligner(support=support, mode=mode, output_size=32).fit(odd)
        Z, affines, flags = aligner.align(odd)
    assert Z.shape == (5, *aligner.output_size_, 4)
    assert np.isfinite(affines).all()
    assert flags.shape == (5,)


def test_callers_mask_decides():
    X, marks = screws(4)
    mask = np.zeros((4, 256, 256, 1), np.uint8)
    for m, (head, tip) in zip(mask, marks.astype(int)):
        cv2.line(m, tuple(map(int, head)), tuple(map(int, tip)), 255, 9)
    aligner = PCAAligner(support="mask", output_size=128)
    Z, affines, _ = aligner.fit(np.concatenate([X, mask], -1)).align(
        np.concatenate([X, mask], -1)
    )
    middle = landmarks(affines, marks.mean(axis=1, keepdims=True))[:, 0]
    np.testing.assert_allclose(middle, 63.5, atol=1.5)
    assert (Z[..., 3] > 0).mean() < 0.2


# -- polarity by features -----------------------------------------------------------


def test_polarity_by_features_needs_an_extractor():
    with pytest.raises(TypeError, match="pass features=DinoFeatures"):
        PCAAligner(polarity="features").fit(screws(2)[0])


@pytest.mark.real
def test_polarity_by_features_agrees_with_the_third_moment(real_features):
    """Two independent ways to distinguish head and tip agree."""
    X, marks = screws(5)
    aligner = PCAAligner(polarity="features", features=real_features(image_size=224))
    _, affines, flags = aligner.fit(X).align(X)
    heads = landmarks(affines, marks)[:, 0, 0]
    assert not flags["ambiguous"].any()
    assert (heads < 224).all() or (heads > 224).all()


def test_panorama_is_refused_instead_of_filling_the_memory():
    with pytest.raises(ValueError, match="cut them into parts"):
        PCAAligner(mode="none").fit(np.zeros((2, 1, 2000, 3), np.uint8))


def test_size_reference_ignores_rows_labelled_anomalous():
    X, _ = screws(4)
    bad = X.copy()
    bad[3] = 255 - blank()
    fitted = PCAAligner().fit(bad, [1, 1, 1, -1])
    assert fitted.zoom_ == PCAAligner().fit(X[:3]).zoom_


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"outline": Outline(blur=4)}, "odd"),
        ({"output_size": (1, 2, 3)}, "whole pixels"),
        ({"output_size": (0, 64)}, "whole pixels"),
        ({"output_size": (64.7, 64.2)}, "whole pixels"),
        ({"outline": Outline(canny=(1, 2, 3))}, "2 thresholds"),
    ],
)
def test_bad_parameters_are_explained(parameters, words):
    with pytest.raises(ValueError, match=words):
        PCAAligner(**parameters).fit(make_images())
