import numpy as np
import pytest

from skdinoad.datasets import DEFECT_KINDS, plant_defect, plant_defects


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_only_the_mask_changes(kind, rng):
    image = rng.integers(0, 255, (80, 120, 3), np.uint8)
    before = image.copy()
    for seed in range(20):
        bad, mask = plant_defect(image, kind=kind, random_state=seed)
        assert np.array_equal(bad[~mask], image[~mask])
        assert (bad[mask] != image[mask]).any(-1).mean() > 0.5
        assert 0 < mask.mean() < 0.2
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_a_defect_lies_where_it_may(kind, rng):
    image = rng.integers(0, 255, (80, 120, 3), np.uint8)
    where = np.zeros((80, 120), bool)
    where[30:40, 90:100] = True
    for seed in range(10):
        _, mask = plant_defect(
            image, kind=kind, size=0.1, where=where, random_state=seed
        )
        rows, columns = np.nonzero(mask)
        assert 28 <= (rows.min() + rows.max()) / 2 <= 41
        assert 88 <= (columns.min() + columns.max()) / 2 <= 101


def test_a_missing_piece_is_taken_from_the_part():
    image = np.full((80, 80, 3), 90, np.uint8)
    image[30:50, 30:50] = 200
    bad, mask = plant_defect(image, kind="missing", size=0.2, random_state=0)
    assert mask[28:52, 28:52].any()
    assert (bad != image).any()


def test_kinds_are_used_in_turn_and_sizes_may_differ(rng):
    X = [rng.integers(0, 255, (60, 60 + 20 * (i > 2), 3), np.uint8) for i in range(4)]
    bad, masks = plant_defects(X[:3], kinds=("scratch", "missing"))
    assert bad.shape == (3, 60, 60, 3)
    assert masks.dtype == bool
    assert masks[1].sum() > masks[0].sum()
    bad, masks = plant_defects(X)
    assert [m.shape for m in masks] == [(60, 60)] * 3 + [(60, 80)]


def test_bad_input_is_explained():
    image = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=r"expected one of .*missing"):
        plant_defect(image, kind="dent")
    for wrong in (image[..., 0], image / 255.0):
        with pytest.raises(ValueError, match="uint8"):
            plant_defect(wrong)
    with pytest.raises(ValueError, match="size=-1"):
        plant_defect(image, size=-1)
    with pytest.raises(ValueError, match="make size smaller"):
        plant_defect(image, size=0.6)
    with pytest.raises(ValueError, match=r"where has shape \(2, 2\)"):
        plant_defect(image, where=np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="no pixel that is 6 pixels"):
        plant_defect(image, where=np.zeros((40, 40), bool))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"kinds": ()}, r"kinds=\(\): expected"),
        ({"kinds": 3}, "kinds=3: expected"),
        ({"kinds": [["blob"]]}, r"kind=\['blob'\]: expected"),
        ({"size": np.int8(3)}, "a size above 0"),
        ({"size": np.inf}, "a size above 0"),
        ({"size": "a"}, "a size above 0"),
        ({"random_state": -1}, "random_state=-1: expected"),
        ({"random_state": 0.5}, "random_state=0.5: expected"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(how, why):
    with pytest.raises(ValueError, match=why):
        plant_defects(np.zeros((1, 64, 64, 3), np.uint8), **how)
