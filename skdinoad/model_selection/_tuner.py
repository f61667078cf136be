"""Thresholds by cross-validation."""

from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.maps import stacked
from skdinoad._arrays.thresholds import (
    OBJECTIVES,
    best_bin,
    best_threshold,
    conformal_p_values,
    conformal_rank,
    controlled_bin,
    cost_objective,
    known_threshold,
    normals_needed,
    recall_objective,
)
from skdinoad._compat.sklearn import HasMethods, Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.copies import content, first_of_each, warn_of_copies
from skdinoad._inputs.estimators import ImageEstimator
from skdinoad._inputs.grids import check_grids, holds_images
from skdinoad._inputs.images import as_images, take
from skdinoad._inputs.labels import are_masks, labels_of, named_array
from skdinoad._typing import (
    DetectorLike,
    ImagesLike,
    LabelsLike,
    OneOrList,
    RandomState,
    Self,
)
from skdinoad.metrics._streaming import upper_edges
from skdinoad.model_selection._folds import (
    check_scores,
    checked_groups,
    count_once,
    fitted,
    merged,
    score_fold,
    splits_of,
)
from skdinoad.pipeline import iter_maps, predict_map

__all__ = ["ThresholdTunerCV"]

_KINDS = {1: "normal", -1: "anomalous"}


