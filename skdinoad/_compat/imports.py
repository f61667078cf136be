"""Importing torch, timm and scikit-learn in less time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without looking for garbage, which takes large imports much of their time.

    They make millions of objects and next to none in vain, and Python would look all
    of them through again and again.
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
    """Call all objects old, unseen: as new ones the next collection would see them."""
    if not gc.get_freeze_count():  # else the caller's frozen objects would thaw
        gc.freeze()
        gc.unfreeze()
