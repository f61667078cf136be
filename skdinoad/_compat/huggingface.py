"""Downloads from the Hugging Face hub."""

from pathlib import Path

__all__ = ["download"]

#: Bytes between two progress reports of a download.
_PIECE = 2**16


def download(repository: str, file: str, tell) -> Path:
    """Download a file of a repository into the hub's cache and return its path.

    Parameters
    ----------
    repository, file : str
    tell : callable
        Called with the number of bytes received since the last call, which is negative
        if the download restarts. An exception raised by it ends the download.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def update(self, n=1):
            tell(n)
            return super().update(n)

    # The default chunks of 10 MB take minutes on a slow connection, which could not be
    # distinguished from a dead connection.
    whole, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, _PIECE
    try:
        return Path(hf_hub_download(repository, file, tqdm_class=Bar))
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = whole
