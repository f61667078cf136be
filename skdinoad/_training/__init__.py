"""What the detectors that train a network share."""
