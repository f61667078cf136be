import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import KFold, cross_val_score

from skdinoad import DinoPatch
from skdinoad._inputs.labels import normal_rows
from skdinoad.datasets import LazyMasks, read_mask
from skdinoad.metrics import pixel_auroc_scorer
from skdinoad.testing import make_images


@pytest.fixture
def masks(tmp_path):
    """One good image, one with two regions in two files, one without a mask."""
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path in paths:
        Image.new("RGB", (6, 4)).save(path)
    files = []
    for i in range(2):
        mask = np.zeros((4, 6), np.uint8)
        mask[i, i] = 1 + 254 * i
        files.append(str(tmp_path / f"mask{i}.png"))
        Image.fromarray(mask).save(files[-1])
    return LazyMasks(paths, [(), tuple(files), None])


def test_masks_are_read_when_asked_for(masks):
    assert masks.known.tolist() == [True, True, False]
    assert masks[0].shape == (4, 6)
    assert not masks[0].any()
    assert np.argwhere(masks[1]).tolist() == [[0, 0], [1, 1]]
    assert masks[1].dtype == bool
    with pytest.raises(ValueError, match=r"2.png' is anomalous and has no mask"):
        masks[2]


def test_parts_are_lazy_too(masks):
    part = masks[[1, 0]]
    assert isinstance(part, LazyMasks)
    assert [m.any() for m in part] == [True, False]
    assert len(masks[:2]) == 2
    assert len(masks[masks.known]) == 2
    assert len(masks[:0]) == len(masks[[]]) == 0


def test_they_are_labels_as_well(masks):
    assert normal_rows(masks[masks.known], 2).tolist() == [0]
    with pytest.raises(ValueError, match="no mask"):
        normal_rows(masks, 3)  # not taken for a good one


def test_any_value_above_0_is_anomalous(masks, tmp_path):
    assert read_mask(tmp_path / "mask0.png").sum() == 1


def test_a_search_takes_them(tiny, tmp_path):
    X, files = make_images(8, size=(64, 64)), []
    X[::4, 40:50, 10:30] = 230
    for i, image in enumerate(X):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        mask = np.zeros((64, 64), np.uint8)
        mask[40:50, 10:30] = 255 * (i % 4 == 0)
        Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
        files.append((str(tmp_path / f"{i}_mask.png"),))
    paths = [str(tmp_path / f"{i}.png") for i in range(8)]
    found = cross_val_score(
        DinoPatch(features=tiny),
        paths,
        LazyMasks(paths, files),
        scoring=pixel_auroc_scorer,
        cv=KFold(2),
    )
    assert (found > 0.8).all()
