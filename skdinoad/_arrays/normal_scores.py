"""Estimate the distribution of the anomaly scores of good images from a few."""

import numpy as np
from scipy import stats

__all__ = ["NormalScores", "rate_interval"]

# ``benchmarks/accuracy/choices.py`` compares values of the next three constants.

#: Degrees of freedom of Student's t: the tails of real scores are heavier than a
#: normal distribution's.
_TAILS = 4

#: Prior spread of the logarithms, which counts as much as one image.
_PRIOR_SPREAD = 0.2

#: The spread of n images is widened by sqrt(1 + _FEW / n), because the estimates of
#: median and spread are uncertain.
_FEW = 4

#: A score is suspect if a smaller share of good images would reach it. No benchmark
#: compares values of this constant.
_SUSPECT = 0.005

#: The largest logarithm of a threshold.
_LARGEST = 700.0

#: Scores are compared by ratio, so 0 is replaced by this share of the median score.
_SMALLEST = 1e-6


class NormalScores:
    """The distribution of good images' anomaly scores.

    The logarithm of a score is modelled by Student's t distribution with 4 degrees of
    freedom around the median. The spread is the median absolute deviation, widened if
    there are few images. A few defective images hardly move median and spread. If the
    median is not positive, the scores are modelled instead of their logarithms.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Anomaly scores of good images, each by a model that has not seen it. Higher =
        more anomalous.

    Attributes
    ----------
    suspects : ndarray of shape (n,), bool
        Scores that fewer than 1 in 200 good images would reach. They are left out of
        the estimate.
    usual : float
        The median score, without the suspects.

    Examples
    --------
    >>> from skdinoad._arrays.normal_scores import NormalScores
    >>> known = NormalScores([1.0, 1.1, 0.9, 1.05, 0.95, 7.0])
    >>> known.suspects
    array([False, False, False, False, False,  True])
    >>> round(known.threshold(0.05), 2)
    1.38
    """

    def __init__(self, scores):
        scores = np.asarray(scores, float)
        self._log = bool(np.median(scores) > 0)
        values = self._scaled(scores, np.median(scores))
        center, spread = self._center_and_spread(values)
        limit = center + spread * stats.t.isf(_SUSPECT, _TAILS)
        self.suspects = values > limit
        self._n = int((~self.suspects).sum())
        self._center, self._spread = self._center_and_spread(values[~self.suspects])
        self.usual = float(np.median(scores[~self.suspects]))

    def threshold(self, rate: float) -> float:
        """Return the score that a share ``rate`` of good images exceeds."""
        spread = self._spread * np.sqrt(1 + _FEW / self._n)
        value = self._center + spread * stats.t.isf(rate, _TAILS)
        # A rate near 0 gives a threshold beyond the range of a float.
        return float(np.exp(min(value, _LARGEST)) if self._log else value)

    def _scaled(self, scores, usual):
        if not self._log:
            return scores
        return np.log(np.maximum(scores, _SMALLEST * usual))

    def _center_and_spread(self, values):
        center = np.median(values)
        spread = stats.median_abs_deviation(values, scale="normal")
        prior = _PRIOR_SPREAD if self._log else _PRIOR_SPREAD * abs(center)
        n = len(values)
        return center, np.sqrt(((n - 1) * spread**2 + prior**2) / n)


def rate_interval(above, n: int, confidence: float = 0.9) -> tuple:
    """Return a confidence interval of the false alarm rate.

    Parameters
    ----------
    above : int, or ndarray of int
        Number of held-out good images beyond the threshold.
    n : int
        Number of held-out good images, at least 1.
    confidence : float
        Smallest probability that the interval contains the rate, if the images are a
        random sample (Clopper and Pearson's exact interval).

    Returns
    -------
    low, high : float, or ndarray

    Examples
    --------
    >>> from skdinoad._arrays.normal_scores import rate_interval
    >>> [round(float(x), 3) for x in rate_interval(0, 24)]
    [0.0, 0.117]
    """
    above, tail = np.asarray(above), (1 - confidence) / 2
    low = stats.beta.ppf(tail, np.maximum(above, 1), n - above + 1)
    high = stats.beta.isf(tail, above + 1, np.maximum(n - above, 1))
    low, high = np.where(above == 0, 0, low), np.where(above == n, 1, high)
    return low[()], high[()]
