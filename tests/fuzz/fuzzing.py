"""What all fuzz tests share: small fitted estimators, and what may come of a call."""

import re
import warnings
from functools import cache

import numpy as np
from conftest import build
from sklearn.base import clone

import skdinoad
from skdinoad.features import WeightsNotFoundError
from skdinoad.testing import make_images

#: Estimators of images, by name; those that train a network are slow to fit.
QUICK = [
    "DinoPatch",
    "AnomalyDINO",
    "SubspaceAD",
    "PCAAligner",
    "RegionMask",
    "ForegroundMask",
    "DinoFeatures",
    "CNNFeatures",
    "ThresholdTunerCV",
]
SLOW = [
    "Dinomaly",
    "DFR",
    "LinearDFR",
    "DMAD",
    "ReverseDistillation",
    "AffineAligner",
]

#: What makes them quick.
SHORT = {
    name: {"training__n_iter": n}
    for name, n in {
        "DFR": 3,
        "DMAD": 1,
        "ReverseDistillation": 1,
        "Dinomaly": 2,
    }.items()
}

#: What the images of fit look like.
SIZE = (48, 64)


@cache
def fitted(name):
    """Return an estimator that has learned from six images; not to be changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fresh(name).fit(make_images(size=SIZE))


def fresh(name, **parameters):
    """Return an estimator that has learned nothing."""
    estimator = clone(build(getattr(skdinoad, name)))
    short = {} if "training" in parameters else SHORT.get(name, {})
    return estimator.set_params(**{**short, **parameters})


def attempt(call, named):
    """Return what a call gives, or None if it refuses by an error that may be.

    Any other error, and one whose text does not match ``named``, goes on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return call()
        except FloatingPointError as error:
            if "Training broke down" not in str(error):
                raise
        except (ValueError, TypeError, OSError, WeightsNotFoundError) as error:
            if not re.search(named, str(error)):
                raise AssertionError(f"{named!r} is not in: {error}") from error
        return None


def out(estimator, X):
    """Return scores, or what an estimator without scores makes of images."""
    if hasattr(estimator, "score_samples"):
        return estimator.score_samples(X)
    return estimator.transform(X)


def check_output(estimator, n, result):
    """Scores are finite, one for each image; other output has a row for each."""
    assert len(result) == n
    if hasattr(estimator, "score_samples"):
        assert result.shape == (n,)
        assert result.dtype == np.float64
        assert np.isfinite(result).all()
