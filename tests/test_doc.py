"""The documentation: complete, and true where a test can tell."""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_features
from PIL import Image

import skdinoad
from skdinoad import (
    datasets,
    metrics,
    model_selection,
    monitoring,
    plotting,
    report,
    scale,
    serve,
)
from skdinoad.testing import checks_for, make_images

DOC = Path(skdinoad.__file__).parent.parent / "doc"
SOURCES = sorted((DOC.parent / "skdinoad").rglob("*.py"))


def public():
    """Return {name as the reference has it: object}."""
    out = {name: getattr(skdinoad, name) for name in skdinoad.__all__}
    modules = (datasets, metrics, model_selection, monitoring, plotting, report)
    for module in (*modules, scale, serve):
        short = module.__name__.removeprefix("skdinoad.")
        names = [name for name in module.__all__ if name not in out]
        out.update({f"{short}.{name}": getattr(module, name) for name in names})
    return {name: item for name, item in out.items() if callable(item)}


def test_the_reference_lists_everything_public():
    listed = set(re.findall(r"^   (\S+)$", (DOC / "api.rst").read_text(), re.M))
    assert sorted(set(public()) - listed) == []


def test_every_public_method_is_shown_and_has_a_text():
    template = (DOC / "_templates/autosummary/class.rst").read_text()
    assert ":inherited-members:" in template
    bare = [
        f"{name}.{method}"
        for name, item in public().items()
        if inspect.isclass(item)
        for method, function in inspect.getmembers(item, inspect.isroutine)
        if not method.startswith("_") and not inspect.getdoc(function)
    ]
    assert not bare


def test_every_page_is_in_the_contents():
    contents = (DOC / "index.rst").read_text()
    pages = {path.stem for path in DOC.glob("*.rst")} - {"index"}
    missing = [page for page in pages if f"\n   {page}\n" not in contents]
    assert sorted(set(missing) - {"sg_execution_times"}) == []


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    text = (DOC / "troubleshooting.rst").read_text()
    messages = re.findall(r"^``([^`]+)``$", text, re.M)
    code = "\n".join(path.read_text() for path in SOURCES)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    assert len(messages) > 12
    assert [message for message in messages if message not in code] == []


def own_detector():
    path = DOC / "own_detector.py"
    spec = importlib.util.spec_from_file_location("own_detector", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle looks for the class
    spec.loader.exec_module(module)
    return module.MeanDetector


@pytest.mark.parametrize(
    "check", checks_for(own_detector()()), ids=lambda check: check.__name__
)
def test_the_detector_to_copy_passes_the_common_checks(check):
    check(own_detector()(features=tiny_features()))


@pytest.mark.real
def test_quick_start_runs_as_it_stands(real_features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    region = np.full((256, 256), 255, np.uint8)
    region[:20] = 0
    Image.fromarray(region).save("roi.png")
    text = (DOC / "quick_start.rst").read_text()
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text)
    scope = {}
    for block in blocks:
        exec(inspect.cleandoc("\n" + block), scope)
    assert len(blocks) >= 6
    assert (scope["pipe"].predict(scope["X_new"]) == -1).all()
    assert len(list(Path("maps").iterdir())) == 3
    assert Path("screws.skd").is_file()
    scope["roi"].fit(make_images(3, size=(256, 256)))
