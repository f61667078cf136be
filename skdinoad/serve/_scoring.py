"""What the model's thread does: uploads become results, each image by itself."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from skdinoad._inputs.files import read_bytes
from skdinoad._inputs.images import as_shown
from skdinoad._typing import DetectorLike
from skdinoad.results import Result, iter_results

__all__ = ["ScoredUpload", "Upload", "reason", "score_uploads"]

#: What messages call an image: clients know no rows.
_NAME = "the image"


@dataclass(eq=False)
class Upload:
    """The content of an image file, and what is asked of it, by which address."""

    content: bytes
    name: str
    wants_map: bool
    path: str = "/score"


@dataclass(eq=False)
class ScoredUpload:
    """The result of an upload; it has a heat map and regions where they are wanted."""

    name: str
    pixels: np.ndarray
    result: Result

    def shown(self):
        """Return the image for the eye, (H, W, 3)."""
        return np.ascontiguousarray(as_shown([self.pixels])[0][..., :3])


def score_uploads(model: DetectorLike, uploads: list) -> list:
    """Return what becomes of each upload: a ScoredUpload, or the error that it raised.

    All that can be read are scored together; a broken one spoils no other.
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
    """Return an exception's message as a client should read it."""
    text = " ".join(str(error).split())
    return re.sub(r"X\[\d+\]", _NAME, text)
