"""What all estimators of images share: range, alpha, all or nothing, an extractor."""

import inspect
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from skdinoad._compat.caller import warn
from skdinoad._inputs.images import as_images
from skdinoad._typing import Self

__all__ = [
    "TakesImages",
    "UsesFeatures",
    "drawing_by",
    "fitted_extractor",
    "forget",
    "whole_numbers",
]


def forget(estimator):
    """Drop all that was learned: what ends in an underscore, as by convention."""
    for name in [name for name in vars(estimator) if name.endswith("_")]:
        delattr(estimator, name)


def whole_numbers(value) -> list:
    """Return a whole number, or a sequence of some, as a list; [] of anything else."""
    try:
        found = np.atleast_1d(value)
    except ValueError:  # sequences of different lengths
        return []
    return found.tolist() if found.ndim == 1 and found.dtype.kind in "iu" else []


def drawing_by(random_state):
    """Return a RandomState for functions, whose parameters nothing else has checked."""
    try:
        return check_random_state(random_state)
    except ValueError as error:
        raise ValueError(
            f"random_state={random_state!r}: expected a whole number in 0..2**32 - 1, "
            "a RandomState or None."
        ) from error


def fitted_extractor(name, extractor, X):
    """Return a fitted copy of the extractor that a parameter called ``name`` holds."""
    lacking = [m for m in ("fit", "transform_frames") if not hasattr(extractor, m)]
    if lacking:
        raise TypeError(
            f"{name}={extractor!r} lacks {' and '.join(lacking)}; expected an "
            "extractor such as DinoFeatures, 'passthrough' or None."
        )
    return clone(extractor).fit(X, None)


class TakesImages:
    """For estimators whose X holds images, and not rows of numbers.

    A ``fit`` that fails, or is interrupted, leaves them unfitted: what is half new,
    half old would work in silence. ``fit`` learns inside ``with self._learning():``.
    """

    def __setstate__(self, state):
        """Give parameters that a file of an earlier version lacks their defaults."""
        known = inspect.signature(type(self)).parameters.values()
        defaults = {p.name: p.default for p in known if p.default is not p.empty}
        super().__setstate__({**defaults, **state})

    def _forget(self):
        forget(self)

    @contextmanager
    def _learning(self):
        """Forget what was learned before, and all of it if the block fails."""
        self._forget()
        try:
            yield
        except BaseException:
            self._forget()
            raise

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _images_to_fit(self, images):
        """Return training images, read by the range of values that they have."""
        if images.has_reader:  # whoever hands them over has learned it
            return images
        return images.by_own_range()

    def _images_to_score(self, X):
        """Return images, read by the range that fit has learned."""
        images = as_images(X)
        if images.has_reader:
            return images
        return images.read_by(getattr(self, "value_range_", None))

    def _learn_seen(self, images):
        """Keep what all training images, read by now, have shown of themselves."""
        self.value_range_ = images.own_range
        self.hidden_pixels_ = images.hidden
        self._warn_without_alpha(images)

    def _warn_without_alpha(self, images):
        """Say which images, read by now, lack the alpha that fit has seen."""
        names = images.without_alpha()
        if names and getattr(self, "hidden_pixels_", False):
            others = f" and {len(names) - 1} more images" if len(names) > 1 else ""
            warn(
                f"{names[0]}{others} without alpha channel, but training images hide "
                "pixels by theirs: here nothing is hidden, and what fit has never "
                "seen counts. Pass the same region as alpha.",
                UserWarning,
            )


class UsesFeatures(TakesImages):
    """For estimators whose ``features=None`` stands for a default extractor."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``features__...`` reaches the default extractor too."""
        nested = {k: params[k] for k in params if k.startswith("features__")}
        super().set_params(**{k: params[k] for k in params if k not in nested})
        if nested and self.features is None:
            self.features = self._default_features()
        return super().set_params(**nested)

    def _images_at_once(self):
        """How many images are read together: what the extractor says, if any."""
        own = getattr(self.features_, "batch_size", 16)
        return getattr(self.features_, "images_at_once", own)

    def _fitted_extractor(self, X):
        """Return a fitted copy of the extractor."""
        extractor = self.features
        if extractor is None:
            extractor = self._default_features()
        return fitted_extractor("features", extractor, X)

    def _check_features(self, grid):
        if grid.ndim != 3 or grid.dtype.kind != "f":
            raise ValueError(
                f"The features of an image have shape {grid.shape}, dtype {grid.dtype};"
                " expected float (h, w, c). Is features= an extractor, and its "
                "concatenate=True?"
            )
