"""Imports run downwards only; siblings never import each other."""

import ast
from pathlib import Path

import skdinoad
from skdinoad import detectors

ROOT = Path(skdinoad.__file__).parent

#: Lowest layer first. A module may import from layers below, and its own package.
LAYERS = [
    {"_typing", "_version"},
    {"_compat"},
    {"_inputs", "networks", "regions"},
    {"_arrays", "_neighbors", "banks", "training"},
    {"base", "datasets"},
    {"_training", "features"},
    {"alignment"},
    {"detectors"},
    {"pipeline"},
    {"verdicts"},
    {"results"},
    {"metrics"},
    {"model_selection"},
    {"monitoring", "plotting", "persistence", "testing"},
    {"report", "scale"},
    {"serve"},
    {"cli", "demo"},
    {"__main__"},
]

#: Modules that hold a detector each, and know nothing of each other.
SIBLINGS = {
    item.__module__.split(".")[-1]
    for item in vars(detectors).values()
    if isinstance(item, type) and hasattr(item, "fit")
}


def layer_of(name):
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imports(path):
    """Return the skdinoad modules that a file imports, as parts of their names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "skdinoad":
                names = [_home(alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n.split(".")[1:] for n in names if n.startswith("skdinoad."))


def _home(name):
    """Return the module of a name imported from the package's top."""
    item = getattr(skdinoad, name)
    return getattr(item, "__module__", f"skdinoad.{name}")


def modules():
    return [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"]


def test_imports_run_downwards():
    wrong = []
    for path in modules():
        own = path.relative_to(ROOT).with_suffix("").parts
        for target in imports(path):
            same_package = len(own) > 1 and own[0] == target[0]
            if not same_package and layer_of(target[0]) >= layer_of(own[0]):
                wrong.append(f"{'.'.join(own)} imports {'.'.join(target)}")
    assert not wrong


def test_detectors_do_not_import_each_other():
    wrong = [
        path
        for path in modules()
        for target in imports(path)
        if path.parent.name == "detectors"
        and path.stem != "__init__"
        and target[0] == "detectors"
        and target[-1] in SIBLINGS
    ]
    assert not wrong


def test_only_the_doors_import_timm_and_private_scikit_learn():
    for path in modules():
        text = path.read_text()
        if path != ROOT / "_compat" / "timm.py":
            text = text.replace("skdinoad._compat.timm import timm", "")
            assert "import timm" not in text, path
        if path != ROOT / "_compat" / "sklearn.py":
            private = [
                x for x in text.splitlines() if "sklearn" in x and "import _" in x
            ]
            assert not private, path
            assert "sklearn.utils._" not in text, path


def test_every_module_has_its_test_file():
    tests = Path(__file__).parent
    for path in modules():
        if path.stem == "__init__":
            continue
        folder = tests / path.relative_to(ROOT).parent
        assert (folder / f"test_{path.stem.lstrip('_')}.py").is_file(), path
