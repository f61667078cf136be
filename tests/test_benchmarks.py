"""Benchmarks, small: the table of all methods on rendered screws, and the long run."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from skdinoad.datasets import make_screws

TABLE = Path(__file__).parent.parent / "benchmarks" / "table.py"


def write_category(folder):
    """Write a category in MVTec AD's layout."""
    bad, masks = make_screws(3, defect="second_washer", size=128, random_state=2)
    parts = {
        "train/good": make_screws(5, size=128)[0],
        "test/good": make_screws(3, size=128, random_state=1)[0],
        "test/washer": bad,
        "ground_truth/washer": masks,
    }
    for name, images in parts.items():
        (folder / name).mkdir(parents=True)
        ending = "_mask.png" if "truth" in name else ".png"
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i}{ending}")


def run(*arguments):
    out = subprocess.run(
        [sys.executable, TABLE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "SKDINOAD_OFFLINE": "1"},
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.mark.real
def test_table_is_filled_and_resumed(tmp_path, real_features, real_cnn):
    for name in ("screws", "bolts"):
        write_category(tmp_path / "data" / name)
    path = tmp_path / "out" / "table.csv"
    methods = ["DFR linear", "DFR vit linear"]
    arguments = ("--root", tmp_path / "data", "--results", path, "--methods")
    run(*arguments, methods[0])
    before = path.read_text()
    printed = run(*arguments, *methods, "--seeds", 42, 43)
    assert path.read_text().startswith(before)  # what was there is not run again
    assert path.read_text().count("\n") == 1 + 4  # nothing is drawn: one seed
    tables = printed.split("\n\n")[1:4]
    for table, figure in zip(tables, ("image AUROC", "pixel AUROC", "pixel F1-max")):
        header, _, *rows = [line.strip("| ").split(" | ") for line in table.split("\n")]
        assert header == [figure, "bolts", "screws", "mean"]
        assert [row[0] for row in rows] == methods
        assert all(0 <= float(x) <= 1 for row in rows for x in row[1:])
    known = json.loads(path.with_suffix(".json").read_text())
    assert {"device", "threads", "torch"} <= set(known["environment"])
    assert len(known["rows"]) == 4
    for row in known["rows"]:
        assert row["fit s"] > 0 < row["score ms"]


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(TABLE.parent)
    return importlib.import_module("soak")


def test_soak_notes_memory_at_each_mark(soak, tmp_path):
    rows = list(soak.soak(tmp_path, 20))
    assert [row[:2] for row in rows] == [
        ("score_command", "nowhere"),
        ("score_samples", "nowhere"),
        ("score_command", "folder"),
        ("score_samples", "folder"),
    ]
    assert all(len(mib) == 3 and min(mib) > 10 for *_, mib in rows)
    turned = 8 * 8  # images of fit in each rotation
    assert len(list((tmp_path / "kept").rglob("*.npy"))) == turned + 20


@pytest.mark.parametrize(("allowed", "status"), [("1000", 0), ("-1", 1)])
def test_soak_fails_where_memory_grows(soak, monkeypatch, capsys, allowed, status):
    arguments = ["soak.py", "--images", "10", "--allowed", allowed]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        soak.main()
    assert int(stop.value.code) == status
    assert "score_samples" in capsys.readouterr().out


def test_every_protection_to_take_away_is_there(monkeypatch):
    monkeypatch.syspath_prepend(TABLE.parent)
    mutations = importlib.import_module("mutations")
    for name, old, new, tests in mutations.MUTATIONS:
        text = (mutations.ROOT / "skdinoad" / name).read_text()
        assert text.count(old) == 1, (name, old)
        compile(text.replace(old, new), name, "exec")
        files = [word for word in tests.split() if word.startswith("tests/")]
        assert all((mutations.ROOT / file).is_file() for file in files)


def test_a_protection_without_a_test_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TABLE.parent)
    mutations = importlib.import_module("mutations")
    (tmp_path / "skdinoad").mkdir()
    (tmp_path / "skdinoad/a.py").write_text("LIMIT = 3\n")
    for name, expected in (("seen", "LIMIT == 3"), ("unseen", "LIMIT")):
        code = f"from skdinoad.a import LIMIT\n\n\ndef test():\n    assert {expected}\n"
        (tmp_path / f"test_{name}.py").write_text(code)
    said = [
        mutations.told(tmp_path, "a.py", "3", "4", f"test_{name}.py")
        for name in ("seen", "unseen")
    ]
    assert said == ["fails", "SAYS NOTHING"]
    assert (tmp_path / "skdinoad/a.py").read_text() == "LIMIT = 3\n"
