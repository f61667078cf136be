import numpy as np

from skdinoad._neighbors import squared_norms


def test_squared_lengths_and_infinity_where_invalid():
    bank = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    assert squared_norms(bank).tolist() == [25, 1]
    assert squared_norms(bank, np.array([True, False])).tolist() == [25, np.inf]


def test_half_precision_is_summed_in_single():
    bank = np.full((1, 400), 200, np.float16)  # its square alone overflows float16
    assert squared_norms(bank).tolist() == [400 * 200.0**2]
