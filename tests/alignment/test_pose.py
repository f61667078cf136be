import cv2
import numpy as np
import pytest

from skdinoad._inputs.pixels import to_uint8
from skdinoad.alignment._pose import find_pose

OPTIONS = {"support": "hull", "canny": (50, 100), "blur": 5, "closing": 7}


def pose_of(image, **options):
    return find_pose(image, **{**OPTIONS, "min_contour": 30, **options})


def ellipse(angle=0.0, size=(200, 240), centre=(120, 100), axes=(60, 25)):
    image = np.full((*size, 3), 30, np.uint8)
    cv2.ellipse(image, centre, axes, angle, 0, 360, (220, 220, 220), -1)
    return image


@pytest.mark.parametrize("support", ["hull", "filled", "mask"])
def test_filled_ellipse_has_its_closed_form(support):
    """Four standard deviations of a filled ellipse are its length."""
    image = ellipse()
    if support == "mask":
        alpha = (image[..., :1] > 100).astype(np.uint8) * 255
        image = np.concatenate([image, alpha], -1)
    pose = pose_of(image, support=support)
    np.testing.assert_allclose(pose.centre, [120, 100], atol=1)
    np.testing.assert_allclose(4 * pose.sigma, 121, rtol=0.03)
    np.testing.assert_allclose(pose.ratio, (25 / 60) ** 2, rtol=0.1)
    np.testing.assert_allclose(pose.share, np.pi * 60 * 25 / (200 * 240), rtol=0.06)
    assert abs(pose.skewness) < 0.05
    assert pose.borders == 0


def test_contour_points_weigh_the_ends_more():
    """With contour points, 4 sigma of an ellipse is about 1.24 times its length."""
    length = 4 * pose_of(ellipse(), support="edges").sigma
    assert 1.2 < length / 121 < 1.4


@pytest.mark.parametrize("angle", [-80, -45, -10, 0, 30, 60, 89])
def test_angle_is_found(angle):
    found = np.rad2deg(pose_of(ellipse(angle)).angle)
    assert abs((found - angle + 90) % 180 - 90) < 0.7


def test_size_is_found_in_large_photographs():
    image = cv2.resize(ellipse(30), None, fx=8, fy=8)
    pose = pose_of(image)
    np.testing.assert_allclose(pose.centre, [8 * 120.5 - 0.5, 8 * 100.5 - 0.5], atol=8)
    np.testing.assert_allclose(4 * pose.sigma, 8 * 121, rtol=0.03)


def test_skewness_tells_the_thick_end():
    image = np.full((200, 240, 3), 30, np.uint8)
    cv2.fillConvexPoly(image, np.array([[40, 60], [40, 140], [200, 100]]), (220,) * 3)
    right, left = pose_of(image), pose_of(np.ascontiguousarray(image[:, ::-1]))
    # A triangle has skewness sqrt(8) / 5, its long tail towards the tip.
    np.testing.assert_allclose(right.skewness, np.sqrt(8) / 5, rtol=0.1)
    np.testing.assert_allclose(left.skewness, -np.sqrt(8) / 5, rtol=0.1)


def test_inner_edges_do_not_weigh_in_the_hull():
    plain, printed = ellipse(20), ellipse(20)
    cv2.putText(printed, "AB12", (75, 110), 0, 0.8, (0, 0, 0), 2)
    np.testing.assert_allclose(pose_of(printed).centre, pose_of(plain).centre, atol=0.6)
    moved = abs(pose_of(printed, support="edges").sigma - pose_of(plain).sigma)
    assert moved > 5 * abs(pose_of(printed).sigma - pose_of(plain).sigma)


def test_part_without_contrast_in_grey_is_seen_in_colour():
    image = np.full((200, 240, 3), (120, 120, 20), np.uint8)  # yellow
    cv2.ellipse(image, (120, 100), (60, 25), 0, 0, 360, (111, 111, 111), -1)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert np.ptp(gray) < 10
    np.testing.assert_allclose(4 * pose_of(image).sigma, 121, rtol=0.03)


def test_outline_cut_in_two_is_joined_and_crumbs_are_not():
    image = ellipse()
    image[:, 112:128] = 30
    cv2.circle(image, (225, 20), 6, (220, 220, 220), -1)
    np.testing.assert_allclose(4 * pose_of(image).sigma, 121, rtol=0.05)


def test_edges_in_invalid_pixels_do_not_count():
    image = ellipse()
    image[:, :20] = 255
    rgba = np.concatenate([image, np.full((200, 240, 1), 255, np.uint8)], -1)
    rgba[:, :24, 3] = 0
    np.testing.assert_allclose(pose_of(rgba).centre, [120, 100], atol=1)


@pytest.mark.parametrize("support", ["hull", "filled", "edges", "mask"])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (3, 2), (50, 50), (2000, 3)], ids=str
)
def test_odd_images_have_no_pose(support, size):
    for value in (0, 255):
        assert pose_of(np.full((*size, 3), value, np.uint8), support=support) is None


def test_full_frame_touches_the_borders():
    image = np.full((100, 100, 3), 30, np.uint8)
    image[1:99, 1:99] = 220
    pose = pose_of(image)
    assert pose.share > 0.85
    assert pose.borders >= 3


def test_outside_of_the_region_has_no_part_in_the_pose():
    """Neither the content outside nor the border of the region counts."""
    alpha = np.zeros((200, 240), np.uint8)
    alpha[20:180, 30:210] = 255
    image = np.dstack([ellipse(angle=20), alpha])
    image[:20, :, :3] = 250
    image = to_uint8(image, "X0")
    pose, whole = pose_of(image), pose_of(ellipse(angle=20))
    np.testing.assert_allclose(pose.centre, whole.centre, atol=0.2)
    assert pose.angle == pytest.approx(whole.angle, abs=0.01)
    assert pose.sigma == pytest.approx(whole.sigma, rel=0.01)
