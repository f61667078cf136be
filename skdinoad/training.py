"""Settings of training, for the detectors that train a network."""

from numbers import Integral, Real
from typing import Literal

from sklearn.base import BaseEstimator

from skdinoad._compat.sklearn import Interval, StrOptions

__all__ = ["Training"]

_COUNT = [None, Interval(Integral, 1, None, closed="left")]


class Training(BaseEstimator):
    """Settings of training: how long, in which steps, with which precision.

    None stands for the value of the detector's ``preset``.

    Parameters
    ----------
    n_iter : int or None, default=None
        Iterations of training.
    batch_size : int or None, default=None
        Images in one iteration; of DFR rows, which are patches of any images.
    learning_rate : float or None, default=None
        Highest learning rate.
    warm_up : int, float or None, default=None
        Iterations in which the learning rate rises; a float is a share of ``n_iter``.
    weight_decay : float or None, default=None
        Decay of all weights.
    max_time : float or None, default=None
        Seconds of training, the networks of all folds included, after which it stops
        with what it has learned. The time of the features does not count. None = no
        limit.
    warm_start : bool, default=False
        Whether ``fit`` continues the training of the last ``fit`` on the same images,
        until ``n_iter`` iterations are done altogether. In the same process the result
        is the same as without the stop; from a file only the weights are there. With
        other images or settings training starts anew, with a warning.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of matrix products in training; scores are always computed in
        float32. "auto" is bfloat16 on a CPU that multiplies it in hardware, where
        training takes half the time, and float32 elsewhere.

    Examples
    --------
    >>> from skdinoad import Dinomaly, Training
    >>> detector = Dinomaly(training=Training(n_iter=200))
    >>> detector.set_params(training__max_time=60).training
    Training(max_time=60, n_iter=200)
    """

    _parameter_constraints = {
        "n_iter": _COUNT,
        "batch_size": _COUNT,
        "learning_rate": [None, Interval(Real, 0, 3e38, closed="neither")],
        "warm_up": [
            None,
            Interval(Integral, 0, None, closed="left"),
            Interval(Real, 0, 1, closed="both"),
        ],
        "weight_decay": [None, Interval(Real, 0, None, closed="left")],
        "max_time": [None, Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
    }

    def __init__(
        self,
        *,
        n_iter: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        warm_up: float | None = None,
        weight_decay: float | None = None,
        max_time: float | None = None,
        warm_start: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> None:
        self.n_iter = n_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.warm_up = warm_up
        self.weight_decay = weight_decay
        self.max_time = max_time
        self.warm_start = warm_start
        self.precision = precision
