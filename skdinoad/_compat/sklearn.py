"""Imports of private or recent names of scikit-learn."""

from contextlib import contextmanager, nullcontext
from numbers import Integral

from sklearn.pipeline import _name_estimators as name_estimators
from sklearn.utils import _param_validation
from sklearn.utils._param_validation import HasMethods, Options, StrOptions

try:
    from sklearn.callback import CallbackSupportMixin as TakesCallbacks

    # Used instead of the decorator with_callbacks, whose frame would show in warnings.
    from sklearn.callback._callback_support import callback_management_context
except ImportError:  # before scikit-learn 1.9
    callback_management_context = nullcontext

    class TakesCallbacks:
        """Placeholder without callbacks."""


__all__ = [
    "HasMethods",
    "Interval",
    "Options",
    "StrOptions",
    "TakesCallbacks",
    "Task",
    "name_estimators",
    "whole_fit",
]


class Interval(_param_validation.Interval):
    """Interval of numbers that are safe in all later computations.

    Without a right end, it is limited to values that torch and OpenCV support. It
    excludes booleans and numpy integers of 8 and 16 bits, whose products overflow
    silently.
    """

    def __init__(self, type, left, right, *, closed):
        if right is None:
            right = 2**31 if type is Integral else 1e18
        super().__init__(type, left, right, closed=closed)

    def is_satisfied_by(self, val):
        narrow = isinstance(val, bool) or getattr(val, "itemsize", 8) < 4
        return not narrow and super().is_satisfied_by(val)


class Task:
    """Context of a part of a ``fit``, which notifies callbacks of its start and end.

    Does nothing without a callback context: before scikit-learn 1.9, and outside of
    :func:`whole_fit`.

    Attributes
    ----------
    stop : bool
        Whether a callback asks to stop the parent task; known at the end.
    """

    def __init__(self, estimator=None, context=None, **known):
        self._estimator, self._context, self._known = estimator, context, known
        self.stop = False

    @classmethod
    def current(cls, estimator):
        """Return the task of an estimator's running ``fit``."""
        return cls(estimator, getattr(estimator, "_callback_fit_ctx", None))

    def part(self, name, n_parts=0):
        """Return a part of this task."""
        if self._context is None:
            return Task()
        context = self._context.subcontext(name, max_subtasks=n_parts)
        return Task(self._estimator, context)

    def __enter__(self):
        if self._context is not None:
            known = {k: v for k, v in self._known.items() if k in ("X", "y")}
            self._context.call_on_fit_task_begin(estimator=self._estimator, **known)
        return self

    def __exit__(self, kind, *error):
        if self._context is not None and kind is None:
            end = self._context.call_on_fit_task_end
            self.stop = bool(end(estimator=self._estimator, **self._known))


@contextmanager
def whole_fit(estimator, X, y, n_parts):
    """Notify callbacks of a ``fit`` with ``n_parts`` parts; None = unknown number."""
    begin = getattr(estimator, "_init_callback_context", None)
    with callback_management_context(estimator):
        context = begin and begin(max_subtasks=n_parts)
        with Task(estimator, context, X=X, y=y, reconstruction_attributes={}):
            yield
