"""Weights from the model hub: its local cache, or a download with a timeout."""

import os
import re
import threading
import time
from concurrent.futures import Future, wait
from hashlib import sha256
from pathlib import Path

from skdinoad._compat.huggingface import download
from skdinoad._compat.timm import timm
from skdinoad.features._state import Found, read

__all__ = ["HubError", "from_hub", "offline"]

#: Seconds without an answer after which the hub counts as unreachable.
HUB_TIMEOUT = 5.0

#: A download may stall this many times as long, because slow connections pause.
_PAUSES = 3

_FILE = "model.safetensors"


class HubError(RuntimeError):
    """Raised if the hub gives no usable weights; the message is the reason."""


def from_hub(model: str):
    """Return the genuine weights of a timm model, or None if the hub is not contacted.

    Raises
    ------
    HubError
        If the hub cannot be reached, stalls, or sends something else.
    ValueError
        If a file in its cache is damaged; the message names the path and the remedy.
    """
    from huggingface_hub import try_to_load_from_cache

    repository = _repository(model)
    if repository is None:
        return None
    cached = try_to_load_from_cache(repository, _FILE)
    if isinstance(cached, str):
        return _from_cache(Path(cached), repository)
    return None if offline() else _from_download(repository)


def offline() -> bool:
    """Return whether SKDINOAD_OFFLINE or HF_HUB_OFFLINE forbids to contact the hub."""
    from huggingface_hub import constants

    ours = os.environ.get("SKDINOAD_OFFLINE", "0") not in {"", "0"}
    return ours or constants.HF_HUB_OFFLINE


def _repository(model):
    config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        return None
    repository = config.hf_hub_id
    return repository + model if repository.endswith("/") else repository


# -- files --------------------------------------------------------------------------


def _from_cache(path, repository):
    remedy = _remedy(path)
    try:
        tensors = _checked(path)
    except ValueError as error:
        raise ValueError(f"{error} {remedy}") from error
    return Found(tensors, f"hub cache, {repository}", path, remedy)


def _from_download(repository):
    path = _download(repository)
    try:
        tensors = _checked(path)
    except ValueError as error:
        _discard(path)
        raise HubError(f"the downloaded file is not valid: {error}") from error
    return Found(tensors, f"hub download, {repository}", path, _remedy(path))


def _remedy(path):
    return f"Delete {str(path.resolve())!r} to download it again."


def _checked(path):
    """Return the tensors of a file in the hub's cache, after checking its sha256.

    The cache names files by their sha256. On systems without symbolic links it does
    not, and only files that cannot be read are detected.
    """
    name = _blob(path).name
    if re.fullmatch("[0-9a-f]{64}", name):
        found = sha256(path.read_bytes()).hexdigest()
        if found != name:
            raise ValueError(
                f"The weights file {str(path)!r} is damaged: it has sha256 {found}, "
                f"and the hub named it {name}."
            )
    return read(path)


def _discard(path):
    """Remove a file from the hub's cache, so that it is not used again."""
    for part in (path.resolve(), _blob(path), path):
        part.unlink(missing_ok=True)


def _blob(path):
    """Return the target of a link in the hub's cache, which may be a link itself."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


# -- the download -------------------------------------------------------------------


def _download(repository):
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, _FILE)
    _in_time(lambda _: get_hf_file_metadata(url, timeout=HUB_TIMEOUT), HUB_TIMEOUT)

    def fetch(watch):
        path = download(repository, _FILE, watch.tell)
        if watch.given_up:  # the caller no longer waits, so the file is not checked
            _discard(path)
        return path

    return _in_time(fetch, _PAUSES * HUB_TIMEOUT)


def _in_time(call, patience):
    """Return ``call(watch)``; raise HubError if it fails or stalls.

    The call runs in a thread, because name resolution and the hub client's retries have
    no time limit of their own.
    """
    watch, answer = _Watch(), Future()
    arguments = (call, watch, answer)
    threading.Thread(target=_settle, args=arguments, daemon=True).start()
    try:
        while not answer.done() and (left := watch.left(patience)) > 0:
            wait([answer], timeout=left)
        if not answer.done():
            raise HubError(f"no data for {patience:g} seconds")
    finally:
        watch.given_up = not answer.done()
    if error := answer.exception():
        line = str(error).partition("\n")[0]
        raise HubError(f"{type(error).__name__}: {line}") from error
    return answer.result()


def _settle(call, watch, answer):
    try:
        answer.set_result(call(watch))
    except Exception as error:  # any failure means that the hub is not reachable
        answer.set_exception(error)


class _Watch:
    """Measure for how long a download has made no progress.

    An unstable connection may restart the download repeatedly. Only receiving more of
    the file than before counts as progress.
    """

    def __init__(self):
        self.given_up = False
        self._now = self._most = 0
        self._since = time.monotonic()

    def tell(self, n):
        if self.given_up:
            raise TimeoutError("this download was cancelled")
        self._now += n
        if self._now > self._most:
            self._most, self._since = self._now, time.monotonic()

    def left(self, patience):
        return self._since + patience - time.monotonic()
