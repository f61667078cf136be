"""Import torch, timm and scikit-learn faster."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable garbage collection during imports, which speeds up large ones.

    Imports create millions of objects and hardly any garbage, but Python would scan all
    objects repeatedly.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _grow_old()
        if collects:
            gc.enable()


def _grow_old():
    """Move all objects to the oldest generation, so that they are not scanned soon."""
    if not gc.get_freeze_count():  # do not unfreeze the caller's frozen objects
        gc.freeze()
        gc.unfreeze()
