import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import KFold, cross_val_score

from skdinoad import DinoPatch
from skdinoad._inputs.labels import normal_rows
from skdinoad.datasets import LazyMasks
from skdinoad.metrics import pixel_auroc_scorer
from skdinoad.testing import make_images


@pytest.fixture
def masks(tmp_path):
    """Return a good image, one with two regions in two files, one without a mask."""
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
        normal_rows(masks, 3)  # not treated as a good one


def test_an_anomalous_image_with_an_empty_mask_is_never_a_good_one(masks, tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "mask0.png")
    Image.new("L", (6, 4)).save(tmp_path / "mask1.png")
    paths, files = masks._images, masks._files
    assert not LazyMasks(paths, files)[1].any()  # not known to be anomalous
    told = LazyMasks(paths, files, [False, True, True])
    words = r"1\.png' is anomalous, but nothing is marked in .*mask0\.png"
    for look in (
        lambda: told[1],
        lambda: told[:2][1],
        lambda: normal_rows(told[:2], 2),
    ):
        with pytest.raises(ValueError, match=words):
            look()
    assert not told[0].any()


def test_one_of_several_masks_may_be_empty(masks, tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "mask0.png")
    told = LazyMasks(masks._images, masks._files, [False, True, True])
    assert told[1].sum() == 1


def test_a_mask_has_the_size_of_its_image(masks, tmp_path):
    Image.new("L", (4, 6)).save(tmp_path / "mask1.png")
    with pytest.raises(ValueError, match=r"mask1\.png' has 4 x 6 .*/1\.png' 6 x 4"):
        masks[1]


def test_image_and_mask_may_be_turned_alike(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    mask = np.zeros((4, 6), np.uint8)
    mask[0, 0] = 255
    paths = [str(tmp_path / name) for name in ("a.jpg", "stored.png", "upright.png")]
    Image.fromarray(mask).save(paths[1], exif=exif)
    Image.fromarray(np.rot90(mask, -1)).save(paths[2])
    for path in paths[1:]:
        found = LazyMasks(paths[:1], [(path,)])[0]
        assert np.argwhere(found).tolist() == [[0, 3]]
        assert found.shape == (6, 4)


def test_lists_of_different_lengths_are_refused(masks):
    with pytest.raises(ValueError, match="3 images, 2 lists of masks"):
        LazyMasks(masks._images, masks._files[:2])


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
