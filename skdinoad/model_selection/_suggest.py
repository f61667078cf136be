"""Choose settings on good images only, using planted defects."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.model_selection import GridSearchCV, GroupKFold, ParameterGrid

from skdinoad._compat.sklearn import Interval
from skdinoad._inputs.copies import content, first_of_each
from skdinoad._inputs.estimators import drawing_by
from skdinoad._inputs.images import as_images, as_shown
from skdinoad._inputs.pixels import hidden_pixels
from skdinoad._typing import DefectKind, DetectorLike, ImagesLike, RandomState
from skdinoad.datasets import plant_defects
from skdinoad.detectors import AnomalyDINO
from skdinoad.metrics import detection_scorer

__all__ = ["suggest"]

#: Default grid, cheap settings before expensive ones.
_SIZES = (224, 336, 448)
_LAYERS = ("auto", (-6,), (-6, -4), (-1,))


def suggest(
    X: ImagesLike,
    estimator: DetectorLike | None = None,
    param_grid: dict[str, Any] | list[dict[str, Any]] | None = None,
    *,
    kinds: DefectKind | Sequence[DefectKind] = ("scratch", "blob", "cutpaste"),
    size: float = 0.1,
    cv: int = 3,
    margin: float = 0.01,
    random_state: RandomState = 0,
) -> GridSearchCV:
    """Search settings on good images only, with defects planted in held-out images.

    Each good image gets a copy with a planted defect. In cross-validation, models learn
    from the good images of the training folds and are evaluated on the good and
    defective images of the test fold. A good image and its copies share a fold. The
    search selects the *first* setting whose mean of image AUROC and AUPRO is within
    ``margin`` of the best, so list cheap settings before expensive ones.

    Planted defects differ from real ones. They show which input size still detects a
    mark of their ``size`` and which layers localise it. They cannot rank methods for
    wrong parts or subtle stains.

    Parameters
    ----------
    X : array, list of images or paths
        Good images without transparency, at least twice ``cv``.
    estimator : detector or Pipeline, default=None
        What to tune; None means ``AnomalyDINO()``, which needs no alignment.
    param_grid : dict or list of dict, default=None
        As in ``GridSearchCV``, cheap settings first. None compares the layers "auto",
        the sixth from the end, the sixth and fourth from the end, and the last one; for
        a single detector each at 224, 336 and 448 pixels. In a Pipeline the aligner
        sets the size; to compare sizes pass, for example,
        ``{"pcaaligner__output_size": [...]}``.
    kinds : sequence of str, default=("scratch", "blob", "cutpaste")
    size : float, default=0.1
        Kinds of the relevant defects, and their extent relative to the shorter edge;
        see :func:`~skdinoad.datasets.plant_defect`.
    cv : int, default=3
        Number of folds.
    margin : float, default=0.01
        Minimum improvement that justifies a more expensive setting.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    search : GridSearchCV, fitted
        ``best_params_``; ``best_estimator_``, fitted on all good images;
        ``cv_results_`` with ``mean_test_image_auroc``, ``mean_test_aupro`` and the
        other metrics of :func:`~skdinoad.metrics.detection_scorer` for every setting.
        Features are computed once for all folds, so its times are not comparable.

    Raises
    ------
    ValueError
        If X holds too few different images, or a parameter is invalid.

    Examples
    --------
    >>> from skdinoad import AnomalyDINO, DinoFeatures
    >>> from skdinoad.datasets import make_screws
    >>> from skdinoad.model_selection import suggest
    >>> X, _ = make_screws(6, size=96)
    >>> detector = AnomalyDINO(features=DinoFeatures(weights="random:0"))
    >>> grid = {"features__image_size": [56, 112]}
    >>> search = suggest(X, detector, grid, cv=2, size=0.2)
    >>> len(search.cv_results_["mean_test_aupro"])
    2
    """
    estimator = AnomalyDINO() if estimator is None else estimator
    grid = _default_grid(estimator) if param_grid is None else param_grid
    _check(cv, margin, grid)
    images = as_images(X)
    shown = as_shown(images)
    X = [_opaque(image, images.name(i)) for i, image in enumerate(shown)]
    group = first_of_each([content(images, i) for i in range(len(images))])
    n = len(set(group.tolist()))
    if n < 2 * cv:
        raise ValueError(
            f"suggest needs two different good images for each of cv={cv} folds; got "
            f"{n}. Pass more images, or a smaller cv."
        )
    rng = drawing_by(random_state)
    bad, masks = plant_defects(X, kinds=kinds, size=size, random_state=rng)
    search = GridSearchCV(
        estimator,
        grid,
        scoring=detection_scorer,
        cv=list(GroupKFold(cv).split(np.arange(2 * len(X)), groups=np.tile(group, 2))),
        refit=_Cheapest(margin),
        error_score="raise",
    )
    return search.fit([*X, *bad], [*(np.zeros_like(m) for m in masks), *masks])


class _Cheapest:
    """Select the first setting within a margin of the best."""

    def __init__(self, margin):
        self.margin = margin

    def __call__(self, results):
        quality = results["mean_test_image_auroc"] + results["mean_test_aupro"]
        return int(np.argmax(quality / 2 >= quality.max() / 2 - self.margin))


def _check(cv, margin, grid):
    if not Interval(Integral, 2, None, closed="left").is_satisfied_by(cv):
        raise ValueError(f"cv={cv!r}: expected a number of folds, at least 2.")
    if not isinstance(margin, Real) or not margin >= 0:
        raise ValueError(f"margin={margin!r}: expected a number, at least 0.")
    try:
        tried = len(ParameterGrid(grid))
    except (TypeError, ValueError) as error:
        raise type(error)(f"param_grid={grid!r}: {error}") from error
    if not tried:
        raise ValueError(f"param_grid={grid!r}: expected at least one setting.")


def _opaque(image, name):
    if image.shape[-1] == 4 and hidden_pixels(image).any():
        raise ValueError(
            f"{name} has hidden pixels, where no defect can be planted. Pass whole "
            "photographs, and a Pipeline whose first step hides irrelevant regions."
        )
    return image[..., :3]


def _default_grid(estimator):
    """Return the grid for a detector, or for the last step of a Pipeline."""
    steps = getattr(estimator, "steps", None)
    prefix = f"{steps[-1][0]}__features__" if steps else "features__"
    grid = {f"{prefix}layers": [*_LAYERS]}
    if not steps or len(steps) == 1:  # the size behind an aligner is the aligner's
        grid[f"{prefix}image_size"] = [*_SIZES]
    return grid
