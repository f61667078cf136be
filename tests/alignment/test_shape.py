import cv2
import numpy as np
import pytest

from skdinoad import DinoPatch, PCAAligner, Pipeline
from skdinoad.alignment._shape import UsualShape, learn_shape
from skdinoad.datasets import make_screws
from skdinoad.metrics import aupro_score


def peg(length, angle, *, head=True, size=200, zoom=1.0):
    """Draw a shaft with a bright head at its left end, rotated by degrees."""
    canvas = np.full((size, size, 3), 40, np.uint8)
    left, middle = 40, size // 2
    canvas[middle - 10 : middle + 10, left : left + length] = 150
    if head:
        canvas[middle - 16 : middle + 16, left : left + 16] = 240
    turn = cv2.getRotationMatrix2D(((size - 1) / 2,) * 2, angle, zoom)
    return cv2.warpAffine(canvas, turn, (size, size), borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def aligner():
    X = [peg(120, angle) for angle in range(0, 360, 45)]
    return PCAAligner(output_size=(112, 224), placement="ends").fit(X)


def ends(Z):
    """Return the first and last column of the part."""
    columns = np.flatnonzero(Z[0, Z.shape[1] // 2, :, :3].mean(-1) > 90)
    return columns[0], columns[-1]


@pytest.mark.parametrize("angle", [0, 30, 120, 180, 255])
def test_a_shortened_part_lies_as_a_whole_one_does_where_it_is_still_there(
    aligner, angle
):
    whole, _, flags = aligner.align([peg(120, angle)])
    short, _, unusual = aligner.align([peg(80, angle)])
    assert not flags["unusual"][0]
    assert unusual["unusual"][0]
    (left, right), (start, stop) = ends(whole), ends(short)
    length = right - left
    head = whole[0, :, left : left + 3, :3].mean() > whole[0, :, right - 3 :, :3].mean()
    kept, lost = (start - left, right - stop) if head else (right - stop, start - left)
    assert abs(kept) <= 0.03 * length
    assert abs(lost - length / 3) <= 0.05 * length


def test_by_default_moments_place_all_parts_and_the_flag_tells():
    X = [peg(120, angle) for angle in range(0, 360, 45)]
    aligner = PCAAligner(output_size=(112, 224)).fit(X)
    Z, _, flags = aligner.align([peg(80, 30), peg(120, 30)])
    assert flags["unusual"].tolist() == [True, False]
    lengths = [np.ptp(ends(z[None])) for z in Z]
    assert abs(lengths[0] - lengths[1]) < 0.1 * lengths[1]  # both fill the frame


def test_what_lost_its_head_lies_by_its_other_end(aligner):
    whole = aligner.transform([peg(120, 0)])
    canvas = peg(120, 0)
    canvas[:, :72] = 40
    Z, _, flags = aligner.align([canvas])
    assert flags["unusual"][0]
    assert min(abs(np.subtract(ends(Z), ends(whole)))) <= 4


@pytest.mark.parametrize("zoom", [0.6, 0.8, 1.2])
def test_a_whole_part_of_another_size_is_not_unusual(aligner, zoom):
    Z, _, flags = aligner.align([peg(120, 20, zoom=zoom)])
    assert not flags["unusual"][0]
    assert (
        np.abs(np.subtract(ends(Z), ends(aligner.transform([peg(120, 20)])))).max() < 5
    )


@pytest.mark.parametrize(
    "how", [{"mode": "centre"}, {"rotation": 90}, {"flip": "mirror"}]
)
def test_other_modes_stay_as_they_are_and_mirrored_parts_are_found(how):
    X = [peg(120, angle) for angle in range(0, 360, 45)]
    aligner = PCAAligner(output_size=224, placement="ends", **how).fit(X)
    flags = aligner.align([peg(80, 30)])[2]
    assert flags["unusual"][0] == ("flip" in how)


def test_the_first_candidate_stays_where_it_is_best():
    X = [peg(120, angle) for angle in (0, 90)]
    aligner = PCAAligner(output_size=(112, 224)).fit(X)
    poses = [aligner._find(image) for image in X]
    affines = aligner.transform_affines(X)[1]
    shape = learn_shape(X, poses, affines, (112, 224))
    assert isinstance(shape, UsualShape)
    for image, pose, affine in zip(X, poses, affines):
        again = shape.better_frame(
            image, pose, pose.angle, affine, (112, 224), mirror=False
        )
        at = np.array([[60, 56, 1], [160, 56, 1]]).T
        assert np.abs((again - affine) @ at).max() < 1.5


@pytest.mark.real
def test_a_shortened_screw_is_odd_where_its_tip_should_be(real_features):
    X, _ = make_screws(12)
    bad, masks = make_screws(4, defect="shortened", random_state=5)
    aligner = PCAAligner(placement="ends")
    detector = DinoPatch(features=real_features(), texture=None)
    pipe = Pipeline([aligner, detector]).fit(X)
    maps = pipe.predict_map(bad)
    assert aupro_score(list(masks), list(maps)) > 0.9
    for heat, mask in zip(maps, masks):
        y, x = np.unravel_index(np.nanargmax(heat), heat.shape)
        assert cv2.dilate(mask.astype(np.uint8), np.ones((15, 15)))[y, x]
