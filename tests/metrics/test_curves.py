import numpy as np
import pytest

from skdinoad.metrics._curves import average_precision, f1_max, partial_area


def test_area_of_a_diagonal_is_half_its_limit():
    level = np.array([0.0]), np.array([1.0]), np.array([1.0])
    for limit in (0.1, 0.5, 1.0):
        assert partial_area(*level, limit) == pytest.approx(limit / 2)


def test_area_of_steps():
    above, weights = np.array([0.0, 0.2, 0.9]), np.array([0.5, 0.25, 0.25])
    area = partial_area(above, above, weights, 0.3)
    assert area == pytest.approx((0.5 * 0.3 + 0.25 * 0.1) / 0.3)


def test_precision_and_f1_of_two_levels():
    found, false = np.array([1, 3]), np.array([0, 1])
    assert average_precision(found, false, 4) == pytest.approx(1 / 4 + 2 / 4 * 3 / 4)
    assert f1_max(found, false, 4) == pytest.approx(2 * 3 / (4 + 3 + 1))
