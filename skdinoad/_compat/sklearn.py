"""The only file that imports private names of scikit-learn."""

from sklearn.pipeline import _name_estimators as name_estimators
from sklearn.utils._param_validation import Interval, Options, StrOptions

__all__ = ["Interval", "Options", "StrOptions", "name_estimators"]
