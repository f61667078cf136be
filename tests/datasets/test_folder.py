import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skdinoad import DinoPatch
from skdinoad._inputs.labels import labels_of
from skdinoad.datasets import load_folder, load_images


@pytest.fixture
def category(tmp_path):
    for name in (
        "train/good/a.png",
        "test/good/a.jpg",
        "test/dent/b.png",
        "test/dent/c.png",
    ):
        save_image(tmp_path / name)
    (tmp_path / "test/dent/notes.txt").write_text("not an image")
    save_mask(tmp_path / "ground_truth/dent/b_mask.png")
    return tmp_path


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)


def save_mask(path):
    """Write a mask in which the first pixel is marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((3, 4), np.uint8)
    mask[0, 0] = 255
    Image.fromarray(mask).save(path)


def shown_by(data):
    """Return the kind of each test image by its name."""
    return {Path(path).name: kind for path, kind in zip(data.test, data.kinds)}


def test_lists_images_labels_and_masks(category):
    data = load_folder(category)
    assert len(data.train) == 1
    assert [p[-5:] for p in data.test] == ["b.png", "c.png", "a.jpg"]
    assert data.y.tolist() == [-1, -1, 1]
    assert data.kinds.tolist() == ["dent", "dent", "good"]
    assert data.masks.known.tolist() == [True, False, True]
    assert np.argwhere(data.masks[0]).tolist() == [[0, 0]]
    assert data.masks[2].shape == (3, 4)
    assert len(data.validation) == 0


def test_an_image_in_no_folder_is_refused(category):
    Image.new("RGB", (4, 3)).save(category / "test/loose.png")
    with pytest.raises(ValueError, match=r"loose\.png is in no folder"):
        load_folder(category)


def test_other_folder_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected MVTec AD's layout"):
        load_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load_folder(tmp_path / "nowhere")


def test_hidden_folders_are_no_kinds(category):
    for name in ("test/.ipynb_checkpoints/b", "test/__MACOSX/b", "train/good/.old/a"):
        save_image(category / f"{name}.png")
    data = load_folder(category)
    assert set(data.kinds) == {"good", "dent"}
    assert len(data.train) == 1


@pytest.mark.parametrize("name", ["Good", "GOOD", "OK", "ok", "normal", "good "])
def test_good_may_be_spelled_otherwise(category, name):
    for part in ("train", "test"):
        (category / part / "good").rename(category / part / name)
    data = load_folder(category)
    assert shown_by(data) == {"a.jpg": "good", "b.png": "dent", "c.png": "dent"}
    assert data.y.tolist().count(1) == 1
    save_image(category / "train/Normal/more.png")
    save_image(category / "test/good/more.png")  # next to the other folder
    data = load_folder(category)
    assert shown_by(data)["more.png"] == "good"
    assert len(data.train) == 2


@pytest.mark.parametrize("name", ["Ground_Truth", "ground truth", "groundtruth"])
def test_other_folders_may_be_spelled_otherwise(category, name):
    (category / "ground_truth").rename(category / name)
    (category / name / "dent").rename(category / name / "Dent ")
    (category / "train").rename(category / "Train")
    (category / "test").rename(category / "TEST")
    data = load_folder(category)
    assert data.masks.known.tolist() == [True, False, True]
    assert data.masks[0].sum() == 1


def test_a_mask_lies_in_the_same_folders_as_its_image(category):
    for camera in ("cam_a", "cam_b"):
        save_image(category / f"test/dent/{camera}/9.png")
    save_mask(category / "ground_truth/dent/cam_a/9_mask.png")
    data = load_folder(category)
    known = {path[-11:]: known for path, known in zip(data.test, data.masks.known)}
    assert known["cam_a/9.png"]
    assert not known["cam_b/9.png"]


def test_a_mask_of_two_images_is_refused(category):
    save_image(category / "test/dent/b.jpg")
    with pytest.raises(ValueError, match=r"b_mask\.png could belong to 2 .*b\.jpg"):
        load_folder(category)
    save_image(category / "test/dent/c.jpg")
    (category / "test/dent/b.jpg").unlink()
    assert len(load_folder(category).test) == 4  # without masks there is no ambiguity


def test_masks_in_any_format(category):
    mask = category / "ground_truth/dent/b_mask.png"
    with Image.open(mask) as image:
        image.save(mask.with_name("B_MASK.BMP"))
    mask.unlink()
    assert load_folder(category).masks[0].sum() == 1


def test_masks_without_an_image_are_told(category):
    save_mask(category / "ground_truth/dent/d.png")
    with pytest.warns(UserWarning, match=r"belong to no image: 1 .*d\.png"):
        load_folder(category)


def test_a_mask_may_be_named_like_its_image(category):
    save_mask(category / "ground_truth/dent/c.png")
    data = load_folder(category)
    assert data.masks.known.all()
    assert data.masks[1].sum() == 1
    save_mask(category / "ground_truth/dent/b.png")  # there is a b_mask.png
    with pytest.warns(UserWarning, match=r"belong to no image: 1 .*b\.png"):
        load_folder(category)


def test_flat_folders_are_lists_of_paths(tmp_path):
    for name in ("b.png", "a.JPG", "more/c.png", ".hidden.png"):
        save_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    X = load_images(str(tmp_path))
    found = [Path(path).relative_to(tmp_path).as_posix() for path in X]
    assert found == ["a.JPG", "b.png", "more/c.png"]
    assert X.dtype.kind == "U"


def test_what_is_no_flat_folder_is_explained(category, tmp_path):
    with pytest.raises(ValueError, match="load_folder reads"):
        load_images(category)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image; it is empty"):
        load_images(tmp_path / "empty")
    (tmp_path / "empty/notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"there are notes\.txt"):
        load_images(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_images(tmp_path / "nowhere")


def test_masks_of_good_images_are_not_looked_at(category):
    save_mask(category / "ground_truth/good/a_mask.png")
    data = load_folder(category)
    assert not data.masks[2].any()


def test_training_images_of_other_kinds_are_left_out_and_told(category):
    save_image(category / "train/dent/d.png")
    save_image(category / "train/loose.png")
    with pytest.warns(UserWarning, match=r"train, but in no .* 2 .*dent.d\.png"):
        assert len(load_folder(category).train) == 1


def test_no_good_test_image_is_told(category):
    (category / "test/good").rename(category / "test/perfect")
    with pytest.warns(UserWarning, match=r"is good; there are \['dent', 'perfect'\]"):
        assert load_folder(category).y.tolist() == [-1, -1, -1]


def test_good_below_a_kind_of_defect_is_refused(category):
    save_image(category / "test/cam_a/good/0.png")
    with pytest.raises(ValueError, match=r"cam_a.good.0\.png good, or a defect"):
        load_folder(category)


def test_one_file_cannot_be_good_and_defective(category):
    os.symlink("../good", category / "test/dent/more")
    with pytest.raises(ValueError, match=r"dent.more.a\.jpg is a defect and .*good"):
        load_folder(category)


def test_linked_folders_are_read(category, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (category / "test").rename(elsewhere / "test")
    os.symlink(elsewhere / "test", category / "test")
    os.symlink(category, elsewhere / "test/dent/round")  # a cycle
    assert len(load_folder(category).test) == 3


def test_a_defect_with_an_empty_mask_is_never_learned(category, tiny):
    Image.new("L", (4, 3)).save(category / "ground_truth/dent/b_mask.png")
    data = load_folder(category)
    rows = np.flatnonzero(data.masks.known)
    words = r"b\.png' is anomalous, but nothing is marked"
    with pytest.raises(ValueError, match=words):
        labels_of(data.masks[rows], len(rows))
    with pytest.raises(ValueError, match=words):
        DinoPatch(features=tiny).fit(data.test[rows], data.masks[rows])
