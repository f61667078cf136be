"""Detectors with the weights of the official codes' checkpoints."""

from skdinoad.features._state import flat, read_checkpoint, tensors_digest

__all__ = ["fitted_with"]


def fitted_with(detector, path, names, X, y):
    """Fit a detector that trains with weights that were trained elsewhere.

    Parameters
    ----------
    detector : TrainedDetector
        Not fitted.
    path : str or path
        A file that ``torch.save`` wrote.
    names : callable
        Returns our names and weights for what the file holds.
    X, y :
        Good images, from which thresholds are learned.

    Returns
    -------
    detector
    """
    tensors = read_checkpoint(path)
    given = names(tensors)
    detector._given = {name: value.numpy() for name, value in given.items()}
    try:
        detector.fit(X, y)
    finally:
        del detector._given
    detector.official_digest_ = tensors_digest(flat(tensors))
    return detector
