"""Display of images before and after alignment."""

from typing import Any

import numpy as np

from skdinoad._inputs.images import as_shown
from skdinoad._typing import ImagesLike, Self
from skdinoad.plotting._shared import axes_grid

__all__ = ["AlignmentDisplay"]


class AlignmentDisplay:
    """Display of images before and after alignment, with their valid pixels.

    Parameters
    ----------
    before : array or list of images or paths
    after : ndarray of shape (n, s, t, 4), uint8
        Output of the aligner; the fourth channel marks valid pixels.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of shape (3, n), matplotlib Axes

    Examples
    --------
    >>> from skdinoad import PCAAligner
    >>> from skdinoad.datasets import make_screws
    >>> from skdinoad.plotting import AlignmentDisplay
    >>> X, _ = make_screws(2, size=96)
    >>> aligner = PCAAligner(output_size=64).fit(X)
    >>> AlignmentDisplay.from_estimator(aligner, X).axes_.shape
    (3, 2)
    """

    def __init__(self, before: ImagesLike, after: ImagesLike) -> None:
        self.before, self.after = before, after

    @classmethod
    def from_estimator(cls, aligner: Any, X: ImagesLike, *, axes: Any = None) -> Self:
        """Align images and show them.

        Parameters
        ----------
        aligner : fitted transformer of images to images
            PCAAligner, AffineAligner, ForegroundMask, or a Pipeline of these.
        X : array, list of images or paths
        axes : array of 3 x n Axes, or None

        Returns
        -------
        AlignmentDisplay
            The plotted display.
        """
        return cls(X, aligner.transform(X)).plot(axes)

    @classmethod
    def from_predictions(
        cls, X: ImagesLike, Z: ImagesLike, *, axes: Any = None
    ) -> Self:
        """Show images X and their aligned versions Z."""
        return cls(X, Z).plot(axes)

    def plot(self, axes: Any = None) -> Self:
        """Draw into 3 x n axes, or a new figure; return self."""
        before, after = as_shown(self.before), as_shown(self.after)
        self.axes_ = axes_grid(axes, 3, len(before))
        self.figure_ = self.axes_.flat[0].figure
        for column, image, aligned in zip(self.axes_.T, before, after):
            opaque = np.full(aligned.shape[:2], 255, np.uint8)
            valid = aligned[..., 3] if aligned.shape[-1] == 4 else opaque
            column[0].imshow(image[..., :3])
            column[1].imshow(aligned[..., :3])
            column[2].imshow(valid, cmap="gray", vmin=0, vmax=255)
            for ax in column:
                ax.set(xticks=[], yticks=[])  # keep the frame: valid pixels are white
        for ax, name in zip(self.axes_[:, 0], ("before", "after", "valid")):
            ax.set_title(name, loc="left")
        return self
