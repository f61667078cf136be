"""Low patch scores, and specks of high ones, set to 0."""

from numbers import Integral, Real

from sklearn.base import BaseEstimator

from skdinoad._compat.sklearn import Interval

__all__ = ["ScoreCleaning"]


class ScoreCleaning(BaseEstimator):
    """Settings of the clean-up of DinoPatch's patch scores.

    Parameters
    ----------
    quantile : float, default=0.95
        Scores below this quantile of the held-out normal scores are set to 0.
    opening, closing : int, default=0
        Diameter, in patches, of the ellipse that removes specks from the area above
        the quantile, and that fills holes in it. 0 = neither.

    Examples
    --------
    >>> from skdinoad import DinoPatch
    >>> from skdinoad.detectors import ScoreCleaning
    >>> detector = DinoPatch(cleaning=ScoreCleaning(quantile=0.99, opening=3))
    >>> detector.set_params(cleaning__opening=0).cleaning
    ScoreCleaning(quantile=0.99)
    """

    _parameter_constraints = {
        "quantile": [Interval(Real, 0, 1, closed="both")],
        "opening": [Interval(Integral, 0, 999, closed="both")],
        "closing": [Interval(Integral, 0, 999, closed="both")],
    }

    def __init__(
        self, *, quantile: float = 0.95, opening: int = 0, closing: int = 0
    ) -> None:
        self.quantile = quantile
        self.opening = opening
        self.closing = closing
