"""Small helpers around torch: which device, which dtype, which random state."""

import warnings
import weakref
from contextlib import contextmanager

import torch

__all__ = [
    "as_tensor",
    "multiplies_bfloat16",
    "resident",
    "resolve_device",
    "resolve_dtype",
    "seeded",
]


def resolve_device(device: str = "auto") -> torch.device:
    """Return the torch device that a ``device`` parameter asks for.

    ``"auto"`` takes CUDA, then Apple's MPS, then the CPU. A device that this
    machine lacks falls back to the CPU with a warning, so that a model fitted on a
    GPU opens on a laptop.
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
        warnings.warn(
            f"device={device!r} is not available on this machine; using the CPU.",
            UserWarning,
            stacklevel=2,
        )
        return torch.device("cpu")
    return wanted


def _best_device() -> str:
    return next((name for name in ("cuda", "mps") if _available(name)), "cpu")


def _available(kind: str) -> bool:
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(kind)
    return backend is not None and backend.is_available()


def resolve_dtype(dtype: str) -> torch.dtype:
    """Return the torch dtype of that name ("float32", "bfloat16" or "float16")."""
    return getattr(torch, dtype)


def as_tensor(array) -> torch.Tensor:
    """Return a tensor that shares a numpy array's memory; never write to it.

    torch warns of read-only arrays, such as a bank that ``joblib.load`` maps from
    disk; for reading they are as good as any.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def resident(array, device, *, keep=True) -> torch.Tensor:
    """Return a numpy array as a tensor on a device; never write to it.

    On the CPU the two share memory. A copy on a GPU is kept as long as the array
    lives, so that a memory bank travels there once, not with every batch; pass
    ``keep=False`` for what is used once.
    """
    device = torch.device(device)
    if device.type == "cpu" or not keep:
        return as_tensor(array).to(device)
    key = (id(array), str(device))
    if key not in _RESIDENT:
        _RESIDENT[key] = as_tensor(array).to(device)
        weakref.finalize(array, _RESIDENT.pop, key, None)
    return _RESIDENT[key]


_RESIDENT = {}


def multiplies_bfloat16(device) -> bool:
    """Whether a device is a CPU with instructions for products of bfloat16.

    Others emulate them, which takes longer than float32.
    """
    known = getattr(torch.cpu, "get_capabilities", dict)()
    able = known.get("avx512_bf16") or known.get("amx_bf16")
    return torch.device(device).type == "cpu" and bool(able)


@contextmanager
def seeded(seed: int):
    """Seed torch inside the block; the caller's global random state never moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone
        yield
