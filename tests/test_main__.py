import subprocess
import sys

import pytest

from skdinoad.cli import main


def test_the_module_is_the_command():
    out = subprocess.run(
        [sys.executable, "-m", "skdinoad", "--help"], capture_output=True, text=True
    )
    assert out.returncode == 0
    for name in ("fit", "score", "tune", "compare", "inspect", "weights"):
        assert f"    {name} " in out.stdout


def test_wrong_usage_has_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["score"])
    assert stop.value.code == 2
    assert main(["score", "no.joblib", "a.png"]) == 2
    assert "no.joblib" in capsys.readouterr().err
