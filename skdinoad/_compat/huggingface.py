"""The one door to downloads from the model hub."""

from pathlib import Path

__all__ = ["download"]

#: Bytes between two reports of a download.
_PIECE = 2**16


def download(repository: str, file: str, tell) -> Path:
    """Download a file of a repository into the hub's cache and return its path.

    Parameters
    ----------
    repository, file : str
    tell : callable
        Called with the number of bytes that have come since the last call; less than 0
        if the hub starts again. What it raises ends the download.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def update(self, n=1):
            tell(n)
            return super().update(n)

    # The hub's own pieces of 10 MB take minutes on a slow line, and meanwhile nobody
    # can tell it from one that is dead.
    whole, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, _PIECE
    try:
        return Path(hf_hub_download(repository, file, tqdm_class=Bar))
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = whole
