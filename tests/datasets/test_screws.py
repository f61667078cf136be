import numpy as np
import pytest

from skdinoad.datasets import SCREW_DEFECTS, make_screws


def test_seed_decides():
    a, b = make_screws(2, random_state=1)[0], make_screws(2, random_state=1)[0]
    assert np.array_equal(a, b)
    assert not np.array_equal(a, make_screws(2, random_state=2)[0])


@pytest.mark.parametrize("defect", SCREW_DEFECTS)
def test_mask_covers_what_differs_from_a_good_part(defect):
    """With the same poses, the two agree outside the mask up to noise."""
    good, nothing = make_screws(1, random_state=3)
    bad, mask = make_screws(1, defect=defect, random_state=3)
    assert not nothing.any()
    assert 0.0005 < mask.mean() < 0.05
    difference = np.abs(good.astype(int) - bad).max(-1)
    assert difference[mask].mean() > 20


def test_unknown_defect_is_refused():
    with pytest.raises(ValueError, match="expected None or one of"):
        make_screws(1, defect="rust")
