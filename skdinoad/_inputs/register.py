"""Register of training images: the source of each image, and which are copies."""

import numpy as np

from skdinoad._compat.caller import warn
from skdinoad._inputs.copies import (
    content,
    first_of_each,
    sources_of_parts,
    warn_of_copies,
)
from skdinoad._inputs.grids import path_of

__all__ = ["Register"]


class Register:
    """The images that a detector has learned from, in the order in which it got them.

    Registers are immutable: :meth:`extended` and :meth:`merged` return new ones, so
    that the old one is unchanged if ``partial_fit`` fails.

    Parameters
    ----------
    contents : list of bytes
        Digest of each image, equal for exact copies.
    sources : list of (int, str or None)
        Row in ``fit`` and path of each image; ``partial_fit`` continues the numbering.

    Attributes
    ----------
    first : ndarray of shape (n,), int
        For each image the index of the first one with the same content.
    """

    def __init__(self, contents=(), sources=()):
        self.contents, self.sources = list(contents), list(sources)
        self.first = first_of_each(self.contents)

    def __len__(self):
        return len(self.contents)

    @property
    def distinct(self):
        """Indices of the images without copies."""
        return np.unique(self.first)

    @property
    def next_row(self):
        """Row number of the next image that is passed to ``partial_fit``."""
        return self.sources[-1][0] + 1 if self.sources else 0

    def copies_of(self, i):
        """Return the indices of all images with the content of image i, i included."""
        return np.flatnonzero(self.first == self.first[i])

    def extended(self, X, kept, rows, contents=None):
        """Return a register with more images; warn about unusable ones and copies.

        Parameters
        ----------
        X : Images, or array or list of feature grids
        kept : list of int
            The rows of X that can be used.
        rows : sequence of int
            The row in ``fit`` of each row of X.
        contents : list of bytes or None
            Digests of all rows of X, or None if they are unknown.

        Raises
        ------
        ValueError
            If no row can be used.
        """
        _check_useful(kept, len(X))
        new = [contents[row] if contents else content(X, row) for row in kept]
        sources = [(int(rows[row]), path_of(X, row)) for row in kept]
        register = Register(self.contents + new, self.sources + sources)
        warn_of_copies(register.first)
        return register

    @classmethod
    def merged(cls, registers):
        """Return the register of one fit on the images of several fits."""
        contents = [digest for part in registers for digest in part.contents]
        sources = sources_of_parts([part.sources for part in registers])
        register = cls(contents, sources)
        warn_of_copies(register.first)
        return register


def _check_useful(kept, n):
    """Warn about images without a valid patch; raise an error if no image has one."""
    if not kept:
        raise ValueError(
            f"None of the {n} images has a valid patch: nothing to fit on. If an "
            "aligner found no object, try its mode='none'."
        )
    if len(kept) < n:
        dropped = sorted(set(range(n)) - set(kept))
        warn(
            f"{len(dropped)} of {n} images have no valid patch (rows {dropped[:9]} "
            "of the normal ones) and are left out.",
            UserWarning,
        )
