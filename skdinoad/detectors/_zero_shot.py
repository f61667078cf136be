"""Batched zero-shot detection: images scored against each other."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Literal, overload

import numpy as np
import torch
from sklearn.base import clone
from torch.nn.functional import interpolate

from skdinoad._arrays.maps import unit, window_mean
from skdinoad._arrays.masks import warn_of_empty_masks
from skdinoad._compat.torch import isolated_torch_state, resolve_device
from skdinoad._inputs.grids import name_of, nothing_valid, size_of
from skdinoad._inputs.images import Images
from skdinoad._neighbors import mutual_distances
from skdinoad._typing import ImagesLike, OneOrList
from skdinoad.detectors._memory import concatenated_layers
from skdinoad.detectors._object_masks import ObjectMasks

__all__ = ["ScoresBatches"]


class ScoresBatches:
    """For detectors whose patches can be compared without any reference."""

    @overload
    def score_batch(
        self,
        X: ImagesLike,
        *,
        neighbors: Literal["images", "musc"] | float = "images",
        aggregation: Sequence[int] = (1,),
        rescoring: int | Sequence[int] = 0,
        return_maps: Literal[False] = False,
    ) -> np.ndarray: ...

    @overload
    def score_batch(
        self,
        X: ImagesLike,
        *,
        neighbors: Literal["images", "musc"] | float = "images",
        aggregation: Sequence[int] = (1,),
        rescoring: int | Sequence[int] = 0,
        return_maps: Literal[True],
    ) -> tuple[np.ndarray, OneOrList]: ...

    @isolated_torch_state()
    def score_batch(
        self,
        X: ImagesLike,
        *,
        neighbors: Literal["images", "musc"] | float = "images",
        aggregation: Sequence[int] = (1,),
        rescoring: int | Sequence[int] = 0,
        return_maps: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, OneOrList]:
        """Score a set of images against each other, without any reference.

        Batched zero-shot detection (section 4.3 of AnomalyDINO's paper): the estimator
        need not be fitted and is not changed; ``bank`` and ``rotations`` do not matter.
        ``aggregation`` and ``rescoring`` are the two other steps of MuSc [1]_, off by
        default. Each window takes one more comparison of all images; re-scoring takes
        almost no time.

        Parameters
        ----------
        X : array, list of images or paths, or feature grids
            Two images at least, most of them good.
        neighbors : {"images", "musc"} or float, default="images"
            The distances of which a patch's score is the mean.

            - "images": half the squared distances to the nearest patch of each of the
              other images, over the nearest 30 % of these images, at least three. Two
              images with the same defect do not make each other look normal.
            - "musc": the rules of the official code of MuSc, see Notes.
            - A number: the rule of the official code of AnomalyDINO (0.001 there). This
              share of all other patches counts, and the mean is over those strictly
              nearer than the last of them. It needs large sets: in small ones, two
              images with the same defect make each other look normal.
        aggregation : sequence of odd int, default=(1,)
            Windows, in patches, over which features are averaged before they are
            compared; distances are averaged over windows. The paper's are (1, 3, 5):
            larger ones find larger defects.
        rescoring : int or sequence of int, default=0
            Numbers of images. For each number k, scores are averaged over the k images
            whose class tokens are most similar (the image itself is the first),
            weighted by their cosine similarity; then the mean over all k is taken. A
            single number n means 1, 2, ..., n, and 0 leaves this step out. Heat maps
            do not change. MuSc takes (1, 2, 3) on MVTec AD and (1, 8, 9) on VisA. It
            helps where images of one kind of defect look alike as a whole.
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

        Notes
        -----
        **Differences from the official code of MuSc.** ``neighbors="musc"`` with
        ``masking=None``, ``aggregation=(1, 3, 5)`` and ``rescoring=(1, 2, 3)`` does
        what the official code does: the mean over all values of each image is
        subtracted from its features; distances are Euclidean; the nearest
        ``int(0.3 * n)`` of the n other images count; layers are averaged as they are;
        the image score is the maximum of the enlarged map. Two differences remain:
        exact copies are not compared with each other, and class tokens of all
        networks have unit length, as those of CLIP have there.

        The default "images" differs in the following: squared distances, three images
        at least, layers scaled by their mean distance before they are averaged, and
        the image score of ``aggregate``.

        References
        ----------
        .. [1] Li, Huang, Xue, Zhou, "MuSc: Zero-Shot Industrial Anomaly Classification
           and Segmentation with Mutual Scoring of the Unlabeled Images", ICLR 2024,
           arXiv 2401.16753: local neighbourhood aggregation with several degrees
           (section 3.2), mutual scoring (3.3, equation 3), re-scoring (3.4);
           github.com/xrli-U/MuSc.
        """
        worker = clone(self).set_params(rotations="none")
        worker._validate_params()
        worker._reset()
        worker._masks = ObjectMasks(worker.masking)
        X = worker._check_input(X)
        _check_batch(X, neighbors)
        counts = _checked_steps(aggregation, rescoring)
        if isinstance(X, Images):
            X = worker._images_to_fit(X)
        worker.features_ = worker._fit_extractor(X)
        vectors_of = _centred if neighbors == "musc" else concatenated_layers
        images = worker._read(X, vectors_of)
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
        D = worker._mutual(images, neighbors, np.atleast_1d(aggregation))
        if neighbors == "musc":
            patch = getattr(worker.features_, "patch_size_", 14)
            scores = -np.array([_largest_of_enlarged(grid[0], patch) for grid in D])
        else:
            scores = -worker._aggregate(D)
        if len(counts):
            scores = rescored(scores, worker._class_tokens(X), counts)
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

    def _mutual(self, images, rule, windows):
        """Return what :meth:`score_grids` does, of images compared with each other.

        Each layer's distances are scaled by their mean over this batch, except for
        "musc".
        """
        scored = [self._masks.scored(image) for image in images]
        layers = [np.split(image.grid, self._n_layers, axis=-1) for image in images]
        how = {"device": resolve_device(self.device), "verbose": self.verbose}
        first, D = self._register.first, []
        for grids in map(list, zip(*layers)):
            seen = ([unit(window_mean(g, r)) for g in grids] for r in windows)
            parts = [mutual_distances(g, scored, first, rule, **how) for g in seen]
            D.append([np.mean(images, axis=0) for images in zip(*parts)])
        D = [np.stack(parts) for parts in zip(*D)]
        if rule == "musc":
            return [self._masks.filled(grid).mean(0, keepdims=True) for grid in D]
        D = [grid / 2 for grid in D]
        valid = np.isfinite(images[0].grid).all(-1)
        vectors = [layer[valid] for layer in layers[0]]
        self._fuse(D, vectors.__getitem__)
        return [self._fusion(self._masks.filled(grid)) for grid in D]


def _centred(grid):
    """Return vectors (h, w, l * c) without the mean over each layer of the image."""
    centred = grid - np.nanmean(grid, axis=(0, 1, 3), keepdims=True)
    return centred.reshape(*grid.shape[:2], -1)


def _largest_of_enlarged(grid, patch):
    """Return the maximum of a grid (h, w) enlarged to ``patch`` pixels a cell."""
    valid = np.isfinite(grid)
    size = tuple(edge * patch for edge in grid.shape)
    known = torch.from_numpy(np.where(valid, grid, 0))[None, None]
    heat = interpolate(known, size, mode="bilinear", align_corners=True)
    return float(heat.max()) if valid.any() else np.nan


def rescored(scores, tokens, counts):
    """Return scores averaged over the images that look most alike.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
    tokens : ndarray of shape (n_images, c)
        One vector for each image.
    counts : sequence of int
        Numbers of images. The mean over each number of images, weighted by their
        cosine similarity, is taken; then the mean of these means.

    Returns
    -------
    ndarray of shape (n_images,)

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad.detectors._zero_shot import rescored
    >>> tokens = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> rescored(np.array([-1.0, -3.0, -2.0]), tokens, [1, 2])
    array([-1.5, -2.5, -2. ])
    """
    alike = np.maximum(unit(tokens) @ unit(tokens).T, 0)
    nearness = alike + 2 * np.eye(len(alike))  # each image is most like itself
    counts = np.minimum(counts, len(alike))
    order = np.argsort(-nearness, axis=1, kind="stable")[:, : max(counts)]
    weights = np.take_along_axis(alike, order, axis=1)
    total = np.cumsum(weights * scores[order], axis=1) / np.cumsum(weights, axis=1)
    return total[:, counts - 1].mean(axis=1)


def _checked_steps(aggregation, rescoring):
    """Return the numbers of images for re-scoring, none if it is left out."""
    windows = np.atleast_1d(aggregation)
    odd = windows.dtype.kind in "iu" and ((windows > 0) & (windows % 2 == 1)).all()
    if not windows.size or windows.ndim > 1 or not odd:
        raise ValueError(
            f"aggregation={aggregation!r}: expected odd numbers of patches, such as "
            "(1, 3, 5)."
        )
    if isinstance(rescoring, Integral) and rescoring >= 0:
        return np.arange(1, rescoring + 1)
    counts = np.asarray(rescoring)
    whole = counts.ndim == 1 and counts.size and counts.dtype.kind in "iu"
    if not whole or (counts < 1).any():
        raise ValueError(
            f"rescoring={rescoring!r}: expected a number of images, 0 for none, or "
            "several, such as (1, 2, 3)."
        )
    return counts


def _check_batch(X, neighbors):
    if len(X) < 2:
        raise ValueError(
            f"score_batch compares images with each other; X holds {len(X)}. Pass two "
            "or more, or fit on good images and use score_samples."
        )
    share = isinstance(neighbors, Real) and 0 < neighbors <= 1
    if not share and neighbors not in ("images", "musc"):
        raise ValueError(
            f"neighbors={neighbors!r}: expected 'images', 'musc' or a share in (0, 1]."
        )
