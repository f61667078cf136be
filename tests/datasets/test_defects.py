import numpy as np
import pytest

from skdinoad.datasets import plant_defect


@pytest.mark.parametrize("kind", ["scratch", "blob", "cutpaste"])
def test_only_the_mask_changes(kind, rng):
    image = rng.integers(0, 255, (80, 120, 3), np.uint8)
    before = image.copy()
    for seed in range(20):
        bad, mask = plant_defect(image, kind=kind, random_state=seed)
        assert np.array_equal(bad[~mask], image[~mask])
        assert (bad[mask] != image[mask]).any(-1).mean() > 0.5
        assert 0 < mask.mean() < 0.2
    assert np.array_equal(image, before)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="expected scratch, blob or cutpaste"):
        plant_defect(np.zeros((8, 8, 3), np.uint8), kind="dent")
