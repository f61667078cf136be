"""Imports run downwards only; siblings never import each other."""

import ast
from pathlib import Path

import skdinoad
from skdinoad import detectors

ROOT = Path(skdinoad.__file__).parent

#: Lowest layer first. A module may import from layers below, and its own package.
LAYERS = [
    {"_typing"},
    {"_compat", "_inputs", "networks", "regions"},
    {"_arrays", "_neighbors"},
    {"base", "datasets"},
    {"_training", "features"},
    {"alignment"},
    {"detectors"},
    {"pipeline"},
    {"metrics"},
    {"model_selection"},
    {"monitoring", "plotting", "persistence", "testing", "verdicts"},
    {"report", "scale"},
    {"serve"},
    {"cli", "demo"},
    {"__main__"},
]

#: Modules that hold a detector each, and know nothing of each other.
SIBLINGS = {
    item.__module__.split(".")[-1]
    for item in vars(detectors).values()
    if isinstance(item, type)
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


def test_files_stay_readable():
    for path in modules():
        code = ast.parse(path.read_text())
        docstrings = sum(
            len(ast.get_docstring(node, clean=False).splitlines())
            for node in ast.walk(code)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node)
        )
        assert len(path.read_text().splitlines()) - docstrings <= 400, path


def test_the_root_shows_what_users_import_and_folders():
    """The listing explains the architecture; a new room needs a reason."""
    found = {p.name for p in ROOT.iterdir() if p.name != "__pycache__"}
    modules = ("base", "monitoring", "pipeline", "plotting", "regions", "testing")
    names = ("__init__", "__main__", "demo", "report", "scale", "verdicts", *modules)
    files = {f"{name}.py" for name in names}
    types = {"_typing.py", "py.typed"}
    users = {"alignment", "features", "detectors", "model_selection", "metrics"}
    private = {"_inputs", "_arrays", "_training", "_neighbors", "_compat"}
    assert found == files | types | users | private | {
        "cli",
        "datasets",
        "networks",
        "persistence",
        "serve",
    }
