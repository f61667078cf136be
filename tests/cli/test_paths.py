import io

import joblib
import numpy as np
import pytest
from PIL import Image

from skdinoad import DinoPatch, save
from skdinoad.cli._paths import good_images, images_of, load_model


@pytest.fixture
def folder(tmp_path):
    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
        return tmp_path

    return write


def test_flat_folders_and_mvtec_layout_both_hold_good_images(folder):
    root = folder("flat/a.png", "flat/b.png", "mvtec/train/good/c.png")
    folder("mvtec/test/hole/d.png", "named/good/e.png", "named/bad/f.png")
    assert [p.rsplit("/")[-1] for p in good_images(root / "flat")] == ["a.png", "b.png"]
    assert [p[-5:] for p in good_images(root / "mvtec")] == ["c.png"]
    assert [p[-5:] for p in good_images(root / "named")] == ["e.png"]


def test_folders_that_are_no_good_images_are_refused(folder, tmp_path):
    root = folder("only/test/good/a.png")
    with pytest.raises(ValueError, match="no train/good"):
        good_images(root / "only")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image to learn from"):
        good_images(tmp_path / "empty")


def test_files_folders_patterns_and_lists_name_images(folder, monkeypatch):
    root = folder("new/a.png", "new/b.png", "other/c.png")
    a, b, c = (str(root / name) for name in ("new/a.png", "new/b.png", "other/c.png"))
    assert images_of([a, str(root / "new")]) == [a, b]
    assert images_of([str(root / "*/*.png")]) == [a, b, c]
    (root / "list.txt").write_text(f"{c}\n\n{a}\n")
    assert images_of([f"@{root / 'list.txt'}"]) == [c, a]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{b}\n"))
    assert images_of(["-"]) == [b]
    assert images_of(["no.png"]) == ["no.png"]  # later a row with the reason
    with pytest.raises(FileNotFoundError, match="holds or matches no image"):
        images_of([str(root / "*.jpg")])


def test_files_that_are_no_models_are_refused(tmp_path):
    path = tmp_path / "m"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_model(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a model file of skdinoad"):
        load_model(path)
    joblib.dump(DinoPatch(), path)  # could execute code
    with pytest.raises(ValueError, match=r"joblib\.load"):
        load_model(path)
    save({"a": 1}, path)
    with pytest.raises(ValueError, match="holds a dict, not a detector"):
        load_model(path)
