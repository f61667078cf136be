"""Thresholds by cross-validation, settings without defects, classifiers."""

from skdinoad.model_selection._classifier import DetectorClassifier, as_classifier
from skdinoad.model_selection._suggest import suggest
from skdinoad.model_selection._tuner import ThresholdTunerCV

__all__ = ["DetectorClassifier", "ThresholdTunerCV", "as_classifier", "suggest"]
