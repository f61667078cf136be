"""What the model thread does: uploads become verdicts, each image for itself."""

from dataclasses import dataclass

import numpy as np

from skdinoad._inputs.files import read_bytes
from skdinoad._inputs.images import as_shown
from skdinoad.pipeline import predict_map
from skdinoad.verdicts import Judge

__all__ = ["Scored", "Upload", "score_uploads"]

#: What messages call an image: clients know no rows.
_NAME = "the image"


@dataclass(eq=False)
class Upload:
    """The content of an image file, and what is asked of it, at which door."""

    content: bytes
    name: str
    wants_map: bool
    door: str = "/score"


@dataclass(eq=False)
class Scored:
    """What was found out about an upload; ``heat`` where a map was wanted."""

    row: dict
    pixels: np.ndarray
    heat: np.ndarray | None

    def shown(self):
        """Return the image for the eye, (H, W, 3)."""
        return np.ascontiguousarray(as_shown([self.pixels])[0][..., :3])


def score_uploads(judge: Judge, uploads: list) -> list:
    """Return what becomes of each upload: a Scored, or the exception that it raised.

    All that can be read are scored together; if that fails each is scored alone, so
    that none suffers from another.
    """
    out = [_read(upload) for upload in uploads]
    rows = [i for i, item in enumerate(out) if isinstance(item, np.ndarray)]
    found = _judged(judge, [(uploads[i], out[i]) for i in rows])
    for i, item in zip(rows, found):
        out[i] = item
    return out


def _read(upload):
    try:
        return read_bytes(upload.content, _NAME)
    except Exception as error:
        return error


def _judged(judge, pairs):
    """Return a Scored or an exception for each (upload, pixels)."""
    if not pairs:
        return []
    try:
        return _judged_together(judge, pairs)
    except Exception as error:
        if len(pairs) == 1:
            return [error]
        return [found for pair in pairs for found in _judged(judge, [pair])]


def _judged_together(judge, pairs):
    images = [pixels for _, pixels in pairs]
    scores = judge.model.score_samples(images)
    mapped = [i for i, (upload, _) in enumerate(pairs) if upload.wants_map]
    heats = predict_map(judge.model, [images[i] for i in mapped]) if mapped else ()
    heat_of = dict(zip(mapped, heats))
    return [
        Scored(judge.row(upload.name, score), pixels, heat_of.get(i))
        for i, ((upload, pixels), score) in enumerate(zip(pairs, scores))
    ]


def reason(error: Exception) -> str:
    """Return an exception's message as a client should read it."""
    return " ".join(str(error).split()).replace("X[0]", _NAME)
