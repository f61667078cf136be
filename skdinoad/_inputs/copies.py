"""Training images by content: exact copies, an order, where each comes from."""

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
    """Return a digest of what an image, or a grid of features, holds.

    Parameters
    ----------
    X : Images, or array or list of feature grids
    row : int
    seen : bool
        Whether 8 bits count, as networks see an image of more; else all of them.

    Returns
    -------
    bytes
        Equal for equal pixels, whatever file or dtype they come in: an alpha channel
        that hides nothing does not matter.
    """
    item = X.full(row) if isinstance(X, Images) and not seen else X[row]
    if isinstance(X, Images) and item.shape[-1] == 4 and not hidden_pixels(item).any():
        item = item[..., :3]
    digest = hashlib.sha1(repr(item.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(item))
    return digest.digest()


def in_order(X) -> tuple:
    """Return images in an order that is the same in whatever order they are given.

    What is drawn by place in it goes by what images show, in the 8 bits that networks
    see; copies keep their order, and so do feature grids.

    Parameters
    ----------
    X : Images, or array or list of feature grids

    Returns
    -------
    ordered : as X
    rows : ndarray of shape (n,), int
        Which of X each of them is.
    contents : list of bytes, or None
        Of each row of X what :func:`content` gives, where that is known by now.
    """
    if not isinstance(X, Images):
        return X, np.arange(len(X)), None
    seen = [content(X, row, seen=True) for row in range(len(X))]
    rows = np.array(sorted(range(len(X)), key=seen.__getitem__), int)
    return take(X, rows), rows, None if X.scaled else seen


def first_of_each(contents) -> np.ndarray:
    """Return for each image the number of the first one that holds the same.

    Parameters
    ----------
    contents : sequence of bytes
        As :func:`content` gives them.

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
    """Return the (row, path) of the images of several fits, rows counted on.

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
    """Say how many images are exact copies of an earlier one.

    Parameters
    ----------
    first : ndarray of shape (n,), int
        As :func:`first_of_each` gives it.
    """
    copies = np.flatnonzero(first != np.arange(len(first)))
    if len(copies):
        warn(
            f"{len(copies)} of {len(first)} training images are exact copies of "
            f"others (image {copies[0]} of image {first[copies[0]]}, counted from 0 "
            "among the normal ones). They are held out together and count once for "
            "the threshold. Remove them, or take more photographs.",
            UserWarning,
        )


def suspects_among(scores, sources, known) -> list:
    """Return the training images whose scores are suspect, the most anomalous first.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Held-out anomaly scores.
    sources : list of (row, path)
    known : NormalScores
        Of these scores.

    Returns
    -------
    list of Bunch
        With "row", "path" and "ratio", how many times the usual score theirs is.
    """
    odd = np.flatnonzero(known.suspects)
    ratios = scores / known.usual if known.usual > 0 else np.full(len(scores), np.inf)
    return [
        Bunch(row=sources[i][0], path=sources[i][1], ratio=float(ratios[i]))
        for i in odd[np.argsort(-scores[odd], kind="stable")]
    ]


def warn_of_suspects(suspects, n):
    """Name the training images that look odd among the other good ones.

    Parameters
    ----------
    suspects : list of Bunch
        With "row", "path" and "ratio", the most anomalous first.
    n : int
        How many images were held out.
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
        f"{'; '.join(names)}{more}. They stay part of the model, but the threshold "
        "does not count them. Look at them, and fit again without those that show a "
        "defect (suspects_ lists all of them).",
        UserWarning,
    )
