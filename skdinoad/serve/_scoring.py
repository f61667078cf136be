"""Decode and score uploads in the model thread."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from skdinoad._inputs.files import read_bytes
from skdinoad._inputs.images import as_shown
from skdinoad._typing import DetectorLike
from skdinoad.results import Result, iter_results

__all__ = ["ScoredUpload", "Upload", "reason", "score_uploads"]

#: Name of an image in messages, because clients know no row numbers.
_NAME = "the image"


@dataclass(eq=False)
class Upload:
    """The content of an image file, with the options and path of the request."""

    content: bytes
    name: str
    wants_map: bool
    path: str = "/score"


@dataclass(eq=False)
class ScoredUpload:
    """The result of an upload, with heat map and regions if requested."""

    name: str
    pixels: np.ndarray
    result: Result

    def shown(self):
        """Return the image for display, (H, W, 3)."""
        return np.ascontiguousarray(as_shown([self.pixels])[0][..., :3])


def score_uploads(model: DetectorLike, uploads: list) -> list:
    """Score uploads; return a ScoredUpload or an exception for each.

    All readable images are scored together. One unreadable image does not fail the
    others.
    """
    out = [_read(upload) for upload in uploads]
    rows = [i for i, item in enumerate(out) if isinstance(item, np.ndarray)]
    for wants_map in (False, True):
        some = [i for i in rows if uploads[i].wants_map == wants_map]
        images = [out[i] for i in some]
        how: Any = {"maps": wants_map, "regions": wants_map, "errors": "keep"}
        for i, result in zip(some, iter_results(model, images, **how) if some else ()):
            scored = ScoredUpload(uploads[i].name, out[i], result)
            out[i] = result.error or scored
    return out


def _read(upload):
    try:
        return read_bytes(upload.content, _NAME)
    except Exception as error:
        return error


def reason(error: Exception) -> str:
    """Return an exception's message in the form sent to clients."""
    text = " ".join(str(error).split())
    return re.sub(r"X\[\d+\]", _NAME, text)
