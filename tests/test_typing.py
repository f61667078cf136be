"""Types of the public names; what mypy makes of them: make lint, tests/try_types.py."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from sklearn.base import BaseEstimator

import skdinoad

ROOT = Path(skdinoad.__file__).parent


def public():
    """Return {name: object} of all that the reference lists."""
    text = (ROOT.parent / "doc" / "api.rst").read_text()
    names = [f"skdinoad.{name}" for name in re.findall(r"^   (\S+)$", text, re.M)]
    places = [name.rpartition(".") for name in names]
    return {name: getattr(import_module(place), name) for place, _, name in places}


def functions():
    """Yield (name, function) of public functions, constructors, methods, properties."""
    for name, item in public().items():
        if not inspect.isclass(item):
            yield name, item
            continue
        for cls in item.__mro__:
            for part, found in vars(cls).items():
                if _is_ours(cls) and (part == "__init__" or not part.startswith("_")):
                    yield from ((f"{cls.__name__}.{part}", f) for f in _behind(found))


def _is_ours(cls):
    return cls.__module__.startswith("skdinoad")


def _behind(found):
    """Return the functions of a method, class method, property or available_if."""
    if isinstance(found, property):
        return [f for f in (found.fget, found.fset) if f]
    found = getattr(found, "fn", getattr(found, "__func__", found))
    return [found] if inspect.isfunction(found) else []


def signatures():
    return {name: inspect.signature(f) for name, f in functions()}


def test_the_list_of_functions_is_no_empty_one():
    named = {name for name, _ in functions()}
    assert {
        "AnomalyDINO.from_paper",  # a class method
        "BaseDetector.fit",  # inherited from one of ours
        "Dinomaly.__init__",
        "Extractor.images_at_once",  # a property
        "Pipeline.predict_map",  # there in some Pipelines alone
        "find_regions",
    } <= named


def test_every_public_function_says_its_types():
    bare = []
    for name, signature in signatures().items():
        parameters = signature.parameters.values()
        own = [p.name for p in parameters if p.annotation is p.empty]
        bare += [f"{name}({p})" for p in own if p not in ("self", "cls")]
        if signature.return_annotation is signature.empty:
            bare.append(f"{name} -> ")
    assert not bare


def test_types_can_be_looked_up_while_running():
    for _, function in functions():
        get_type_hints(inspect.unwrap(function))  # or the name that is missing


def options(hint):
    """Return the strings that a type names, at any depth of its unions."""
    if get_origin(hint) is Literal:
        return {value for value in get_args(hint) if isinstance(value, str)}
    return set().union(*map(options, get_args(hint)))


def estimators():
    return [
        item
        for item in public().values()
        if inspect.isclass(item)
        and issubclass(item, BaseEstimator)
        and hasattr(item, "_parameter_constraints")
        and "__init__" in vars(item)
    ]


@pytest.mark.parametrize("estimator", estimators(), ids=lambda item: item.__name__)
def test_types_name_the_words_that_fit_takes(estimator):
    hints = get_type_hints(estimator.__init__)
    for name, constraints in estimator._parameter_constraints.items():
        if not isinstance(constraints, list) or name not in hints:
            continue
        words = [getattr(c, "options", ()) for c in constraints]
        words = {word for some in words for word in some if isinstance(word, str)}
        assert options(hints[name]) == words, (estimator.__name__, name)
        takes_none = None in constraints or "random_state" in constraints
        assert (type(None) in get_args(hints[name])) == takes_none, name


def test_what_mypy_sees_of_the_package_is_what_there_is():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.name, alias.asname)
        for node in block.body
        for alias in node.names
    }
    modules = {("skdinoad", name, name) for name in skdinoad._MODULES}
    assert seen == modules | {
        (f"skdinoad.{place}", name, name) for name, place in skdinoad._PLACES.items()
    }


def test_the_package_says_that_it_has_types():
    assert (ROOT / "py.typed").is_file()
