"""Thresholds by cross-validation."""

from skdinoad.model_selection._tuner import ThresholdTunerCV

__all__ = ["ThresholdTunerCV"]
