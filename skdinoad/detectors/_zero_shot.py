"""Batched zero-shot detection: images scored against each other."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Literal, overload

import numpy as np
from sklearn.base import clone

from skdinoad._arrays.maps import unit, window_mean
from skdinoad._arrays.masks import warn_of_empty_masks
from skdinoad._compat.torch import isolated_torch_state, resolve_device
from skdinoad._inputs.grids import name_of, nothing_valid, size_of
from skdinoad._inputs.images import Images
from skdinoad._neighbors import mutual_distances
from skdinoad._typing import ImagesLike, OneOrList
from skdinoad.detectors._object_masks import ObjectMasks

__all__ = ["ScoresBatches"]


class ScoresBatches:
    """For detectors whose patches can be compared without any reference."""

    @overload
    def score_batch(
        self,
        X: ImagesLike,
        *,
        neighbor_fraction: float | None = None,
        aggregation: Sequence[int] = (1,),
        rescoring: int = 0,
        return_maps: Literal[False] = False,
    ) -> np.ndarray: ...

    @overload
    def score_batch(
        self,
        X: ImagesLike,
        *,
        neighbor_fraction: float | None = None,
        aggregation: Sequence[int] = (1,),
        rescoring: int = 0,
        return_maps: Literal[True],
    ) -> tuple[np.ndarray, OneOrList]: ...

    @isolated_torch_state()
    def score_batch(
        self,
        X: ImagesLike,
        *,
        neighbor_fraction: float | None = None,
        aggregation: Sequence[int] = (1,),
        rescoring: int = 0,
        return_maps: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, OneOrList]:
        """Score a set of images against each other, without any reference.

        Batched zero-shot detection (section 4.3 of AnomalyDINO's paper): the estimator
        need not be fitted and is not changed; ``bank_size``, ``n_neighbors``,
        ``rotations`` and ``search`` do not matter. ``aggregation`` and ``rescoring``
        are the two other steps of MuSc [1]_, off by default; they cost one comparison
        of all images for each window, and next to nothing.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            Two images at least, most of them good.
        neighbor_fraction : float or None, default=None
            None: a patch's score is the mean of its distances to the nearest patch of
            each of the other images, over the nearest 30 % of these images, three at
            least; so two odd images never excuse each other. A number: the official
            code's rule (0.001 there), this share of all other patches counts, and
            the mean goes over those strictly nearer than the last of them. It needs
            large sets: in small ones a twin hides a defect.
        aggregation : sequence of odd int, default=(1,)
            Windows, in patches, over which features are averaged before they are
            compared; distances are averaged over windows. The paper's are (1, 3, 5):
            larger ones find larger defects.
        rescoring : int, default=0
            Scores are averaged over the most similar images, by their class tokens and
            weighted by how similar these are: over 1 (the image alone), 2, ... up to
            this number, and then over these means. Heat maps stay as they are. The
            paper takes 3 on MVTec AD; 0 leaves it out. It helps where images of one
            kind of defect look alike as a whole.
        return_maps : bool, default=False
            Whether heat maps are returned too.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            Higher = more normal.
        maps : ndarray of shape (n, H, W), float32, or list of (H, W)
            With ``return_maps``; higher = more anomalous.

        Raises
        ------
        ValueError
            If X holds one image only, or copies of one, or an image without a valid
            patch, or ``rescoring`` is wanted of features without class tokens.

        References
        ----------
        .. [1] Li, Huang, Xue, Zhou, "MuSc: Zero-Shot Industrial Anomaly Classification
           and Segmentation with Mutual Scoring of the Unlabeled Images", ICLR 2024,
           arXiv 2401.16753: local neighbourhood aggregation with several degrees
           (section 3.2), mutual scoring (3.3, equation 3: the mean over the nearest
           30 % of images is our default rule), re-scoring (3.4). Where the official
           code normalises each image's features as a whole, ours have unit length
           patch by patch, and layers are scaled before they are averaged.
        """
        worker = clone(self).set_params(rotations="none")
        worker._validate_params()
        worker._reset()
        worker._masks = ObjectMasks(worker.masking)
        X = worker._check_input(X)
        _check_batch(X, neighbor_fraction)
        _check_steps(aggregation, rescoring)
        if isinstance(X, Images):
            X = worker._images_to_fit(X)
        worker.features_ = worker._fit_extractor(X)
        images = worker._read(X)
        if len(images) < len(X):
            missing = set(range(len(X))) - {image.row for image in images}
            raise nothing_valid(X, min(missing))
        if len(worker._register.distinct) < 2:
            raise ValueError(
                f"All {len(X)} images are exact copies of one, which say nothing about "
                "each other. Pass different ones."
            )
        worker._masks.decide(images)
        if worker._masks.used:
            empty = [name_of(X, im.row) for im in images if not im.mask.any()]
            warn_of_empty_masks(empty, len(images))
        D = worker._mutual(images, neighbor_fraction, np.atleast_1d(aggregation))
        scores = -worker._aggregate(D)
        if rescoring:
            scores = rescored(scores, worker._class_tokens(X), rescoring)
        if not return_maps:
            return scores
        sizes = [size_of(X, i) for i in range(len(X))]
        affines = [image.affine for image in images]
        maps = [worker._map(*parts) for parts in zip(D, affines, sizes)]
        return scores, np.stack(maps) if len(set(sizes)) == 1 else maps

    def _class_tokens(self, X):
        """Return the class token of each image, (n, c)."""
        if not getattr(self.features_, "has_class_token_", False):
            raise ValueError(
                "rescoring compares images by their class tokens, which feature grids "
                "and this network do not have: pass images, and features="
                "DinoFeatures(), or rescoring=0."
            )
        return self.features_.transform_tokens(X)[1][:, 0]

    def _mutual(self, images, fraction, windows):
        """Return what :meth:`score_grids` does, of images compared with each other.

        Each layer's distances are scaled by their mean over this very batch.
        """
        scored = [self._masks.scored(image) for image in images]
        layers = [np.split(image.grid, self._n_layers, axis=-1) for image in images]
        how = {"device": resolve_device(self.device), "verbose": self.verbose}
        first, D = self._register.first, []
        for grids in map(list, zip(*layers)):
            seen = ([unit(window_mean(g, r)) for g in grids] for r in windows)
            parts = [mutual_distances(g, scored, first, fraction, **how) for g in seen]
            D.append([np.mean(images, axis=0) for images in zip(*parts)])
        D = [np.stack(parts) / 2 for parts in zip(*D)]
        valid = np.isfinite(images[0].grid).all(-1)
        vectors = [layer[valid] for layer in layers[0]]
        self._fuse(D, vectors.__getitem__)
        return [self._fusion(self._masks.filled(grid)) for grid in D]


def rescored(scores, tokens, n):
    """Return scores averaged over the images that look most alike.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
    tokens : ndarray of shape (n_images, c)
        One vector for each image.
    n : int
        The largest number of images averaged; the means over 1, 2, ... n images,
        weighted by their cosines, are averaged.

    Returns
    -------
    ndarray of shape (n_images,)

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.detectors._zero_shot import rescored
    >>> tokens = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> rescored(np.array([-1.0, -3.0, -2.0]), tokens, 2)
    array([-1.5, -2.5, -2. ])
    """
    alike = np.maximum(unit(tokens) @ unit(tokens).T, 0)
    nearness = alike + 2 * np.eye(len(alike))  # each image is most like itself
    order = np.argsort(-nearness, axis=1, kind="stable")[:, :n]
    weights = np.take_along_axis(alike, order, axis=1)
    total = np.cumsum(weights * scores[order], axis=1) / np.cumsum(weights, axis=1)
    return total.mean(axis=1)


def _check_steps(aggregation, rescoring):
    windows = np.atleast_1d(aggregation)
    odd = windows.dtype.kind in "iu" and ((windows > 0) & (windows % 2 == 1)).all()
    if not windows.size or windows.ndim > 1 or not odd:
        raise ValueError(
            f"aggregation={aggregation!r}: expected odd numbers of patches, such as "
            "(1, 3, 5)."
        )
    if not isinstance(rescoring, Integral) or rescoring < 0:
        raise ValueError(
            f"rescoring={rescoring!r}: expected a number of images, 0 for none."
        )


def _check_batch(X, fraction):
    if len(X) < 2:
        raise ValueError(
            f"score_batch compares images with each other; X holds {len(X)}. Pass two "
            "or more, or fit on good images and use score_samples."
        )
    if fraction is not None and not (isinstance(fraction, Real) and 0 < fraction <= 1):
        raise ValueError(
            f"neighbor_fraction={fraction!r}: expected None or a share above 0."
        )
