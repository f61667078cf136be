"""Issue warnings that point to the line of the user's code that caused them."""

import contextlib
import inspect
import os
import warnings
from pathlib import Path

import joblib
import sklearn

__all__ = ["warn"]

#: Files skipped when looking for the user's code: this package and its callers.
_INSIDE = (
    *(str(Path(module.__file__).parent) + os.sep for module in (sklearn, joblib)),
    str(Path(__file__).parents[1]) + os.sep,
    contextlib.__file__,
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning with file and line of the nearest caller outside the package.

    Parameters
    ----------
    message : str
    category : type of Warning

    Examples
    --------
    >>> import warnings
    >>> from skdinoad._compat.caller import warn
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("two images are copies")
    >>> str(caught[0].message)
    'two images are copies'
    """
    frame, level = inspect.currentframe(), 1
    while frame.f_back and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
