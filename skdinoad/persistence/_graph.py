"""Encode estimators as plain data and arrays, and decode them without running code."""

import importlib
from functools import partial
from inspect import isclass, isfunction
from pathlib import PurePath
from types import FunctionType

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

from skdinoad._compat.imports import uncollected

__all__ = ["decode", "encode"]

#: Packages whose classes and functions a file may name; from scikit-learn only
#: estimators, splitters and scorers.
_OURS, _THEIRS = "skdinoad", "sklearn"

#: Modules whose functions a file may name. Estimators call functions passed as
#: parameters, so none of these functions may read or write files or run code.
_PURE = (
    *("skdinoad.metrics", "sklearn.metrics"),
    *("sklearn.feature_selection", "sklearn.preprocessing"),
)

_PLAIN = (type(None), bool, int, float, str)


def encode(item, arrays):
    """Encode an object as JSON-compatible data.

    Parameters
    ----------
    item : object
        An estimator, or an attribute value of one.
    arrays : list
        Arrays found in the object are appended; the data refer to them by number.

    Raises
    ------
    TypeError
        If a part of it is neither plain data nor an object of skdinoad nor an estimator
        of scikit-learn.
    """
    return _Encoder(arrays).encode(item)


def decode(data, arrays):
    """Decode data made by :func:`encode`.

    Raises
    ------
    ValueError
        If the data are invalid or name a class or function that is not allowed.
    """
    return _Decoder(arrays).decode(data)


class _Encoder:
    def __init__(self, arrays):
        self.arrays, self.known, self.kept = arrays, {}, []

    def encode(self, item):
        if isinstance(item, _PLAIN) and type(item) in _PLAIN:
            return item
        for kinds, name in _KINDS:
            if isinstance(item, kinds):
                return getattr(self, name)(item)
        return self._object(item)

    def _list(self, item):
        return [self.encode(part) for part in item]

    def _tuple(self, item):
        if type(item) is not tuple:
            raise TypeError(f"a {type(item).__name__} cannot be saved: {item!r:.80}")
        return {"$": "tuple", "items": self._list(item)}

    def _set(self, item):
        kind = "frozenset" if isinstance(item, frozenset) else "set"
        return {"$": kind, "items": self._list(sorted(item, key=repr))}

    def _dict(self, item):
        kind = "bunch" if isinstance(item, Bunch) else "dict"
        return {"$": kind, "items": [self._list(pair) for pair in item.items()]}

    def _bytes(self, item):
        return {**self._array(np.frombuffer(item, np.uint8)), "$": "bytes"}

    def _scalar(self, item):
        return {**self._array(np.array(item)), "$": "scalar"}

    def _array(self, item):
        if item.dtype.kind == "O":
            shape = list(item.shape)
            return {"$": "objects", "shape": shape, "items": self._list(item.ravel())}
        if id(item) not in self.known:
            self.kept.append(item)  # keeps its id from being reused
            self.known[id(item)] = len(self.arrays)
            # Memory order is kept: it affects the last bit of matrix products.
            self.arrays.append(_packed(item))
        return {"$": "array", "number": self.known[id(item)]}

    def _masked(self, item):
        parts = self._list([item.data, np.ma.getmaskarray(item)])
        return {"$": "masked", "items": parts}

    def _random(self, item):
        return {"$": "random", "state": self.encode(item.get_state(legacy=False))}

    def _dtype(self, item):
        return {"$": "dtype", "name": item.str}

    def _path(self, item):
        return str(item)

    def _partial(self, item):
        parts = self.encode([item.func, list(item.args), item.keywords])
        return {"$": "partial", "items": parts}

    def _named(self, item):
        name = f"{item.__module__}:{item.__qualname__}"
        try:
            same = _found_name(name) is item
        except ValueError:
            same = False
        if not same:
            raise TypeError(
                f"{name} cannot be saved: only metrics and estimators of skdinoad and "
                "scikit-learn can. joblib.dump supports any object."
            )
        return {"$": "named", "name": name}

    def _object(self, item):
        if id(item) in self.known:
            return {"$": "again", "number": self.known[id(item)]}
        name = f"{type(item).__module__}:{type(item).__qualname__}"
        if not _may_be_made(type(item)):
            raise TypeError(
                f"{name} cannot be saved: only objects of skdinoad and estimators of "
                "scikit-learn can. joblib.dump supports any object."
            )
        self.kept.append(item)
        number = self.known[id(item)] = f"object {len(self.kept)}"
        state = item.__getstate__() if hasattr(item, "__getstate__") else vars(item)
        if isinstance(state, dict):  # callbacks are needed only during fit
            state = {k: v for k, v in state.items() if k != "_skl_callbacks"}
        data = {"$": "object", "class": name, "number": number}
        return {**data, "state": self.encode(state)}


