import numpy as np
import pytest
from PIL import Image

from skdinoad.datasets import load_folder


@pytest.fixture
def category(tmp_path):
    for name in (
        "train/good/a.png",
        "test/good/a.jpg",
        "test/dent/b.png",
        "test/dent/c.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    (tmp_path / "test/dent/notes.txt").write_text("not an image")
    (tmp_path / "ground_truth/dent").mkdir(parents=True)
    mask = Image.fromarray(np.array([[0, 255]], np.uint8))
    mask.save(tmp_path / "ground_truth/dent/b_mask.png")
    return tmp_path


def test_lists_images_labels_and_masks(category):
    data = load_folder(category)
    assert len(data.train) == 1
    assert [p[-5:] for p in data.test] == ["b.png", "c.png", "a.jpg"]
    assert data.y.tolist() == [-1, -1, 1]
    assert data.kinds.tolist() == ["dent", "dent", "good"]
    assert data.masks.known.tolist() == [True, False, True]
    assert data.masks[0].tolist() == [[False, True]]
    assert data.masks[2].shape == (3, 4)
    assert len(data.validation) == 0


def test_an_image_in_no_folder_is_refused(category):
    Image.new("RGB", (4, 3)).save(category / "test/loose.png")
    with pytest.raises(ValueError, match=r"loose\.png is in no folder"):
        load_folder(category)


def test_other_folder_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected MVTec AD's layout"):
        load_folder(tmp_path)
