"""Settings of outline detection."""

import numpy as np
import pytest

from skdinoad import Outline, PCAAligner
from skdinoad.datasets import make_screws


def test_settings_reach_the_search():
    X, _ = make_screws(4, size=96)
    nothing = PCAAligner(output_size=64, outline=Outline(min_share=0.9))
    with pytest.warns(UserWarning, match="Nothing is aligned"):
        assert nothing.fit(X).mode_ == "none"
    assert PCAAligner(output_size=64).fit(X).mode_ == "full"


def test_the_default_is_an_outline_of_its_own():
    aligner = PCAAligner().set_params(outline__canny=(10, 20))
    assert aligner.outline.canny == (10, 20)
    assert PCAAligner().outline is None


@pytest.mark.parametrize("wrong", [Outline(blur=4), Outline(canny=(1, 2, 3)), "edges"])
def test_wrong_settings_are_refused_in_fit(wrong):
    X = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"blur=4|canny=|'outline' parameter"):
        PCAAligner(outline=wrong).fit(X)