class ThresholdTunerCV(ImageEstimator, OutlierMixin, MetaEstimatorMixin, BaseEstimator):
    """Choose the threshold of a detector or Pipeline from held-out scores.

    Without labels the threshold keeps a target false alarm rate: normal images are
    scored in cross-validation, and the threshold is the conformal quantile of their
    held-out scores. With labels it is the exact optimum of a metric over all
    thresholds. The final model is then fitted on all normal images.

    Parameters
    ----------
    estimator : detector or Pipeline
        Pass a fitted detector as ``FrozenEstimator(detector)``, with images that it has
        not learned from. For detectors that train a network set ``holdout=None``, since
        the networks for their own threshold are not needed.
    target_fpr : float, default=0.01
        Target false alarm rate. Needs at least ``1 / target_fpr - 1`` normal images (of
        each group): 99 for 0.01, 19 for 0.05, 9 for 0.1.
    scoring : {"f1", "balanced_accuracy", "recall", "cost"}, callable or None, \
default=None
        The metric to optimise, if ``y`` labels anomalous images: F1 of the anomalous
        class, balanced accuracy, the recall with at most a share ``target_fpr`` of
        normal images flagged, or the lowest cost. A callable ``metric(y_true, y_pred)``
        of labels, higher = better, is evaluated at every threshold. None uses
        ``target_fpr`` alone.
    cost_matrix : array-like of shape (2, 2), default=((0, 10), (1, 0))
        For "cost". Rows are the truth and columns the prediction, each in the order
        -1, +1, as in ``sklearn.metrics.confusion_matrix``. By default a missed defect
        costs as much as ten false alarms.
    target_pixel_fpr : float or None, default=None
        If given, ``pixel_threshold_`` is also chosen: the expected share of a normal
        image's pixels above it is at most this. Needs ``1 / target_pixel_fpr - 1``
        normal images. With ``scoring`` and masks as ``y``, the pixel threshold is the
        optimum of the same metric, and "recall" uses this rate for pixels.
    target_review_rate : float or None, default=None
        If given, ``review_offset_`` is also chosen, for ``predict_review``: at most
        this share of normal images is reviewed or rejected. Must be at least
        ``target_fpr``; cannot be combined with ``scoring``.
    target_fnr : float or None, default=None
        Alternative to ``target_review_rate`` if ``y`` labels anomalous images: at most
        this share of anomalous images is accepted. Needs at least
        ``1 / target_fnr - 1`` of them (of each group): 19 for 0.05, 9 for 0.1.
    cv : int, splitter or iterable of (train, test), default=5
        An int is the number of folds, limited to the number of normal images;
        labels and groups are distributed evenly over folds. To keep lots together pass
        the splits: ``list(GroupKFold(5).split(X, groups=lots))``.
    refit : bool, default=True
        Whether to fit the final model on all normal images. False keeps the model of a
        ``cv`` with a single split, such as ``ShuffleSplit(1, test_size=0.3)``; the
        guarantee is then exact, see Notes.
    n_jobs : int or None, default=None
        Number of folds in parallel.
    random_state : int, default=0
        Seed of the folds if ``cv`` is an int. Folds depend on the order of images.

    Attributes
    ----------
    estimator_ : estimator
        The final model.
    offset_ : float, or dict of group to float
        ``score_samples`` below it are anomalous. The ``offset_`` of the detector inside
        ``estimator_`` is not used.
    review_offset_ : float, or dict of group to float
        ``score_samples`` of at least this are accepted without review; only with
        ``target_review_rate`` or ``target_fnr``. Never below ``offset_``.
    pixel_threshold_ : float, or dict of group to float
        Map values above it are anomalous; only with ``target_pixel_fpr``, or
        ``scoring`` and masks.
    holdout_scores_ : ndarray of shape (n,)
        Held-out ``score_samples`` of each row; NaN for rows that ``cv`` never holds
        out. Exact copies are held out together and count once for thresholds and
        p-values.
    labels_ : ndarray of shape (n,)
        +1 / -1 of each row.

    See Also
    --------
    sklearn.model_selection.TunedThresholdClassifierCV : For classifiers.

    Notes
    -----
    *Guarantee.* If normal images are exchangeable and the model that scores the
    held-out images is the final model (``refit=False``, or a FrozenEstimator), a new
    normal image is flagged with probability at most ``target_fpr``, for any detector
    and any number of images. The probability includes the random choice of the held-out
    images. With folds and ``refit=True`` the guarantee is not proved, but the rate was
    measured (``benchmarks/accuracy/false_alarms.py``): the final model has seen more
    images than the models of the folds, so normal images look slightly more normal to
    it.

    *Review* has the same guarantee: each threshold keeps its own rate. The rate
    ``target_fnr`` holds for defects like those of ``y``; new kinds of defects may look
    more normal.

    *Groups in cross_validate* are passed by scikit-learn's metadata routing, see
    Examples.

    *With labels* the threshold is the optimum on the held-out scores of these images.
    To estimate its quality on other images, pass this estimator to ``cross_validate``.

    References
    ----------
    Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Laxhammar,
    Falkman, "Conformal prediction for distribution-independent anomaly detection in
    streaming vessel data", 2010. Pixels: Angelopoulos, Bates, Fisch, Lei, Schuster,
    "Conformal Risk Control", ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import DinoPatch, ThresholdTunerCV
    >>> rng = np.random.default_rng(0)
    >>> F = rng.normal(size=(30, 2, 2, 8))            # features of 30 good images
    >>> tuner = ThresholdTunerCV(DinoPatch(), target_fpr=0.1).fit(F)
    >>> tuner.predict(F[:2] + 5)
    array([-1, -1])
    >>> tuner.p_values(F[:1] + 5).round(3)
    array([0.032])

    Accept, review or reject, with a rate of good images for each threshold:

    >>> tuner.set_params(target_review_rate=0.3).fit(F).predict_review(F[:2] + 5)
    array([-1, -1])
    >>> bool(tuner.offset_ < tuner.review_offset_)
    True

    One threshold for each product, scored on folds that ``cross_validate`` holds out:

    >>> import sklearn
    >>> from sklearn.model_selection import cross_validate
    >>> groups, y = np.arange(60) % 2, np.ones(60, int)
    >>> X = rng.normal(size=(60, 2, 2, 8))
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     tuner.set_fit_request(groups=True).set_score_request(groups=True)
    ...     out = cross_validate(tuner, X, y, cv=2, params={"groups": groups})
    ThresholdTunerCV(estimator=DinoPatch(), target_fpr=0.1, target_review_rate=0.3)
    >>> bool((out["test_score"] > 0.7).all())
    True
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "score_samples"])],
        "target_fpr": [Interval(Real, 0, 1, closed="neither")],
        "scoring": [StrOptions({*OBJECTIVES, "recall", "cost"}), callable, None],
        "cost_matrix": ["array-like"],
        "target_pixel_fpr": [Interval(Real, 0, 1, closed="neither"), None],
        "target_review_rate": [Interval(Real, 0, 1, closed="neither"), None],
        "target_fnr": [Interval(Real, 0, 1, closed="neither"), None],
        "cv": [Interval(Integral, 2, None, closed="left"), "cv_object"],
        "refit": ["boolean"],
        "n_jobs": [Interval(Integral, -(2**31), None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: DetectorLike,
        *,
        target_fpr: float = 0.01,
        scoring: Literal["f1", "balanced_accuracy", "recall", "cost"]
        | Callable[..., float]
        | None = None,
        cost_matrix: ArrayLike = ((0, 10), (1, 0)),
        target_pixel_fpr: float | None = None,
        target_review_rate: float | None = None,
        target_fnr: float | None = None,
        cv: Any = 5,
        refit: bool = True,
        n_jobs: int | None = None,
        random_state: RandomState = 0,
    ) -> None:
        self.estimator = estimator
        self.target_fpr = target_fpr
        self.scoring = scoring
        self.cost_matrix = cost_matrix
        self.target_pixel_fpr = target_pixel_fpr
        self.target_review_rate = target_review_rate
        self.target_fnr = target_fnr
        self.cv = cv
        self.refit = refit
        self.n_jobs = n_jobs
        self.random_state = random_state

    # -- fitting ----------------------------------------------------------------------

    @isolated_torch_state()
    def fit(
        self,
        X: ImagesLike,
        y: LabelsLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Choose the threshold, then fit on all normal images.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            Colour images are RGB; convert OpenCV's BGR with ``image[..., ::-1]``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous; None = all normal. Models are never fitted on
            anomalous rows; these are used to choose thresholds only.
        groups : array-like of shape (n,) or None
            The product shown in each image: one model for all groups, but one threshold
            per group.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there are too few normal images for the target rate (the message gives
            the number needed); if ``scoring`` needs anomalous images and there are
            none; or as raised by the estimator's ``fit``.
        """
        self._validate_params()
        self._check_kinds(X)
        with self._learning():
            self._tune(X, y, groups)
        return self

    def _tune(self, X, y, groups):
        labels = np.ones(len(X), int) if y is None else labels_of(y, len(X))
        self._grouped = groups is not None
        groups = checked_groups(groups, len(X))
        masks = y if y is not None and are_masks(y) else None
        optimum, pixels = self._wants_pixels(masks)
        first = self._first_of_copies(X, labels)
        self._check_numbers(labels, groups, first, optimum)
        splits, keep = self._splits(labels, groups, first), not self.refit
        self._counted = count_once(first, groups, splits)
        counted = self._counted if pixels else None
        task = (self.estimator, X, labels, groups, masks, counted, keep)
        folds = Parallel(n_jobs=self.n_jobs)(
            delayed(score_fold)(*task, *split) for split in splits
        )
        self._choose(folds, labels, groups, optimum, pixels)
        normal = np.flatnonzero(labels == 1)
        self.estimator_ = folds[0].model if keep else fitted(self.estimator, X, normal)

    def _choose(self, folds, labels, groups, optimum, pixels):
        """Set the thresholds from the held-out scores of the folds."""
        self.labels_, self._groups = labels, groups
        self.holdout_scores_ = np.full(len(labels), np.nan)
        for fold in folds:
            self.holdout_scores_[fold.rows] = fold.scores
        self.offset_ = self._by_group(self._offset)
        if self.target_review_rate is not None or self.target_fnr is not None:
            self.review_offset_ = self._by_group(self._review_offset)
        if pixels:
            counts = [fold.counts for fold in folds]
            self.pixel_threshold_ = self._by_group(
                lambda group: self._pixel_threshold(merged(counts, group), optimum)
            )

    # -- scoring ----------------------------------------------------------------------

    def fit_predict(
        self,
        X: ImagesLike,
        y: LabelsLike | None = None,
        groups: ArrayLike | None = None,
    ) -> np.ndarray:
        """Fit and label the same images, like ``fit(X, y, groups).predict(X, groups)``.

        A memory bank contains its training images. Use ``holdout_scores_ < offset_`` to
        see which of them are flagged when held out.
        """
        return self.fit(X, y, groups).predict(X, groups)

    def score_samples(self, X: ImagesLike) -> np.ndarray:
        """Return the normality of each image by the final model; higher = normal."""
        check_is_fitted(self, "estimator_")
        scores = self.estimator_.score_samples(X)
        check_scores(scores, np.arange(len(scores)))
        return scores

    def decision_function(
        self, X: ImagesLike, groups: ArrayLike | None = None
    ) -> np.ndarray:
        """Return ``score_samples(X)`` minus the threshold: below 0 is anomalous.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
        groups : array-like of shape (n,), if ``fit`` had groups

        Returns
        -------
        decision : ndarray of shape (n,), float64
        """
        check_is_fitted(self, "estimator_")
        offsets = self._of_each("offset_", groups, len(X))
        return self.score_samples(X) - offsets

    def predict(self, X: ImagesLike, groups: ArrayLike | None = None) -> np.ndarray:
        """Return +1 for images that look normal and -1 for anomalous ones.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
        groups : array-like of shape (n,), if ``fit`` had groups

        Returns
        -------
        labels : ndarray of shape (n,), int
        """
        return np.where(self.decision_function(X, groups) < 0, -1, 1)

    def predict_review(
        self, X: ImagesLike, groups: ArrayLike | None = None
    ) -> np.ndarray:
        """Return +1 for images to accept, 0 to review and -1 to reject.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
        groups : array-like of shape (n,), if ``fit`` had groups

        Returns
        -------
        verdicts : ndarray of shape (n,), int
            -1 where ``predict`` returns -1; otherwise 0 where ``score_samples`` is
            below ``review_offset_``, else +1.
        """
        check_is_fitted(self, "estimator_")
        if not hasattr(self, "review_offset_"):
            raise AttributeError(
                "No review threshold was chosen: pass target_review_rate, or "
                "target_fnr and labels as y in fit."
            )
        accepted, rejected = (
            self._of_each(name, groups, len(X))
            for name in ("review_offset_", "offset_")
        )
        scores = self.score_samples(X)
        return np.where(scores < rejected, -1, np.where(scores < accepted, 0, 1))

    def score(
        self,
        X: ImagesLike,
        y: LabelsLike | None = None,
        groups: ArrayLike | None = None,
    ) -> float:
        """Return the balanced accuracy: the mean recall over the labels.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous; None = all normal.
        groups : array-like of shape (n,), if ``fit`` had groups

        Returns
        -------
        score : float
            Balanced accuracy, over the labels that there are; 1 is best. What
            ``cross_validate`` takes without ``scoring``.
        """
        truth = np.ones(len(X), int) if y is None else labels_of(y, len(X))
        found = self.predict(X, groups)
        return float(np.mean([(found == k)[truth == k].mean() for k in set(truth)]))

    @isolated_torch_state()
    def p_values(self, X: ImagesLike, groups: ArrayLike | None = None) -> np.ndarray:
        """Return the share of good images that score at least this badly.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
        groups : array-like of shape (n,), if ``fit`` had groups

        Returns
        -------
        p : ndarray of shape (n,)
            Conformal p-values, from ``1 / (m + 1)`` with m held-out normals (of the
            group) up to 1. Without ``scoring``, ``predict`` flags ``p <= target_fpr``.
        """
        check_is_fitted(self, "estimator_")
        self._of_each("offset_", groups, len(X))  # complains of unknown groups
        scores = self.score_samples(X)
        out = np.empty(len(scores))
        for group in np.unique(self._groups):
            known = self.normal_holdout_scores(group)
            rows = slice(None) if groups is None else np.asarray(groups) == group
            out[rows] = conformal_p_values(known, scores[rows])
        return out

    def normal_holdout_scores(self, group: Any = None) -> np.ndarray:
        """Return the held-out scores of good images that thresholds rest on.

        Parameters
        ----------
        group : label or None
            One that ``fit`` had; None = all.

        Returns
        -------
        scores : ndarray of shape (m,)
            Of rows that ``cv`` held out; exact copies within a group count once.
        """
        check_is_fitted(self, "estimator_")
        rows = self._counted & (self.labels_ == 1)
        if group is not None:
            rows = rows & (self._groups == group)
        return self.holdout_scores_[rows]

    def predict_map(self, X: ImagesLike) -> OneOrList:
        """Return heat maps by the final model; see :func:`skdinoad.predict_map`."""
        check_is_fitted(self, "estimator_")
        return predict_map(self.estimator_, X)

    @isolated_torch_state()
    def predict_mask(self, X: ImagesLike, groups: ArrayLike | None = None) -> OneOrList:
        """Return which pixels are anomalous.

        Parameters
        ----------
        X : array, list of images or paths
        groups : array-like of shape (n,), if ``fit`` had groups

        Returns
        -------
        masks : ndarray of shape (n, H, W), bool, or list of (H, W)
            True where the heat map is above ``pixel_threshold_``.
        """
        check_is_fitted(self, "estimator_")
        if not hasattr(self, "pixel_threshold_"):
            raise AttributeError(
                "No pixel threshold was chosen: pass target_pixel_fpr, or scoring and "
                "masks as y in fit."
            )
        thresholds = self._of_each("pixel_threshold_", groups, len(X))
        maps = iter_maps(self.estimator_, X)
        return stacked([heat > limit for heat, limit in zip(maps, thresholds)])

    # -- private: what is wanted ------------------------------------------------------

    def _check_kinds(self, X):
        """Refuse at once what would fail later, or mean something else."""
        scorer = hasattr(self.scoring, "_score_func")
        if isinstance(X, (str, Path)) or scorer:
            raise TypeError(
                "Expected images or a list of paths as X, and as scoring a "
                "metric(y_true, y_pred) and no scorer; got "
                f"{self.scoring if scorer else X!r}."
            )
        if self.scoring == "cost":
            cost_objective(self.cost_matrix)
        self._check_review()

    def _check_review(self):
        rate, miss = self.target_review_rate, self.target_fnr
        if rate is not None and miss is not None:
            raise ValueError(
                f"target_review_rate={rate} and target_fnr={miss}: one threshold keeps "
                "one promise. Pass one of the two."
            )
        if rate is not None and (self.scoring is not None or rate < self.target_fpr):
            raise ValueError(
                f"target_review_rate={rate} counts rejected images too: expected at "
                f"least target_fpr={self.target_fpr}, and scoring=None, got "
                f"scoring={self.scoring!r}."
            )

    def _objective(self, rate):
        """Return the figure to optimise, None for a promise on false alarms."""
        if self.scoring == "recall":
            return recall_objective(rate)
        if self.scoring == "cost":
            return cost_objective(self.cost_matrix)
        return OBJECTIVES.get(self.scoring) if isinstance(self.scoring, str) else None

    def _wants_pixels(self, masks):
        """Return whether pixels get an optimum, and whether they get a threshold."""
        rate = self.target_pixel_fpr is not None
        optimum = isinstance(self.scoring, str) and masks is not None
        optimum = optimum and (rate or self.scoring != "recall")
        return optimum, optimum or rate

    def _first_of_copies(self, X, labels):
        """Return for each row the first one that shows the same; labels must agree."""
        X = take(X, np.arange(len(X)))  # counted by position, not by label
        X = as_images(X) if holds_images(X) else check_grids(X)
        first = first_of_each([content(X, row) for row in range(len(X))])
        wrong = np.flatnonzero(labels != labels[first])
        if len(wrong):
            raise ValueError(
                f"X[{wrong[0]}] is labelled {labels[wrong[0]]} and is an exact copy of "
                f"X[{first[wrong[0]]}], labelled {labels[first[wrong[0]]]}; expected "
                "one label. Correct one, or remove one of the two."
            )
        warn_of_copies(first)
        return first

    def _check_numbers(self, labels, groups, first, optimum):
        """Refuse what cannot be promised before an hour is spent on it."""
        rates = {
            "target_fpr": (self.target_fpr if self.scoring is None else None, 1),
            "target_pixel_fpr": (None if optimum else self.target_pixel_fpr, 1),
            "target_fnr": (self.target_fnr, -1),
        }
        for group in np.unique(groups).tolist():
            rows = groups == group
            number = {k: len(np.unique(first[rows & (labels == k)])) for k in (1, -1)}
            normals, whose = number[1], self._whose(group)
            for name, (rate, label) in rates.items():
                if rate is not None and number[label] < normals_needed(rate):
                    raise ValueError(
                        f"{name}={rate} needs {normals_needed(rate)} {_KINDS[label]} "
                        f"images{whose}, and there are {number[label]} (exact copies "
                        "count once): the lowest rate that they "
                        f"allow is {1 / (number[label] + 1):.3g}."
                    )
            if self.scoring is not None and not 0 < normals < rows.sum():
                raise ValueError(
                    f"scoring={self.scoring!r} needs normal and anomalous images"
                    f"{whose}; of {rows.sum()}, {normals} are normal. Without labels: "
                    "scoring=None, target_fpr=..."
                )

    def _splits(self, labels, groups, first):
        """Return (train, test) pairs that give each row one score at most."""
        splits = splits_of(self.cv, labels, groups, first, self.random_state)
        if not self.refit and len(splits) > 1:
            raise ValueError(
                f"refit=False keeps the model of the only split, and cv={self.cv!r} "
                f"makes {len(splits)}; use ShuffleSplit(1, test_size=0.3)."
            )
        return splits

    # -- private: thresholds ----------------------------------------------------------

    def _by_group(self, threshold):
        """Return a threshold, or one for each group in a dict."""
        out = {group: threshold(group) for group in np.unique(self._groups).tolist()}
        return out if self._grouped else next(iter(out.values()))

    def _held(self, group):
        """Return the scores and labels of a group's rows that were held out."""
        held = self._counted & (self._groups == group)
        return self.holdout_scores_[held], self.labels_[held]

    def _offset(self, group):
        scores, labels = self._held(group)
        if callable(self.scoring):
            asked = _asked(self.scoring, labels, scores)
            return best_threshold(labels == 1, scores, asked)
        if self.scoring is not None:
            objective = self._objective(self.target_fpr)
            return best_threshold(labels == 1, scores, objective)
        return self._promised("target_fpr", scores[labels == 1], 1, group)

    def _review_offset(self, group):
        scores, labels = self._held(group)
        if self.target_fnr is None:
            return self._promised("target_review_rate", scores[labels == 1], 1, group)
        # The most normal defects: what is above the highest allowed one is accepted.
        highest = -self._promised("target_fnr", -scores[labels == -1], -1, group)
        offset = self.offset_[group] if self._grouped else self.offset_
        return float(max(offset, np.nextafter(highest, np.inf)))

    def _promised(self, name, scores, label, group):
        """Return a score that a new one falls below with at most the rate's chance."""
        rate = getattr(self, name)
        rank = conformal_rank(len(scores), rate)
        if rank < 1:  # cv holds out less than all
            raise ValueError(
                f"{name}={rate} needs {normals_needed(rate)} {_KINDS[label]} images"
                f"{self._whose(group)} to be held out, and cv={self.cv!r} holds out "
                f"{len(scores)}."
            )
        return float(np.sort(scores)[rank - 1])

    def _pixel_threshold(self, counts, optimum):
        shares, n, bad, good = counts
        if optimum:
            objective = self._objective(self.target_pixel_fpr)
            return float(upper_edges(best_bin(bad, good, objective)))
        return float(upper_edges(controlled_bin(shares, n, self.target_pixel_fpr)))

    def _whose(self, group):
        return f" of group {group!r}" if self._grouped else ""

    def _of_each(self, name, groups, n):
        """Return what the attribute ``name`` has as the threshold of each of n rows."""
        thresholds = getattr(self, name)
        if not isinstance(thresholds, dict):
            if groups is not None:
                raise ValueError("groups were given, but fit had none.")
            return np.full(n, known_threshold(thresholds, name))
        if np.shape(named_array(groups, "groups")) != (n,):
            raise ValueError(
                f"fit had groups {list(thresholds)}: pass one for each of {n} images. "
                "cross_validate and searches pass them on after sklearn.set_config("
                "enable_metadata_routing=True) and tuner.set_fit_request(groups=True)"
                ".set_score_request(groups=True), with params={'groups': groups} and "
                "without scoring."
            )
        groups = checked_groups(groups, n).tolist()
        unknown = [group for group in groups if group not in thresholds]
        if unknown:
            raise ValueError(
                f"Group {unknown[0]!r} is unknown; fit had {list(thresholds)}."
            )
        return np.array([known_threshold(thresholds[group], name) for group in groups])


def _asked(metric, labels, scores):
    """Return an objective that asks a metric of labels about every threshold."""
    thresholds = [*np.unique(scores), np.inf]
    return lambda *_: np.array(
        [metric(labels, np.where(scores < limit, -1, 1)) for limit in thresholds]
    )
