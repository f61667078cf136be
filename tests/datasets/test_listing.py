import os
import unicodedata
from pathlib import Path

import pytest

from skdinoad.datasets._listing import TRUTH, below, fold, is_good, list_images


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(root, *parts):
    return [path.as_posix() for path in list_images(root, *parts)]


@pytest.mark.parametrize(
    "litter",
    [
        "test/.ipynb_checkpoints/0-checkpoint.png",
        "test/good/.thumbnails/0.png",
        "test/good/._0.png",
        "test/__MACOSX/good/0.png",
        "test/@eaDir/0.png",
        "test/good/Thumbs/0.png",
        "test/good/Thumbs.db",
        "test/good/desktop.ini",
        "test/good/.DS_Store",
        "test/$RECYCLE.BIN/0.png",
    ],
)
def test_what_systems_leave_behind_does_not_count(tmp_path, litter):
    touch(tmp_path, "test/good/0.png", litter)
    assert names(tmp_path) == ["test/good/0.png"]


def test_the_folder_itself_may_lie_in_a_hidden_one(tmp_path):
    touch(tmp_path, ".cache/x/good/0.png")
    assert names(tmp_path / ".cache/x") == ["good/0.png"]


@pytest.mark.parametrize("suffix", ["png", "JPG", "jfif", "jp2", "pgm", "gif", "webp"])
def test_formats(tmp_path, suffix):
    touch(tmp_path, f"good/0.{suffix}")
    assert names(tmp_path) == [f"good/0.{suffix}"]


def test_files_left_out_are_counted_by_suffix(tmp_path):
    touch(tmp_path, "a/0.png", "a/1.heic", "a/2.HEIC", "a/3", "b/x.png")
    with pytest.warns(UserWarning, match=r"2 \.heic, 1 without a suffix \(a/1\.heic"):
        assert names(tmp_path) == ["a/0.png", "b/x.png"]
    assert names(tmp_path, "b") == ["b/x.png"]  # other folders are not reported


def test_notes_beside_images_are_nothing_special(tmp_path):
    touch(tmp_path, "a/0.png", "a/0.txt", "a/0.json", "a/README.md")
    assert names(tmp_path) == ["a/0.png"]


def test_folders_without_images_are_told(tmp_path):
    touch(tmp_path, "test/good/0.png", "test/crack/notes.txt")
    (tmp_path / "ground_truth/good").mkdir(parents=True)  # usually intentional
    with pytest.warns(UserWarning, match="hold no image: test/crack"):
        names(tmp_path)


def test_links_are_followed(tmp_path):
    touch(tmp_path, "elsewhere/0.png", "elsewhere/in/1.png", "x/test/good/a.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "x/test/dent")
    os.symlink(tmp_path / "elsewhere/0.png", tmp_path / "x/test/good/b.png")
    found = ["dent/0.png", "dent/in/1.png", "good/a.png", "good/b.png"]
    assert names(tmp_path / "x/test") == found


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_in_a_circle_lead_to_nothing_new(tmp_path, target):
    touch(tmp_path, "test/dent/0.png", "train/good/1.png")
    os.symlink(target, tmp_path / "test/dent/again")
    assert names(tmp_path, "test") == ["test/dent/0.png"]


@pytest.mark.parametrize("name", ["test/dent/1.png", "test/hole"])
@pytest.mark.parametrize("target", ["nowhere", None])
def test_links_to_nothing_are_named(tmp_path, name, target):
    touch(tmp_path, "test/dent/0.png")
    os.symlink(target or tmp_path / name, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=name):
        names(tmp_path)


def test_pipes_are_named(tmp_path):
    touch(tmp_path, "test/dent/0.png")
    os.mkfifo(tmp_path / "test/dent/1.png")
    with pytest.raises(FileNotFoundError, match=r"dent/1\.png is neither"):
        names(tmp_path)


def test_a_folder_called_like_an_image_is_none(tmp_path):
    touch(tmp_path, "good/0.png", "good/1.png/2.jpg")
    assert names(tmp_path) == ["good/0.png", "good/1.png/2.jpg"]


def test_no_folder(tmp_path):
    touch(tmp_path, "file")
    for name in ("file", "missing"):
        with pytest.raises(FileNotFoundError, match=f"{name} is not a folder"):
            list_images(tmp_path / name)


def test_names_count_without_case_and_spaces():
    accent = "Ü/x"
    assert fold(unicodedata.normalize("NFD", accent)) == fold(accent) == "ü/x"
    assert [is_good(x) for x in ("GOOD ", "Ok", "normal", "goods")] == [1, 1, 1, 0]
    paths = [Path("Ground Truth/a/0.png"), Path("groundtruth/1.png"), Path("GOOD/2")]
    assert [p.as_posix() for p in below(paths, TRUTH).values()] == ["a/0.png", "1.png"]
    assert not below([Path("good")], "good")  # a file, not a folder