_KINDS = [
    (np.ma.MaskedArray, "_masked"),
    (np.ndarray, "_array"),
    ((FunctionType, type), "_named"),
    (np.generic, "_scalar"),
    (np.random.RandomState, "_random"),
    (np.dtype, "_dtype"),
    (PurePath, "_path"),
    (bytes, "_bytes"),
    (tuple, "_tuple"),
    (list, "_list"),
    ((set, frozenset), "_set"),
    (dict, "_dict"),
    (partial, "_partial"),
]


class _Decoder:
    def __init__(self, arrays):
        self.arrays, self.known = arrays, {}

    def decode(self, data):
        if isinstance(data, _PLAIN):
            return data
        if isinstance(data, list):
            return [self.decode(part) for part in data]
        if not isinstance(data, dict) or data.get("$") not in _MAKERS:
            raise ValueError(f"unknown data {str(data)[:80]!r}")
        return _MAKERS[data["$"]](self, data)

    def _items(self, data):
        return self.decode(list(data["items"]))

    def _array(self, data):
        number = data["number"]
        if not isinstance(number, int) or not 0 <= number < len(self.arrays):
            raise ValueError(f"there is no array number {number!r}")
        return self.arrays[number]

    def _objects(self, data):
        items, shape = self._items(data), tuple(data["shape"])
        out = np.empty(len(items), dtype=object)
        out[:] = items
        return out.reshape(shape)

    def _random(self, data):
        out = np.random.RandomState()
        out.set_state(self.decode(data["state"]))
        return out

    def _named(self, data):
        return _found_name(data["name"])

    def _again(self, data):
        return self.known[data["number"]]

    def _object(self, data):
        cls = _find(data["class"])
        if not isclass(cls) or not _may_be_made(cls):
            raise ValueError(f"{data['class']!r} is not an allowed class")
        out = self.known[data["number"]] = cls.__new__(cls)
        state = self.decode(data["state"])
        if not isinstance(state, dict):
            raise ValueError(f"{data['class']!r} has no state")
        if hasattr(out, "__setstate__"):
            out.__setstate__(state)
        else:
            vars(out).update(state)
        return out


_MAKERS = {
    "array": _Decoder._array,
    "scalar": lambda self, data: self._array(data)[()],
    "bytes": lambda self, data: self._array(data).tobytes(),
    "objects": _Decoder._objects,
    "tuple": lambda self, data: tuple(self._items(data)),
    "set": lambda self, data: set(self._items(data)),
    "frozenset": lambda self, data: frozenset(self._items(data)),
    "dict": lambda self, data: dict(map(tuple, self._items(data))),
    "bunch": lambda self, data: Bunch(**dict(map(tuple, self._items(data)))),
    "masked": lambda self, data: np.ma.MaskedArray(*self._items(data)),
    "random": _Decoder._random,
    "dtype": lambda self, data: np.dtype(str(data["name"])),
    "partial": lambda self, data: _partial(*self._items(data)),
    "named": _Decoder._named,
    "again": _Decoder._again,
    "object": _Decoder._object,
}


def _packed(array):
    """Return a contiguous array, in its original memory order if it has one."""
    dense = array.flags.c_contiguous or array.flags.f_contiguous
    return np.asarray(array if dense else np.ascontiguousarray(array))


def _partial(function, args, keywords):
    return partial(function, *args, **keywords)


def _find(name):
    """Return the class or function "module:name" of skdinoad or scikit-learn."""
    module, _, qualname = str(name).partition(":")
    if module.split(".")[0] not in (_OURS, _THEIRS):
        raise ValueError(f"{name!r} is neither of skdinoad nor of scikit-learn")
    try:
        with uncollected():
            item = importlib.import_module(module)
        for part in qualname.split("."):
            item = getattr(item, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} does not exist: {error}") from error
    # Reject names that a module imports from elsewhere, such as "os".
    home = str(getattr(item, "__module__", "")).split(".")[0]
    if not (isclass(item) or isfunction(item)) or home not in (_OURS, _THEIRS):
        raise ValueError(f"{name!r} is not a class or function of {module}")
    return item


def _found_name(name):
    """Return the estimator class or the allowed function of that name."""
    item = _find(name)
    home = f"{item.__module__}."
    pure = home.startswith(tuple(f"{module}." for module in _PURE))
    public = item.__qualname__.isidentifier() and not item.__name__.startswith("_")
    if not (issubclass(item, BaseEstimator) if isclass(item) else pure and public):
        raise ValueError(f"{name!r} is neither a metric nor an estimator class")
    return item


def _may_be_made(cls):
    home = cls.__module__.split(".")
    if home[0] == _OURS:
        return True
    plain = home[1:2] in (["model_selection"], ["metrics"])  # splitters and scorers
    return home[0] == _THEIRS and (plain or issubclass(cls, BaseEstimator))
