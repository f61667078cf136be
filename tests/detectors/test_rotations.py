import pytest

from skdinoad.detectors._rotations import EIGHT, chosen_angles, worth_turning


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


def test_a_tenth_is_worth_it():
    assert worth_turning(1.0, 0.9 - 1e-9)[1]
    assert not worth_turning(1.0, 0.91)[1]
    assert not worth_turning(0.0, 1.0)[1]
