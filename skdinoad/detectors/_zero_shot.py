"""Batched zero-shot detection: images scored against each other."""

from numbers import Real

import numpy as np
from sklearn.base import clone

from skdinoad._arrays.masks import warn_of_empty_masks
from skdinoad._compat.torch import resolve_device, undisturbed
from skdinoad._inputs.grids import name_of, nothing_valid, size_of
from skdinoad._inputs.images import Images
from skdinoad._neighbors import mutual_distances

__all__ = ["ScoresBatches"]


class ScoresBatches:
    """For detectors whose patches can be compared without any reference."""

    @undisturbed()
    def score_batch(self, X, *, neighbor_fraction=None, return_maps=False):
        """Score a set of images against each other, without any reference.

        Batched zero-shot detection (section 4.3 of the paper): the estimator need not
        be fitted and is not changed; ``bank_size``, ``n_neighbors``, ``rotations`` and
        ``search`` do not matter.

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
            patch.
        """
        worker = clone(self).set_params(rotations="none")
        worker._validate_params()
        X = worker._check_input(X)
        _check_batch(X, neighbor_fraction)
        if isinstance(X, Images):
            X = worker._images_to_fit(X)
        worker.features_ = worker._fit_extractor(X)
        images = worker._read(X)
        if len(images) < len(X):
            missing = set(range(len(X))) - {image.row for image in images}
            raise nothing_valid(X, min(missing))
        if len(worker._distinct()) < 2:
            raise ValueError(
                f"All {len(X)} images are exact copies of one, which say nothing about "
                "each other. Pass different ones."
            )
        worker.masking_, _ = worker._verdict(images)
        if worker.masking_:
            empty = [name_of(X, im.row) for im in images if not im.mask.any()]
            warn_of_empty_masks(empty, len(images), stacklevel=4)
        D = worker._mutual(images, neighbor_fraction)
        scores = -worker._aggregate(D)
        if not return_maps:
            return scores
        sizes = [size_of(X, i) for i in range(len(X))]
        frames = [image.frame for image in images]
        maps = [worker._map(*parts) for parts in zip(D, frames, sizes)]
        return scores, np.stack(maps) if len(set(sizes)) == 1 else maps

    def _mutual(self, images, fraction):
        """Return what :meth:`_score_grid` does, of images compared with each other.

        Each layer's distances are scaled by their mean over this very batch.
        """
        scored = [self._to_score(image) for image in images]
        layers = [np.split(image.grid, self._n_layers, axis=-1) for image in images]
        how = {"device": resolve_device(self.device), "verbose": self.verbose}
        D = [
            mutual_distances(grids, scored, self._first, fraction, **how)
            for grids in map(list, zip(*layers))
        ]
        D = [np.stack(parts) / 2 for parts in zip(*D)]
        valid = np.isfinite(images[0].grid).all(-1)
        vectors = [layer[valid] for layer in layers[0]]
        self._learn_scales(D, vectors.__getitem__, self._n_layers, squared=True)
        return [self._fused(self._fill(grid)) for grid in D]


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
