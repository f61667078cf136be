"""The package's top: what it names, and when it is loaded."""

import subprocess
import sys

import pytest

import skdinoad


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, skdinoad; "
        "heavy = {'torch', 'timm', 'cv2', 'sklearn', 'scipy', 'matplotlib', 'numpy'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


def test_every_public_name_is_there():
    assert set(skdinoad.__all__) <= set(dir(skdinoad))
    for name in skdinoad.__all__:
        assert getattr(skdinoad, name) is not None
    for name in skdinoad._MODULES:
        assert getattr(skdinoad, name).__name__ == f"skdinoad.{name}"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = skdinoad.Nothing
