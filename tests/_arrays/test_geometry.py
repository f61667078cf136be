import cv2
import numpy as np
import pytest
from scipy import ndimage

from skdinoad._arrays.geometry import (
    BORDERS,
    _opencv_is_exact,
    check_angles,
    field_in_pixels,
    pose_affine,
    resize_affine,
    rotated,
    turn_affine,
    warp,
    warp_back,
)


def test_patch_frame_is_14_k_plus_6_5():
    affine = resize_affine((56, 28), (4, 2))
    assert (affine @ [0, 0, 1]).tolist() == [6.5, 6.5, 1]
    assert (affine @ [1, 3, 1]).tolist() == [20.5, 48.5, 1]


def test_frames_compose():
    a, b = resize_affine((100, 80), (50, 40)), resize_affine((50, 40), (5, 8))
    np.testing.assert_allclose(a @ b, resize_affine((100, 80), (5, 8)))


def test_turn_twice_is_identity():
    for mirror in (False, True):
        turn = turn_affine((4, 7), mirror=mirror)
        assert np.array_equal(turn @ turn, np.eye(3))


def test_warp_with_identity_returns_the_image(rng):
    image = rng.integers(0, 255, (20, 30, 3), np.uint8)
    assert np.array_equal(warp(image, np.eye(3), (20, 30)), image)


def test_warp_turn_equals_flip(rng):
    image = rng.integers(0, 255, (20, 30, 3), np.uint8)
    turned = warp(image, turn_affine((20, 30)), (20, 30))
    assert np.array_equal(turned, image[::-1, ::-1])
    mirrored = warp(image, turn_affine((20, 30), mirror=True), (20, 30))
    assert np.array_equal(mirrored, image[:, ::-1])


@pytest.mark.parametrize("border", BORDERS)
def test_warp_border_equals_numpy_padding(border, rng):
    # Some builds of OpenCV lacked the wrap border in affine warps.
    image = rng.integers(0, 255, (6, 8), np.uint8)
    shift = np.array([[1.0, 0, -3], [0, 1, -2], [0, 0, 1]])
    mode = {"replicate": "edge"}.get(border, border)
    expected = np.pad(image, ((2, 2), (3, 3)), mode=mode)
    assert np.array_equal(warp(image, shift, (10, 14), border=border), expected)


def test_strong_shrinking_averages():
    checker = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    small = warp(checker, resize_affine((64, 64), (8, 8)), (8, 8))
    assert abs(small.astype(int) - 127).max() <= 2


def test_warp_back_of_a_ramp_is_a_ramp():
    grid = np.add.outer(np.arange(4.0), 10 * np.arange(6.0))
    maps = warp_back(grid, resize_affine((56, 84), (4, 6)), (56, 84))
    y, x = np.mgrid[7:49, 7:77]
    expected = (y - 6.5) / 14 + 10 * (x - 6.5) / 14
    np.testing.assert_allclose(maps[7:49, 7:77], expected, rtol=1e-4)
    assert maps.dtype == np.float32
    assert maps[0, 0] == grid[0, 0]  # constant in the outer half cells


def test_warp_back_equals_scipy_under_rotation(rng):
    grid = rng.random((12, 12)).astype(np.float32)
    affine = pose_affine((30, 25), angle=0.7, zoom=0.2, size=(12, 12))
    maps = warp_back(grid, affine, (50, 60))
    y, x = np.mgrid[:50, :60]
    position = np.linalg.inv(affine) @ np.stack(
        [x.ravel(), y.ravel(), x.ravel() * 0 + 1]
    )
    inside = (np.abs(position[:2] - 5.5) <= 6).all(0).reshape(50, 60)
    expected = ndimage.map_coordinates(grid, position[1::-1], order=1, mode="nearest")
    assert 0.2 < inside.mean() < 0.9
    np.testing.assert_allclose(
        maps, np.where(inside, expected.reshape(50, 60), 0), atol=1e-4
    )


def test_invalid_cells_are_zero_and_do_not_dim_their_neighbours():
    grid = np.full((4, 4), 2.0)
    grid[:, 3] = np.nan
    maps = warp_back(grid, resize_affine((40, 40), (4, 4)), (40, 40))
    assert (maps[:, :30] == 2).all()
    assert (maps[:, 31:] == 0).all()


