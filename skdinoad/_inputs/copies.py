"""Compare training images by content: duplicates, a canonical order, suspects."""

import hashlib

import numpy as np
from sklearn.utils import Bunch

from skdinoad._compat.caller import warn
from skdinoad._inputs.images import Images, take
from skdinoad._inputs.pixels import hidden_pixels

__all__ = [
    "content",
    "first_of_each",
    "in_order",
    "sources_of_parts",
    "suspects_among",
    "warn_of_copies",
    "warn_of_suspects",
]


def content(X, row, *, seen=False) -> bytes:
    """Return a digest of the content of an image or feature grid.

    Parameters
    ----------
    X : Images, or array or list of feature grids
    row : int
    seen : bool
        If True, digest the 8-bit version that networks receive; otherwise use the
        full bit depth.

    Returns
    -------
    bytes
        Equal for equal pixels, regardless of file format or dtype. An alpha channel
        that hides no pixel is ignored.
    """
    item = X.full(row) if isinstance(X, Images) and not seen else X[row]
    if isinstance(X, Images) and item.shape[-1] == 4 and not hidden_pixels(item).any():
        item = item[..., :3]
    digest = hashlib.sha1(repr(item.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(item))
    return digest.digest()


def in_order(X) -> tuple:
    """Return images in a canonical order that does not depend on the input order.

    Images are sorted by the digest of their 8-bit content, so random draws by position
    depend on the content alone. Copies keep their relative order. Feature grids are
    returned in the order given.

    Parameters
    ----------
    X : Images, or array or list of feature grids

    Returns
    -------
    ordered : as X
    rows : ndarray of shape (n,), int
        Row of X of each returned image.
    contents : list of bytes, or None
        :func:`content` of each row of X, or None if it has not been computed.
    """
    if not isinstance(X, Images):
        return X, np.arange(len(X)), None
    seen = [content(X, row, seen=True) for row in range(len(X))]
    rows = np.array(sorted(range(len(X)), key=seen.__getitem__), int)
    return take(X, rows), rows, None if X.scaled else seen


def first_of_each(contents) -> np.ndarray:
    """Return, for each image, the index of the first image with the same content.

    Parameters
    ----------
    contents : sequence of bytes
        Digests from :func:`content`.

    Returns
    -------
    ndarray of shape (n,), int

    Examples
    --------
    >>> from skdinoad._inputs.copies import first_of_each
    >>> first_of_each([b"nut", b"bolt", b"nut"])
    array([0, 1, 0])
    """
    number = {}
    return np.array([number.setdefault(c, i) for i, c in enumerate(contents)], int)


def sources_of_parts(parts) -> list:
    """Concatenate the (row, path) lists of several fits, renumbering the rows.

    Examples
    --------
    >>> from skdinoad._inputs.copies import sources_of_parts
    >>> sources_of_parts([[(0, "a.png"), (2, "b.png")], [(0, "c.png")]])
    [(0, 'a.png'), (2, 'b.png'), (3, 'c.png')]
    """
    out, start = [], 0
    for sources in parts:
        out += [(start + row, path) for row, path in sources]
        start = out[-1][0] + 1 if out else 0
    return out


def warn_of_copies(first):
    """Warn if some training images are exact copies of earlier ones.

    Parameters
    ----------
    first : ndarray of shape (n,), int
        Result of :func:`first_of_each`.
    """
    copies = np.flatnonzero(first != np.arange(len(first)))
    if len(copies):
        warn(
            f"{len(copies)} of {len(first)} training images are exact copies of "
            f"others (image {copies[0]} of image {first[copies[0]]}, counting the "
            "normal images from 0). Copies are held out together and count once for "
            "the threshold. Remove them, or take more photographs.",
            UserWarning,
        )


def suspects_among(scores, sources, known) -> list:
    """Return the training images with suspect scores, the most anomalous first.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Held-out anomaly scores.
    sources : list of (row, path)
    known : NormalScores
        Statistics of these scores.

    Returns
    -------
    list of Bunch
        With "row", "path" and "ratio", the score divided by the typical score.
    """
    odd = np.flatnonzero(known.suspects)
    ratios = scores / known.usual if known.usual > 0 else np.full(len(scores), np.inf)
    return [
        Bunch(row=sources[i][0], path=sources[i][1], ratio=float(ratios[i]))
        for i in odd[np.argsort(-scores[odd], kind="stable")]
    ]


def warn_of_suspects(suspects, n):
    """Warn about training images that look anomalous among the other normal ones.

    Parameters
    ----------
    suspects : list of Bunch
        With "row", "path" and "ratio", the most anomalous first.
    n : int
        Number of held-out images.
    """
    if not suspects:
        return
    names = [
        f"X[{s.row}]{f' ({s.path!r})' if s.path else ''}, {s.ratio:.1f} times as "
        "anomalous as usual"
        for s in suspects[:5]
    ]
    more = f"; and {len(suspects) - 5} more" if len(suspects) > 5 else ""
    warn(
        f"{len(suspects)} of {n} training images look odd among the others: "
        f"{'; '.join(names)}{more}. They stay in the model but are left out of the "
        "threshold. Inspect them and fit again without those that show a defect "
        "(suspects_ lists all of them).",
        UserWarning,
    )
