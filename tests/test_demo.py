import sys

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone

from skdinoad import demo
from skdinoad.datasets import make_screws


@pytest.mark.real
def test_demo_on_a_folder(real_features, tmp_path, capsys):
    category = tmp_path / "screw"
    good, _ = make_screws(5, size=96, random_state=0)
    bad, masks = make_screws(2, size=96, defect="second_washer", random_state=1)
    parts = {
        "train/good": good[:4],
        "test/good": good[4:],
        "test/washer": bad,
        "ground_truth/washer": masks.astype(np.uint8) * 255,
    }
    for name, images in parts.items():
        (category / name).mkdir(parents=True)
        suffix = "_mask" if "truth" in name else ""
        for i, image in enumerate(images):
            Image.fromarray(image).save(category / name / f"{i}{suffix}.png")
    demo.main([str(category), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "Weights: " in printed
    assert "screw" in printed
    written = sorted(p.name for p in (tmp_path / "out/screw").iterdir())
    assert written[-2:] == ["model.joblib", "sheet.png"]
    assert len(written) == 5
    pipe = joblib.load(tmp_path / "out/screw/model.joblib")
    assert pipe.predict(bad).shape == (2,)


def test_texture_tiles_do_not_overlap():
    pytest.importorskip("skimage")
    data = demo.texture_crops("brick")
    flat = {
        tile.tobytes() for tile in np.concatenate([data.train, data.test[data.y == 1]])
    }
    assert len(flat) == 16
    assert [m.any() for m in data.masks] == (data.y == -1).tolist()


def test_all_parts_are_shown():
    pytest.importorskip("skimage")
    jobs = [*demo._jobs(None)]
    assert len(jobs) == 4
    for name, data, pipe in jobs:
        assert len(data.test) == len(data.y), name
        clone(pipe)


def test_without_scikit_image_the_rendered_parts_are_shown(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "skimage", None)  # importing it fails
    assert [name for name, _, _ in demo._jobs(None)] == ["screws-rendered"]
    printed = capsys.readouterr().out
    assert "brick, gravel, grass need scikit-image" in printed
    assert "pip install scikit-image" in printed


def test_screws_are_labelled():
    data = demo.screws()
    assert len(data.test) == len(data.y) == len(data.masks) == 20
    assert [m.any() for m in data.masks] == (data.y == -1).tolist()