def test_grid_of_one_cell():
    maps = warp_back(np.array([[3.0]]), resize_affine((5, 7), (1, 1)), (5, 7))
    assert (maps == 3).all()


def test_hot_cell_lands_where_the_patch_was(rng):
    """Draw a dot in the source, find it in the output, and map it back."""
    source = np.zeros((200, 300), np.uint8)
    cv2.circle(source, (210, 60), 6, 255, -1)
    affine = pose_affine((150, 100), angle=1.1, zoom=0.8, size=(224, 224))
    aligned = warp(source, affine, (224, 224)).astype(float)
    grid = aligned.reshape(16, 14, 16, 14).mean(axis=(1, 3))
    maps = warp_back(grid, affine @ resize_affine((224, 224), (16, 16)), (200, 300))
    y, x = np.unravel_index(maps.argmax(), maps.shape)
    assert np.hypot(x - 210, y - 60) < 8 / 0.8  # half a patch


def test_rotated_is_the_official_augmentation(rng):
    image = rng.integers(0, 255, (20, 30, 3), np.uint8)
    assert np.array_equal(rotated(image, 0), image)
    # The pivot is half a pixel off, so a half turn is a flip shifted by one pixel.
    assert np.array_equal(rotated(image, 180)[1:, 1:], image[::-1, ::-1][:-1, :-1])
    square = image[:, :20]
    assert np.array_equal(rotated(square, 90)[1:], np.rot90(square)[:-1])


def test_margin_extends_the_outer_cells():
    affine = resize_affine((40, 40), (4, 4))
    affine[:2, 2] += 15  # the grid covers pixels 15 to 55 of a larger image
    grid = np.ones((4, 4), np.float32)
    tight = warp_back(grid, affine, (80, 80))
    wide = warp_back(grid, affine, (80, 80), margin=1.5)
    assert tight[:, 30].sum() == 40
    assert wide[:, 30].sum() == 60


def test_angles_are_each_once_and_zero_first():
    assert check_angles([90, 450, -90, 0]) == (0, 90, 270)
    with pytest.raises(ValueError, match="expected angles in degrees"):
        check_angles([0, np.nan])


def test_fields_in_pixels():
    fields = np.zeros((1, 2, 9, 9), np.float32)
    fields[0, 0], fields[0, 1] = 0.5, -0.25  # width and height are 2
    out = field_in_pixels(fields, (41, 81))
    assert out.shape == (1, 41, 81, 2)
    # Centres of the outer cells, 8/9 of the image apart, lie at -1 and 1.
    np.testing.assert_allclose(out[0, 3, 5], [0.25 * 81 * 8 / 9, -0.125 * 41 * 8 / 9])


def slow_warp_back(grid, affine, size, margin):
    """Reference implementation: pixel by pixel, in double precision."""
    h, w = grid.shape
    to_grid, out = np.linalg.inv(affine), np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y, _ = to_grid @ [column, row, 1]
            if not (-margin <= x <= w - 1 + margin and -margin <= y <= h - 1 + margin):
                continue
            x, y = np.clip(x, 0, w - 1), np.clip(y, 0, h - 1)
            i, j = min(int(y), max(0, h - 2)), min(int(x), max(0, w - 2))
            total = weight = 0
            for a, p in ((i, 1 - y + i), (min(i + 1, h - 1), y - i)):
                for b, q in ((j, 1 - x + j), (min(j + 1, w - 1), x - j)):
                    if np.isfinite(grid[a, b]):
                        total, weight = total + p * q * grid[a, b], weight + p * q
            out[row, column] = total / weight if weight >= 0.5 else 0
    return out


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("margin", [0.5, 1.5])
@pytest.mark.parametrize(
    "affine",
    [
        resize_affine((37, 53), (4, 6)),
        np.array([[9.0, 0, -4], [0, 7, 11], [0, 0, 1]]),
        np.array([[-9.0, 0, 50], [0, 7, 3], [0, 0, 1]]),  # mirrored
        pose_affine((25, 18), angle=0.6, zoom=0.12, size=(4, 6)),
    ],
)
def test_warp_back_equals_the_sum_pixel_by_pixel(rng, affine, margin, holes):
    grid = rng.random((4, 6)).astype(np.float32)
    if holes:
        grid[1, 2] = grid[3, 5] = np.nan
    maps = warp_back(grid, affine, (37, 53), margin=margin)
    expected = slow_warp_back(grid, affine, (37, 53), margin)
    # If exactly half of a pixel's surroundings is valid, rounding decides.
    same = np.isclose(maps, expected, rtol=1e-5, atol=1e-5)
    assert same.mean() > (0.99 if holes else 0.999)
    assert maps.flags.c_contiguous


