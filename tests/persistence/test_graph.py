from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.utils import Bunch

from skdinoad import DinoPatch
from skdinoad.metrics import recall_at_fpr_scorer
from skdinoad.persistence._graph import _find, decode, encode


def there_and_back(item):
    arrays = []
    return decode(encode(item, arrays), arrays)


@pytest.mark.parametrize(
    "item",
    [
        None,
        True,
        3,
        -0.1,
        float("inf"),
        "text",
        b"bytes",
        (1, (2, "x")),
        [1, [2.5, None]],
        {"a": 1, 2: (3,)},
        {1, 2},
        frozenset({"a"}),
        np.float32(1.5),
        np.dtype("<f4"),
    ],
    ids=repr,
)
def test_plain_data_come_back_as_they_were(item):
    found = there_and_back(item)
    assert type(found) is type(item)
    assert found == item


def test_arrays_come_back_and_stay_one_where_they_were_one():
    shared = np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::-1]
    found = there_and_back({"a": shared, "b": [shared], "n": np.array(["x", "yz"])})
    assert np.array_equal(found["a"], shared)
    assert found["a"].dtype == np.int16
    assert found["b"][0] is found["a"]
    assert found["n"].tolist() == ["x", "yz"]
    objects = np.array([{"a": 1}, None], dtype=object)
    assert there_and_back(objects).tolist() == [{"a": 1}, None]
    masked = np.ma.MaskedArray([1, 2], mask=[False, True])
    assert there_and_back(masked).tolist() == [1, None]


def test_objects_come_back_and_stay_one_where_they_were_one():
    pca = PCA(2).fit(np.eye(4))
    found = there_and_back(Bunch(a=pca, b=[pca], c=Path("x/y")))
    assert isinstance(found, Bunch)
    assert found.b[0] is found.a
    assert np.array_equal(found.a.transform(np.eye(4)), pca.transform(np.eye(4)))
    assert found.c == "x/y"
    state = np.random.RandomState(3)
    again = there_and_back(state)
    assert state.randint(1000) == again.randint(1000)


def test_functions_are_names():
    scorer = partial(recall_at_fpr_scorer, fpr=0.1)
    found = there_and_back(scorer)
    assert found.func is recall_at_fpr_scorer
    assert found.keywords == {"fpr": 0.1}
    assert there_and_back(DinoPatch) is DinoPatch


@pytest.mark.parametrize(
    "item", [lambda x: x, print, Path, open, np.random.default_rng(0), 1j, pytest]
)
def test_what_is_foreign_is_not_saved(item):
    with pytest.raises((TypeError, ValueError)):
        encode(item, [])


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "skdinoad.persistence._dump:os.system",
        "skdinoad.persistence._dump:os",
        "sklearn.utils:np",
        "sklearn:nothing",
        "skdinoad.no_module:X",
        "sklearn.externals.joblib:load",
        "skdinoad.persistence._dump:joblib.load",
        "",
    ],
)
def test_files_name_nothing_foreign(name):
    with pytest.raises(ValueError):  # noqa: PT011 - each says it in its own words
        decode({"$": "named", "name": name}, [])
    data = {"$": "object", "class": name, "number": "object 1", "state": {}}
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data, [])


@pytest.mark.parametrize(
    "name", ["skdinoad.base:np.ndarray", "sklearn.base:np.ndarray"]
)
def test_an_alias_of_something_foreign_is_not_found(name):
    with pytest.raises(ValueError, match="not a class or function of"):
        _find(name)


def test_foreign_modules_are_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "foreign_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="neither of skdinoad nor"):
        decode({"$": "named", "name": "foreign_module:x"}, [])


@pytest.mark.parametrize(
    "data",
    [
        {"$": "array", "number": 5},
        {"$": "array", "number": -1},
        {"$": "call"},
        {"a": 1},
        {
            "$": "object",
            "class": "sklearn.tree._tree:Tree",
            "number": "object 1",
            "state": {"$": "dict", "items": []},
        },
        {
            "$": "object",
            "class": "sklearn.metrics:roc_auc_score",
            "number": "object 1",
            "state": {},
        },
    ],
)
def test_data_that_are_none_are_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data, [])
