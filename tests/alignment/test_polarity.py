import numpy as np

from skdinoad.alignment._polarity import common_direction, cosines, side_vectors


def test_sides_are_right_minus_left_of_the_middle_rows():
    F = np.zeros((1, 8, 5, 2))
    F[0, 2:6, 3:] = [1, 2]  # right half of the band; column 2 is the middle
    F[0, :2, :] = 99  # rows outside the band
    np.testing.assert_array_equal(side_vectors(F), [[1, 2]])
    np.testing.assert_array_equal(side_vectors(F[:, :, ::-1]), [[-1, -2]])


def test_invalid_patches_are_left_out():
    F = np.ones((1, 4, 4, 1))
    F[0, :2] = np.nan
    F[0, 2:, 2:] = 3
    np.testing.assert_array_equal(side_vectors(F), [[2]])
    np.testing.assert_array_equal(side_vectors(np.full((1, 4, 4, 1), np.nan)), [[0]])


def test_common_direction_undoes_random_signs(rng):
    direction = rng.normal(size=16)
    signs = rng.choice([-1, 1], 20)
    sides = signs[:, None] * (direction + 0.3 * rng.normal(size=(20, 16)))
    found = cosines(sides, common_direction(sides))
    assert np.array_equal(np.sign(found) * np.sign(found[0]), signs * signs[0])
    assert abs(found).min() > 0.7


def test_cosine_of_zero_vector_is_zero():
    assert cosines(np.zeros((1, 3)), np.ones(3)) == 0


def test_common_direction_does_not_depend_on_the_order(rng):
    sides = rng.choice([-1, 1], (20, 1)) * (3 + rng.normal(size=(20, 16)))
    expected = common_direction(sides)
    for k in range(20):  # each of them comes first once
        found = common_direction(np.roll(sides, k, axis=0))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
