"""Detectors where scikit-learn wants classifiers."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.thresholds import as_threshold
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import ImageEstimator
from skdinoad._inputs.labels import check_labels, named_array
from skdinoad._typing import DetectorLike, ImagesLike, OneOrList, Self
from skdinoad.pipeline import predict_map

__all__ = ["DetectorClassifier", "as_classifier"]


def as_classifier(
    estimator: DetectorLike, *, normal: Any = None
) -> "DetectorClassifier":
    """Return a detector as a binary classifier.

    For what scikit-learn does with classifiers alone: ``CalibratedClassifierCV``,
    ``StackingClassifier``, ``TunedThresholdClassifierCV``, ``cross_val_predict`` with
    probabilities. A detector learns from normal images only; labels of anomalous ones
    serve what is put around it.

    Parameters
    ----------
    estimator : detector, or Pipeline that ends in one
        Not fitted; it is cloned.
    normal : label or None, default=None
        The label of normal images where labels are not +1 normal, -1 anomalous: with 0
        and 1 nobody could tell which means a defect. ``StackingClassifier`` hands 0
        and 1 to its estimators, in the order of the labels: pass ``normal=1`` there.

    Returns
    -------
    DetectorClassifier

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.calibration import CalibratedClassifierCV
    >>> from skdinoad import DinoFeatures, DinoPatch, as_classifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.integers(90, 110, (12, 32, 32, 3), dtype=np.uint8)
    >>> X[8:, 8:24, 8:24] = 200
    >>> y = np.array([1] * 8 + [-1] * 4)
    >>> features = DinoFeatures(model="test_vit", weights="random:0", image_size=32)
    >>> detector = as_classifier(DinoPatch(features=features))
    >>> calibrated = CalibratedClassifierCV(detector, cv=2).fit(X, y)
    >>> calibrated.classes_.tolist(), calibrated.predict_proba(X).shape
    ([-1, 1], (12, 2))
    """
    return DetectorClassifier(estimator, normal=normal)


class DetectorClassifier(
    ImageEstimator, MetaEstimatorMixin, ClassifierMixin, BaseEstimator
):
    """What :func:`as_classifier` returns.

    Parameters
    ----------
    estimator : detector, or Pipeline that ends in one
    normal : label or None, default=None
        The label of normal images; None asks for labels +1 normal, -1 anomalous.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The labels, sorted.
    estimator_ : estimator
        Fitted on the normal images.
    """

    def __init__(self, estimator: DetectorLike, *, normal: Any = None) -> None:
        self.estimator = estimator
        self.normal = normal

    @isolated_torch_state()
    def fit(self, X: ImagesLike, y: ArrayLike) -> Self:
        """Fit the detector on the normal images.

        Parameters
        ----------
        X : array, list of images or paths
            Colours in the order RGB, not OpenCV's BGR: ``image[..., ::-1]``.
        y : array-like of shape (n,)
            Labels of which both must be there: +1 normal, -1 anomalous, or any two of
            which ``normal`` is one.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there are not two labels, or others than those.
        """
        y = check_labels(y) if self.normal is None else named_array(y, "y")
        classes, normal = np.unique(y), 1 if self.normal is None else self.normal
        if len(classes) != 2 or not np.isscalar(normal) or normal not in classes:
            raise ValueError(
                f"y holds {classes[:5].tolist()}; expected two labels, {normal!r} for "
                "normal images and one for anomalous ones. With good images alone fit "
                "the detector itself."
            )
        with self._learning():
            labels = np.where(y == normal, 1, -1)
            self.estimator_ = clone(self.estimator).fit(X, labels)
            self.classes_ = classes
            self._sign = 1 if classes[1] == normal else -1
        return self

    def decision_function(self, X: ImagesLike) -> np.ndarray:
        """Return how far each image is on the side of ``classes_[1]``.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        decision : ndarray of shape (n,), float64
            With labels -1 and +1 as the detector's: below 0 is anomalous. Where the
            detector has no threshold, its score, higher = more normal.
        """
        check_is_fitted(self)
        offset = as_threshold(getattr(self.estimator_, "offset_", np.nan))
        scores = self.estimator_.score_samples(X)
        return self._sign * (scores if np.isnan(offset) else scores - offset)

    def predict(self, X: ImagesLike) -> np.ndarray:
        """Return the label of each image.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        labels : ndarray of shape (n,)
        """
        check_is_fitted(self)
        first = self.estimator_.predict(X) == -self._sign
        return np.where(first, *self.classes_)

    def score_samples(self, X: ImagesLike) -> np.ndarray:
        """Return the normality of each image.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        scores : ndarray of shape (n,), float64
            Higher = more normal.
        """
        check_is_fitted(self)
        return self.estimator_.score_samples(X)

    def predict_map(self, X: ImagesLike) -> OneOrList:
        """Return heat maps in the coordinates of X; see :func:`skdinoad.predict_map`.

        Parameters
        ----------
        X : array, list of images or paths

        Returns
        -------
        maps : ndarray of shape (n, H, W), float32, or list of (H, W)
            Higher = more anomalous.
        """
        check_is_fitted(self)
        return predict_map(self.estimator_, X)
