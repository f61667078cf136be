"""The only file that imports private names of scikit-learn, or new ones."""

from contextlib import contextmanager, nullcontext
from numbers import Integral

from sklearn.pipeline import _name_estimators as name_estimators
from sklearn.utils import _param_validation
from sklearn.utils._param_validation import HasMethods, Options, StrOptions

try:
    from sklearn.callback import CallbackSupportMixin as TakesCallbacks

    # What with_callbacks goes by: a decorator's frame would stand in all warnings.
    from sklearn.callback._callback_support import callback_management_context
except ImportError:  # before scikit-learn 1.9
    callback_management_context = nullcontext

    class TakesCallbacks:
        """There are no callbacks."""


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
    """scikit-learn's, of numbers that everything behind it can calculate with.

    Without a right end it ends where torch and OpenCV do. Booleans are no numbers, and
    neither are numpy's of 8 and 16 bits, whose products overflow in silence.
    """

    def __init__(self, type, left, right, *, closed):
        if right is None:
            right = 2**31 if type is Integral else 1e18
        super().__init__(type, left, right, closed=closed)

    def is_satisfied_by(self, val):
        narrow = isinstance(val, bool) or getattr(val, "itemsize", 8) < 4
        return not narrow and super().is_satisfied_by(val)


class Task:
    """A part of a ``fit``, a context whose begin and end callbacks are told of.

    Silent where there is no callback context: before scikit-learn 1.9, and outside of
    :func:`whole_fit`.

    Attributes
    ----------
    stop : bool
        Whether a callback wants what this is a part of to end; known at the end.
    """

    def __init__(self, estimator=None, context=None, **known):
        self._estimator, self._context, self._known = estimator, context, known
        self.stop = False

    @classmethod
    def current(cls, estimator):
        """Return the task of the whole ``fit`` that an estimator is in."""
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
    """Tell callbacks of the block, a ``fit`` of so many parts; None = that depends."""
    begin = getattr(estimator, "_init_callback_context", None)
    with callback_management_context(estimator):
        context = begin and begin(max_subtasks=n_parts)
        with Task(estimator, context, X=X, y=y, reconstruction_attributes={}):
            yield
