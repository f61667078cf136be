"""Maths on arrays that knows nothing of estimators."""
