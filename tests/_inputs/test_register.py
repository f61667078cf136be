import numpy as np
import pytest

from skdinoad._inputs.images import as_images
from skdinoad._inputs.register import Register
from skdinoad.testing import make_images


def test_rows_paths_and_copies_are_registered():
    X = as_images(make_images(3)[[0, 1, 0, 2]])
    with pytest.warns(UserWarning, match="1 of 4 training images are exact copies"):
        register = Register().extended(X, [0, 1, 2, 3], rows=[0, 2, 5, 6])
    assert len(register) == 4
    assert register.first.tolist() == [0, 1, 0, 3]
    assert register.distinct.tolist() == [0, 1, 3]
    assert register.copies_of(2).tolist() == [0, 2]
    assert register.sources == [(0, None), (2, None), (5, None), (6, None)]
    assert register.next_row == 7


def test_a_register_does_not_change():
    X = as_images(make_images(2))
    old = Register().extended(X, [0, 1], rows=[0, 1], contents=[b"a", b"b"])
    with pytest.warns(UserWarning, match="exact copies"):
        new = old.extended(X, [0, 1], rows=[4, 5], contents=[b"b", b"d"])
    assert old.contents == [b"a", b"b"]
    assert new.contents == [b"a", b"b", b"b", b"d"]
    assert [row for row, _ in new.sources] == [0, 1, 4, 5]


def test_merging_counts_rows_and_finds_copies_of_other_parts():
    parts = [Register([b"a", b"b"], [(0, "x"), (2, "y")]), Register([b"a"], [(0, "z")])]
    with pytest.warns(UserWarning, match="image 2 of image 0"):
        merged = Register.merged(parts)
    assert merged.sources == [(0, "x"), (2, "y"), (3, "z")]
    assert merged.first.tolist() == [0, 1, 0]


def test_unusable_images_are_named():
    F = np.zeros((3, 2, 2, 5), np.float32)
    with pytest.warns(UserWarning, match=r"1 of 3 images have no valid patch .*\[1\]"):
        Register().extended(F[:3], [0, 2], range(3), [b"a", b"b", b"c"])
    with pytest.raises(ValueError, match="None of the 3 images has a valid patch"):
        Register().extended(F, [], range(3))


def test_an_empty_register():
    register = Register()
    assert len(register) == register.next_row == 0
    assert register.distinct.size == 0
