import gc

import pytest

import skdinoad
from skdinoad._compat.imports import uncollected
from skdinoad.persistence._graph import _find


@pytest.fixture(autouse=True)
def collecting():
    gc.unfreeze()
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_inside_and_all_is_as_before_after_it():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()


def test_a_caller_who_collects_himself_is_left_alone():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_what_a_caller_has_frozen_stays_so():
    gc.freeze()
    known = gc.get_freeze_count()
    with uncollected():
        pass
    assert known
    assert gc.get_freeze_count() == known


def test_garbage_made_inside_is_collected_later():
    class Node:
        alive = 0

        def __init__(self):
            self.me, Node.alive = self, Node.alive + 1

        def __del__(self):
            Node.alive -= 1

    with uncollected():
        Node()
    assert Node.alive == 1
    gc.collect()
    assert Node.alive == 0


def test_new_objects_are_old_afterwards():
    with uncollected():
        made = [[i] for i in range(10_000)]
    assert len(gc.get_objects(generation=0)) < len(made) / 10


@pytest.mark.parametrize("name", ["load", "metrics"])
def test_public_names_are_imported_so(monkeypatch, name):
    seen, real = [], skdinoad.import_module
    monkeypatch.delitem(vars(skdinoad), name, raising=False)
    monkeypatch.setattr(
        skdinoad, "import_module", lambda x: seen.append(gc.isenabled()) or real(x)
    )
    assert getattr(skdinoad, name) is not None
    assert seen == [False]


def test_so_are_the_classes_that_a_file_names(monkeypatch):
    seen, real = [], skdinoad.persistence._graph.importlib.import_module
    monkeypatch.setattr(
        "skdinoad.persistence._graph.importlib.import_module",
        lambda name: seen.append(gc.isenabled()) or real(name),
    )
    assert _find("skdinoad.detectors:DinoPatch") is skdinoad.DinoPatch
    assert seen == [False]
