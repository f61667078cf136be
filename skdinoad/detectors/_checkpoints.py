"""Detectors with the weights of the official codes' checkpoints."""

from typing import Any

from skdinoad._typing import FilePath, ImagesLike, LabelsLike, Self
from skdinoad.features._state import flat, read_checkpoint, tensors_digest

__all__ = ["LoadsOfficial"]


class LoadsOfficial:
    """For trained detectors whose official code saves checkpoints.

    A subclass has a function ``_official_weights``, from what such a file holds to our
    names and weights.
    """

    @classmethod
    def load_official(
        cls,
        path: FilePath,
        X: ImagesLike,
        y: LabelsLike | None = None,
        **parameters: Any,
    ) -> Self:
        """Return a detector with the weights of a checkpoint of the official code.

        Nothing is trained; ``X`` gives what the checkpoint lacks: the threshold, the
        maps' display range, and what else is learned from held-out images.

        Parameters
        ----------
        path : str or path
            A file that the official scripts save: ``model.pth`` of Dinomaly or
            Dinomaly2 (the state dict; its encoder is not used, ``features`` has the
            weights of DINOv2) or ``wres50_*.pth`` of DMAD ("offset", "bn" and
            "decoder", with prototypes or without). It is read without running code.
        X : array, list of images or paths
            Good images, best ones that the network has not learned from.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            Rows labelled anomalous are left out.
        **parameters
            Override parameters of ``preset="paper"``, or of ``preset="dinomaly2"`` if
            the file is of Dinomaly2.

        Returns
        -------
        detector
            Fitted; ``official_digest_`` is the sha256 of the checkpoint's weights.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, it is damaged or of another method, or the network
            of another shape.

        Examples
        --------
        >>> from skdinoad import Dinomaly
        >>> Dinomaly.load_official("model.pth", [])
        Traceback (most recent call last):
        FileNotFoundError: checkpoint 'model.pth' does not exist.
        """
        tensors = read_checkpoint(path)
        weights = cls._taken(path, tensors)
        detector = cls(**{"preset": cls._official_preset(weights), **parameters})
        detector._given = weights
        try:
            detector.fit(X, y)
        except RuntimeError as error:  # torch's word for other shapes
            raise ValueError(
                f"checkpoint {str(path)!r} does not go with these features or "
                f"parameters: {error}"
            ) from error
        finally:
            del detector._given
        detector.official_digest_ = tensors_digest(flat(tensors))
        return detector

    @classmethod
    def _official_preset(cls, weights):
        """Return the preset to which weights of our names belong."""
        return "paper"

    @classmethod
    def _taken(cls, path, tensors):
        """Return the weights of a checkpoint by our names, as arrays."""
        try:
            found = cls._official_weights(tensors)
            return {name: _as_array(value) for name, value in found.items()}
        except (AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"checkpoint {str(path)!r} is not what the official code of "
                f"{cls.__name__} saves: {error!r}."
            ) from error


def _as_array(value):
    """Return a tensor as an array; numpy knows no bfloat16."""
    return (value.float() if value.is_floating_point() else value).numpy()
