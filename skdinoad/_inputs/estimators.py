"""Mixin of all image estimators: value range, alpha, nested parts, failed fits."""

from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from skdinoad._compat.caller import warn
from skdinoad._inputs.images import as_images
from skdinoad._typing import Self

__all__ = [
    "ImageEstimator",
    "drawing_by",
    "fitted_extractor",
    "images_at_once",
    "reset",
    "whole_numbers",
]


def reset(estimator):
    """Delete all fitted attributes, whose names end in an underscore."""
    for name in [name for name in vars(estimator) if name.endswith("_")]:
        delattr(estimator, name)


def whole_numbers(value) -> list:
    """Return an integer or a sequence of integers as a list; [] for anything else."""
    try:
        found = np.atleast_1d(value)
    except ValueError:  # sequences of different lengths
        return []
    return found.tolist() if found.ndim == 1 and found.dtype.kind in "iu" else []


def drawing_by(random_state):
    """Return a RandomState, for functions that do not validate their parameters."""
    try:
        return check_random_state(random_state)
    except ValueError as error:
        raise ValueError(
            f"random_state={random_state!r}: expected an integer in 0..2**32 - 1, "
            "a RandomState or None."
        ) from error


def fitted_extractor(name, extractor, X):
    """Return a fitted clone of the extractor passed as the parameter ``name``."""
    lacking = [m for m in ("fit", "transform_affines") if not hasattr(extractor, m)]
    if lacking:
        raise TypeError(
            f"{name}={extractor!r} lacks {' and '.join(lacking)}; expected an "
            "extractor such as DinoFeatures, 'passthrough' or None."
        )
    return clone(extractor).fit(X, None)


def images_at_once(extractor) -> int:
    """Return the number of images that are read at once for a fitted extractor."""
    own = getattr(extractor, "batch_size", 16)
    return getattr(extractor, "images_at_once", own)


class ImageEstimator:
    """Mixin of all estimators whose X holds images instead of a feature matrix.

    A ``fit`` that fails or is interrupted leaves the estimator unfitted, because a mix
    of old and new attributes would go unnoticed: ``fit`` runs inside
    ``with self._learning():``.

    A parameter may hold a part with parameters of its own, or None for the default
    part. ``_default_parts`` maps the names of these parameters to the classes of the
    parts. An estimator with ``default_features()`` has an extractor as such a part.
    """

    _default_parts: dict[str, Any] = {}

    # -- fitting ----------------------------------------------------------------------

    def _reset(self):
        reset(self)

    @contextmanager
    def _learning(self):
        """Clear fitted attributes on entry, and again if the block fails."""
        self._reset()
        try:
            yield
        except BaseException:
            self._reset()
            raise

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _images_to_fit(self, images):
        """Return training images scaled by their own range of values."""
        if images.has_reader:  # the caller has already learned the range
            return images
        return images.by_own_range()

    def _images_to_score(self, X):
        """Return images scaled by the range learned in fit."""
        images = as_images(X)
        if images.has_reader:
            return images
        return images.read_by(getattr(self, "value_range_", None))

    def _learn_seen(self, images):
        """Store value range and alpha use of the training images, all read by now."""
        self.value_range_ = images.own_range
        self.hidden_pixels_ = images.hidden
        self._warn_without_alpha(images)

    def _warn_without_alpha(self, images):
        """Warn about images without alpha if the training images hid pixels."""
        names = images.without_alpha()
        if names and getattr(self, "hidden_pixels_", False):
            others = f" and {len(names) - 1} more images" if len(names) > 1 else ""
            warn(
                f"{names[0]}{others} without alpha channel, but the training images "
                "hide pixels by alpha. Here nothing is hidden, so regions that fit has "
                "never seen are scored. Pass the same region as alpha.",
                UserWarning,
            )

    # -- parts ------------------------------------------------------------------------

    def set_params(self, **params: Any) -> Self:
        """Set parameters; names such as ``bank__size`` also reach default parts.

        Parameters
        ----------
        **params
            The name of a parameter, or ``part__parameter``.

        Returns
        -------
        self
        """
        nested = {k: params[k] for k in params if k.split("__")[0] in self._parts()}
        nested = {k: params[k] for k in nested if "__" in k}
        super().set_params(**{k: params[k] for k in params if k not in nested})
        for name in {key.split("__")[0] for key in nested}:
            if getattr(self, name) is None:
                setattr(self, name, self._parts()[name]())
        return super().set_params(**nested)

    def _parts(self):
        """Return factories of the default parts, by parameter name."""
        extractor = getattr(self, "default_features", None)
        own = {} if extractor is None else {"features": extractor}
        return {**own, **self._default_parts}

    def _part(self, name):
        """Return a part, or its default."""
        part = getattr(self, name)
        return self._parts()[name]() if part is None else part

    def _validate_params(self):
        super()._validate_params()
        for name, default in self._default_parts.items():
            part = self._part(name)
            if not isinstance(part, default):
                raise TypeError(
                    f"{name}={part!r}: expected {default.__name__}(...) or None."
                )
            part._validate_params()
