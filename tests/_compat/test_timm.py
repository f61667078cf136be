import subprocess
import sys

import pytest

from skdinoad._compat.timm import timm


def test_timm_is_there():
    assert timm.is_model("vit_small_patch14_dinov2.lvd142m")


def test_import_works_beside_a_torchvision_built_for_another_torch():
    """Simulate a broken torchvision: the first import of timm fails."""
    whole = subprocess.run([sys.executable, "-c", "import torchvision"], check=False)
    if whole.returncode == 0:
        pytest.skip("torchvision fits torch here, and defines its operators itself")
    script = """
import sys, builtins
failed, real = [], builtins.__import__
def first_fails(name, *args, **kwargs):
    if name == "timm" and not failed:
        failed.append(name)
        raise RuntimeError("operator torchvision::nms does not exist")
    return real(name, *args, **kwargs)
import torch
has = hasattr(torch.ops.torchvision, "nms")
builtins.__import__ = first_fails
try:
    import skdinoad._compat.timm as door
except RuntimeError as error:  # a working torchvision defines the operators itself
    assert has, error
else:
    assert failed and door.timm.__version__
print("ok")
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.stdout.strip() == "ok", out.stderr


def test_another_error_is_not_swallowed():
    script = """
import builtins
real = builtins.__import__
def fails(name, *args, **kwargs):
    if name == "timm":
        raise RuntimeError("something else")
    return real(name, *args, **kwargs)
builtins.__import__ = fails
import skdinoad._compat.timm
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode
    assert "something else" in out.stderr
