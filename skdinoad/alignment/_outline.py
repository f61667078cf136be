"""Settings of the search for a part's outline."""

from numbers import Integral, Real
from typing import Literal

from sklearn.base import BaseEstimator

from skdinoad._compat.sklearn import Interval, StrOptions

__all__ = ["Outline"]


class Outline(BaseEstimator):
    """Settings of PCAAligner's search for the outline of the part.

    Parameters
    ----------
    canny : (float, float) or "auto", default=(50, 100)
        Edge thresholds, on the image reduced to at most 256 pixels; "auto" takes
        0.66 and 1.33 times the median grey.
    blur : int, default=5
        Odd size of the Gaussian kernel before edge detection, 0 = off.
    closing : int, default=7
        Size of the square that closes gaps in the edges, 0 = off.
    min_contour : int, default=30
        Contours of fewer points are ignored.
    min_share, max_share : float, default=0.005, 0.95
        A support that covers less of the image than ``min_share`` is no object, one
        that covers more than ``max_share`` fills the frame.

    Examples
    --------
    >>> from skdinoad import Outline, PCAAligner
    >>> aligner = PCAAligner(outline=Outline(canny="auto"))
    >>> aligner.set_params(outline__blur=0).outline
    Outline(blur=0, canny='auto')
    """

    _parameter_constraints = {
        "canny": [StrOptions({"auto"}), tuple, list],
        "blur": [Interval(Integral, 0, 999, closed="both")],
        "closing": [Interval(Integral, 0, 999, closed="both")],
        "min_contour": [Interval(Integral, 1, None, closed="left")],
        "min_share": [Interval(Real, 0, 1, closed="both")],
        "max_share": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        *,
        canny: Literal["auto"] | tuple[float, float] = (50, 100),
        blur: int = 5,
        closing: int = 7,
        min_contour: int = 30,
        min_share: float = 0.005,
        max_share: float = 0.95,
    ) -> None:
        self.canny = canny
        self.blur = blur
        self.closing = closing
        self.min_contour = min_contour
        self.min_share = min_share
        self.max_share = max_share

    def _validate_params(self):
        super()._validate_params()
        if self.blur and self.blur % 2 == 0:
            raise ValueError(f"blur={self.blur}: expected an odd kernel size, or 0.")
        number = Interval(Real, 0, None, closed="left")
        pair = not isinstance(self.canny, str) and len(self.canny) == 2
        if not isinstance(self.canny, str) and not (
            pair and all(map(number.is_satisfied_by, self.canny))
        ):
            raise ValueError(f"canny={self.canny!r}: expected 2 thresholds or 'auto'.")
