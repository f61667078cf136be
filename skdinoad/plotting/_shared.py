"""Helpers of displays that create axes and check lengths."""

import numpy as np

__all__ = ["axes_grid", "check_lengths", "exactly"]


def axes_grid(axes, rows, columns):
    """Return the given axes, or those of a new figure, as a rows x columns array."""
    if axes is None:
        import matplotlib.pyplot as plt

        size = (2.6 * columns, 2.6 * rows) if rows > 1 else None
        _, axes = plt.subplots(
            rows, columns, squeeze=False, figsize=size, layout="constrained"
        )
    axes = np.asarray(axes)
    if axes.size != rows * columns:
        raise ValueError(f"Got {axes.size} axes, expected {rows} x {columns}.")
    return axes.reshape(rows, columns)


def check_lengths(n, **parts):
    for name, part in parts.items():
        if hasattr(part, "__len__") and len(part) != n:
            raise ValueError(f"Got {n} images and {len(part)} {name}.")


def exactly(n, maps, others="images"):
    """Yield n maps; raise an error if there are fewer or more."""
    count = 0
    for count, heat in enumerate(maps, 1):
        if count > n:
            break
        yield heat
    if count != n:
        more = " or more" * (count > n)
        raise ValueError(f"Got {n} {others} and {count} maps{more}.")
