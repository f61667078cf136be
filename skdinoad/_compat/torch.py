"""Helpers for torch: devices, dtypes, random states and global settings."""

import threading
import weakref
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from skdinoad._compat.caller import warn

__all__ = [
    "as_tensor",
    "isolated_torch_state",
    "isolated_torch_steps",
    "multiplies_bfloat16",
    "resident",
    "resolve_device",
    "resolve_dtype",
    "seeded",
]


def resolve_device(device: str = "auto") -> torch.device:
    """Return the torch device of a ``device`` parameter.

    ``"auto"`` uses CUDA, then Apple's MPS, then the CPU. If a device is missing, the
    CPU is used with a warning, so that a model fitted on a GPU works on a laptop.
    """
    if device == "auto":
        return torch.device(_best_device())
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r}: expected 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' ..."
        ) from error
    if wanted.type != "cpu" and not _available(wanted.type):
        warn(
            f"device={device!r} is not available on this machine; using the CPU.",
            UserWarning,
        )
        return torch.device("cpu")
    return wanted


def _best_device() -> str:
    return next((name for name in ("cuda", "mps") if _available(name)), "cpu")


def _available(kind: str) -> bool:
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(kind)
    return backend is not None and backend.is_available()


def resolve_dtype(dtype: str) -> torch.dtype:
    """Return the torch dtype of a name ("float32", "bfloat16" or "float16")."""
    return getattr(torch, dtype)


def as_tensor(array) -> torch.Tensor:
    """Return a tensor that shares a numpy array's memory; never write to it.

    Also accepts read-only arrays, such as a bank that ``joblib.load`` memory-maps.
    """
    return torch.from_numpy(array if array.flags.writeable else _writable(array))


def _writable(array):
    """Return a view of a read-only array that is marked as writable.

    torch warns about read-only arrays. Silencing the warning is no option, because
    ``warnings.catch_warnings`` resets Python's record of warnings already shown.
    """
    view = _View()
    view.source = array  # keeps the memory alive
    address, _ = array.__array_interface__["data"]
    view.__array_interface__ = {
        **array.__array_interface__,
        "data": (address, False),
    }
    return np.asarray(view)


class _View:
    """Object with an array interface, which numpy converts to an array."""


def resident(array, device, *, keep=True) -> torch.Tensor:
    """Return a numpy array as a tensor on a device; never write to it.

    On the CPU they share memory. A copy on a GPU is cached during the lifetime of the
    array, or of the array it is a view of, so that a layer of a memory bank is
    transferred once instead of with every batch. Pass ``keep=False`` for arrays used
    once.
    """
    device = torch.device(device)
    if device.type == "cpu" or not keep:
        return as_tensor(array).to(device)
    place = array.__array_interface__["data"][0], array.strides
    key = (*place, array.shape, array.dtype.str, str(device))
    if key not in _RESIDENT:
        _RESIDENT[key] = as_tensor(array).to(device)
        weakref.finalize(_owner(array), _RESIDENT.pop, key, None)
    return _RESIDENT[key]


def _owner(array):
    """Return the array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


_RESIDENT = {}


def multiplies_bfloat16(device) -> bool:
    """Whether a device is a CPU with instructions for products of bfloat16.

    Other CPUs emulate them, which is slower than float32.
    """
    known = getattr(torch.cpu, "get_capabilities", dict)()
    able = known.get("avx512_bf16") or known.get("amx_bf16")
    return torch.device(device).type == "cpu" and bool(able)


@contextmanager
def seeded(seed: int):
    """Seed torch inside the block; the caller's global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # CPU only
        yield


@contextmanager
def isolated_torch_state():
    """Compute with default settings of torch and numpy; also usable as a decorator.

    Callers may score inside ``torch.no_grad`` or ``torch.autocast``, use float64 or a
    GPU by default, or turn numpy's warnings into errors. Training still needs
    gradients, and scores must not depend on such settings.
    """
    with ExitStack() as stack:
        stack.enter_context(_PROCESS)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        # get_default_device of torch 2.4 ignores `with device`, so create a tensor.
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in filter(_casts, ("cpu", "cuda", "mps")):
            # Autocast caches casts until the outermost block ends, which may be the
            # caller's: training inside it would use outdated weights.
            off = torch.autocast(kind, enabled=False, cache_enabled=False)
            stack.enter_context(off)
        yield


def isolated_torch_steps(steps):
    """Isolate each step of an iterator, but not the caller's code between steps."""
    end = object()
    while True:
        with isolated_torch_state():
            step = next(steps, end)
        if step is end:
            return
        yield step


def _casts(kind):
    """Whether autocast is on; torch before 2.5 does not support it for MPS."""
    try:
        return torch.is_autocast_enabled(kind)
    except RuntimeError:
        return False


class _Process:
    """Process-wide torch settings, replaced by ours while any thread computes.

    The first thread to enter saves the caller's settings and the last one to leave
    restores them; otherwise threads would restore each other's settings.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self):
        with self._lock:
            if not self._inside:
                self._found = _settings()
                # Use deterministic algorithms where torch has them; warn otherwise.
                _set(torch.float32, "highest", self._found[2], True)
            self._inside += 1

    def __exit__(self, *_):
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set(*self._found)


_PROCESS = _Process()


def _settings():
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # set differently per device type
        precision = None
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.get_default_dtype(), precision, deterministic, warn_only


def _set(dtype, precision, deterministic, warn_only):
    now = _settings()
    if dtype != now[0]:
        torch.set_default_dtype(dtype)
    if None not in (precision, now[1]) and precision != now[1]:
        torch.set_float32_matmul_precision(precision)
    if deterministic and warn_only != now[3]:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
