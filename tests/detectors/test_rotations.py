import pytest

from skdinoad.detectors._rotations import (
    EIGHT,
    chosen_angles,
    merged_angles,
    worth_turning,
)


@pytest.mark.parametrize(
    ("rotations", "n", "expected"),
    [
        ("auto", 8, EIGHT),
        ("auto", 9, (0,)),
        ("agnostic", 100, EIGHT),
        ("informed", 100, EIGHT),
        ("none", 1, (0,)),
        ((90, 0), 1, (0, 90)),
    ],
)
def test_few_images_are_turned(rotations, n, expected):
    assert chosen_angles(rotations, n, True) == expected


def test_features_cannot_be_turned():
    assert chosen_angles("agnostic", 1, False) == (0,)
    with pytest.raises(ValueError, match="only images can be turned"):
        chosen_angles([90], 1, False)


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (EIGHT, [EIGHT, EIGHT], EIGHT),
        ((0,), [EIGHT, (0,)], (0,)),
        (EIGHT, [(0,), (0,)], (0,)),
    ],
)
def test_turned_copies_can_be_dropped(wanted, there, expected):
    assert merged_angles(wanted, there) == expected


@pytest.mark.parametrize("there", [[EIGHT, (0,)], [(0, 90), (0, 90)]])
def test_turned_copies_cannot_be_made(there):
    with pytest.raises(ValueError, match="rotations='agnostic' or 'none'"):
        merged_angles(EIGHT, there)


def test_a_tenth_is_worth_it():
    assert worth_turning(1.0, 0.9 - 1e-9)[1]
    assert not worth_turning(1.0, 0.91)[1]
    assert not worth_turning(0.0, 1.0)[1]
