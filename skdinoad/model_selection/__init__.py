"""Thresholds by cross-validation, and settings without defects."""

from skdinoad.model_selection._suggest import suggest
from skdinoad.model_selection._tuner import ThresholdTunerCV

__all__ = ["ThresholdTunerCV", "suggest"]