def test_strips_make_no_difference(rng, monkeypatch):
    grid = rng.random((9, 7)).astype(np.float32)
    affine = pose_affine((60, 40), angle=0.3, zoom=0.1, size=(9, 7))
    whole = warp_back(grid, affine, (90, 110))
    monkeypatch.setattr("skdinoad._arrays.geometry._STRIP", 300)
    assert np.array_equal(warp_back(grid, affine, (90, 110)), whole)


TURNS = {
    "a turn": pose_affine((60, 40), angle=0.3, zoom=0.1, size=(9, 7)),
    "upside down": pose_affine((70, 20), angle=2.8, zoom=0.08, size=(9, 7)),
    "a quarter": np.array([[0, -9.0, 80], [8, 0, 11], [0, 0, 1]]),
    "nearly a quarter": pose_affine((50, 50), np.pi / 2, zoom=0.1, size=(9, 7)),
    "sheared": np.array([[9.1, 3, 20.3], [0, 8.2, 11.4], [0, 0, 1]]),
    "elsewhere": pose_affine((900, 40), angle=0.3, zoom=0.1, size=(9, 7)),
}


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("affine", TURNS.values(), ids=TURNS)
def test_opencv_and_torch_sample_the_same(rng, monkeypatch, affine, holes):
    grid = rng.random((9, 7)).astype(np.float32)
    if holes:
        grid[2, 3] = grid[8, 6] = np.nan
    maps = warp_back(grid, affine, (90, 110))
    assert maps.flags.c_contiguous
    assert maps.dtype == np.float32
    monkeypatch.setattr("skdinoad._arrays.geometry._opencv_is_exact", lambda: False)
    expected = warp_back(grid, affine, (90, 110))
    # If exactly half of a pixel's surroundings is valid, rounding decides.
    same = np.isclose(maps, expected, rtol=1e-5, atol=1e-5)
    assert same.mean() > (0.999 if holes else 0.9999)


def test_a_pixel_on_the_edge_of_a_turned_grid_belongs_to_it():
    affine = np.array([[0, -4.0, 40], [4, 0, 10], [0, 0, 1]])  # cells of 4 pixels
    maps = warp_back(np.ones((3, 5), np.float32), affine, (40, 60))
    expected = np.zeros((40, 60), np.float32)
    expected[8:29, 30:43] = 1  # half a cell, 2 pixels, around 10 to 26 and 32 to 40
    assert np.array_equal(maps, expected)


@pytest.mark.parametrize(("rounding", "exact"), [(32, False), (2**20, True)])
def test_an_opencv_that_rounds_positions_is_found_out(monkeypatch, rounding, exact):
    def sampled(grid, to_grid, size):
        y, x = np.mgrid[: size[0], : size[1]]
        column = to_grid[0, 0] * x + to_grid[0, 1] * y + to_grid[0, 2]
        return np.round(column * rounding) / rounding  # of a ramp

    monkeypatch.setattr("skdinoad._arrays.geometry._sampled", sampled)
    assert _opencv_is_exact.__wrapped__() == exact


def test_maps_beyond_opencv_are_torchs(rng, monkeypatch):
    grid = rng.random((9, 7)).astype(np.float32)
    affine = pose_affine((2**14, 2), angle=0.3, zoom=1e-3, size=(9, 7))
    maps = warp_back(grid, affine, (3, 2**15))
    part = warp_back(grid, affine, (3, 2**15 - 1))
    np.testing.assert_allclose(maps[:, :-1], part, atol=1e-4)
    assert maps.any()
