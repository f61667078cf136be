import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_features
from PIL import Image

from skdinoad import DiskCache
from skdinoad.cli import main
from skdinoad.datasets import make_screws

COMMANDS = {"fit", "score", "serve", "tune", "compare", "inspect", "weights", "cache"}


def test_the_module_is_the_command():
    out = subprocess.run(
        [sys.executable, "-m", "skdinoad", "--help"], capture_output=True, text=True
    )
    assert out.returncode == 0
    for name in COMMANDS:
        assert f"    {name} " in out.stdout


def test_it_ends_without_looking_for_garbage():
    code = (
        "import atexit, gc, sys; sys.argv = ['skdinoad', 'score', 'no', 'no']; "
        "atexit.register(lambda: print(gc.get_freeze_count() > 0)); "
        "from skdinoad.__main__ import main; sys.exit(main())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 2
    assert out.stdout == "True\n"


def test_who_calls_the_command_ends_as_he_likes():
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count())); "
        "from skdinoad.cli import main; main(['score', 'no', 'no'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout == "0\n"


def test_the_installed_command_is_the_module():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert 'skdinoad = "skdinoad.__main__:main"' in project


def test_wrong_usage_has_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["score"])
    assert stop.value.code == 2
    assert main(["score", "no.joblib", "a.png"]) == 2
    assert "no.joblib" in capsys.readouterr().err


def documented():
    """Return the commands of the manual, in their order."""
    page = Path(__file__).parent.parent / "doc/command_line.rst"
    lines = [line.strip() for line in page.read_text().splitlines()]
    return [
        line[len("$ skdinoad ") :] for line in lines if line.startswith("$ skdinoad ")
    ]


@pytest.mark.usefixtures("tiny_default")
def test_every_documented_run_works(tmp_path, monkeypatch, capsys):
    parts = {
        "good": make_screws(12, size=96)[0],
        "more_good": make_screws(5, size=96, random_state=1)[0],
        "new": make_screws(2, size=96, random_state=2)[0],
        "bad": make_screws(3, size=96, defect="second_washer", random_state=3)[0],
        "line": [],
    }
    for name, images in parts.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    Image.fromarray(parts["good"][0]).save(tmp_path / "new/good_part.png")
    region = np.full((96, 96), 255, np.uint8)
    region[:20] = 0
    Image.fromarray(region).save(tmp_path / "roi.png")
    monkeypatch.chdir(tmp_path)
    tiny_features(cache=DiskCache("features", max_size="2GB")).transform(parts["good"])
    monkeypatch.setattr("skdinoad.cli._http.run", lambda *_: None)  # served: likewise
    runs = documented()
    assert {run.split()[0] for run in runs} == {*COMMANDS}
    for run in runs:
        arguments = shlex.split(run)
        if arguments[0] == "serve":  # the usual port may be taken
            arguments += ["--port", "0"]
        if arguments[0] != "weights":  # the packaged ones: a test of its own
            assert main(arguments) == 0, (run, capsys.readouterr().err)
    for name in ("report.html", "scores.csv", "maps", "regions.json", "tuned.skd"):
        assert (tmp_path / name).exists(), name
    assert not list((tmp_path / "features").rglob("*.npy"))  # the last run clears it


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "good", "-o", "m", "--traget-fpr", "0.1"], "mean --target-fpr?"),
        (["score", "m", "new", "--reprot=r.html"], "mean --report?"),
        (["tune", "m", "--good", "g", "--zzz"], "arguments: --zzz\n"),
        (["inspect", "m", "n"], "arguments: n\n"),
    ],
)
def test_a_misspelt_option_is_told_by_the_command_it_belongs_to(
    arguments, said, capsys
):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"usage: skdinoad {arguments[0]} ")
    assert said in errors
