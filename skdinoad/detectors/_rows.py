"""What DFR and its linear form share: rows of features, and how they are rebuilt."""

import hashlib

import numpy as np
import torch
from sklearn.utils import Bunch

from skdinoad._arrays.maps import smooth
from skdinoad._compat.torch import as_tensor
from skdinoad._inputs.copies import in_order
from skdinoad._inputs.grids import name_of
from skdinoad._training.detector import TrainedDetector
from skdinoad._training.loop import batch_rows
from skdinoad.features import CNNFeatures, DinoFeatures
from skdinoad.networks import (
    RowAutoencoder,
    code_width,
    covariance,
    principal_axes,
    row_errors,
)

__all__ = ["EXTRACTORS", "PRESETS", "RowDetector"]

#: What ``preset`` stands for; most can be given as a parameter of their own.
_OF_PRESETS = (
    "n_iter",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "schedule",
    "standardize",
    "score_smoothing",
)
_CPU = dict(zip(_OF_PRESETS, (1000, 1024, 5e-3, 0, "cosine", True, 4 / 256)))
# 700 epochs of 209 images in batches of 4, 64 x 64 rows each
_GPU = dict(zip(_OF_PRESETS, (36_400, 16_384, 1e-4, 0, "constant", False, 0.0)))
PRESETS = {"fast": _CPU, "vit": _CPU, "paper": _GPU}

#: The extractors of the presets; standardising is left to DFR.
EXTRACTORS = {
    "fast": lambda: CNNFeatures(layers=(1, 2, 3, 4), standardize=False),
    "vit": lambda: DinoFeatures(layers=(2, 5, 8), norm=False, image_size=224),
    "paper": lambda: CNNFeatures(
        model="vgg19.tv_in1k",
        layers=tuple(range(12)),
        stride=4,
        standardize=False,
        padding="reflect",
        image_size=(256, 256),
        interpolation="nearest",
    ),
}


class RowDetector(TrainedDetector):
    """Base class of detectors that rebuild the feature vector of each patch by itself.

    A row is the feature vector of one patch of any image. ``cos_weight`` is a parameter
    of the detector, or a class attribute; so is ``_learned``, whether the autoencoder
    is trained or a projection on principal components.
    """

    _weights_name = "autoencoder_"
    _learned = True
    cos_weight: float = 0

    # -- the parts of a detector ------------------------------------------------------

    def _aggregate(self, D):
        """Return image scores, of grids enlarged to the image and smoothed there.

        Enlarging spreads a cell linearly over its neighbours, with a variance of 1/6.
        """
        return super()._aggregate(self._smoothed(D, spread=1 / 6))

    def _shown(self, D):
        return self._smoothed(D)  # enlarging comes when maps go back to the image

    def score_grids(self, F: np.ndarray) -> np.ndarray:
        n_channels = self.autoencoder_["components"].shape[1]
        if F.shape[-1] != n_channels:
            raise ValueError(
                f"Features of {F.shape[-1]} channels; fitted on {n_channels}. Use one "
                "extractor for all."
            )
        return self._errors(self._network(), F, compare=False)[0]

    # -- private: rows ----------------------------------------------------------------

    def _gather(self, X):
        """Return rows of all images, the same number from each, as float32.

        Rows, folds and batches are drawn by the place in this order.
        """
        rows, image, start = [], [], 0
        ordered, order, known = in_order(X)
        self._errors_of = {"learned": [], "held out": []}
        most = np.inf if self.max_rows is None else max(1, self.max_rows // len(X))
        for F, _ in self._batches(ordered, "fit"):
            for grid in F:
                self._check_features(grid)
                cells = grid.reshape(-1, grid.shape[-1])
                cells = cells[np.isfinite(cells).all(-1)]
                if len(cells) > most:
                    rng = np.random.default_rng([self._seed, start])
                    cells = cells[np.sort(rng.permutation(len(cells))[:most])]
                self._check_channels(cells, rows, name_of(X, order[start]))
                rows.append(as_tensor(np.ascontiguousarray(cells, np.float32)))
                image.append(np.full(len(cells), order[start]))
                start += 1
        image = self._numbered(X, np.concatenate(image), known)
        if len(image) < 2 and self._learned:
            raise ValueError(
                "There is one valid place to learn from, and an autoencoder needs "
                "more: more images, larger ones, or LinearDFR."
            )
        return Bunch(rows=torch.cat(rows), image=image, pictures=X)

    def _check_channels(self, cells, rows, name):
        if rows and cells.shape[1] != rows[0].shape[1]:
            raise ValueError(
                f"{name} gives features of {cells.shape[1]} channels, expected "
                f"{rows[0].shape[1]}."
            )

    # -- private: training ------------------------------------------------------------

    def _identity(self, data):
        content = hashlib.sha1(data.rows.numpy(), usedforsecurity=False).hexdigest()
        code = (self.latent_dim, self.variance, self._setting("standardize"))
        return (content, *code, self.cos_weight)

    def _new_network(self, data, rows):
        """Return a network with the principal components of these rows."""
        mean, spread = covariance(data.rows, rows)
        self._moments = len(rows), mean.numpy(), spread.numpy()
        return self._network_of(mean, spread)

    def _network_of(self, mean, spread):
        """Return a network with the principal components of a covariance (c, c)."""
        centre, scale = mean, torch.ones_like(mean)
        if self._setting("standardize"):
            scale = spread.diagonal().sqrt()
            scale = torch.where(scale < 1e-6, 1, scale)  # constant ones stay quiet
            spread = spread / torch.outer(scale, scale)
            centre = torch.zeros_like(mean)
        variances, axes = principal_axes(spread)
        code = self.latent_dim or code_width(variances, self.variance)
        if len(mean) < 2:
            raise ValueError("DFR needs features of 2 channels at least; they have 1.")
        code = max(1, min(code, len(mean) - 1))
        network = RowAutoencoder(len(mean), code, learned=self._learned)
        network.mean.copy_(mean - centre)
        network.scale.copy_(scale)
        network.centre.copy_(centre)
        network.variances.copy_(variances)
        network.components.copy_(axes[:code])
        return network

    def _from_weights(self, weights):
        return RowAutoencoder.like(weights)

    def _train(self, run, data, rows, seconds, name):
        if self._learned:
            super()._train(run, data, rows, seconds, name)
            self._settle(run.network, data, rows)
        run.network.eval()
        some = rows[batch_rows(len(rows), 8192, 0, self._seed)]
        learned = data.rows[some].numpy()[None, None]
        self._note("learned", self._errors(run.network, learned))

    def _check_network(self, network, data, rows):
        some = data.rows[rows[:8]].numpy()[None, None]  # judging would take notes
        self._refuse_broken(self._errors(network, some, compare=False)[0])

    def _score_row(self, network, data, row):
        i = data.image[row]
        F, _ = self._read_batch(data.pictures[i : i + 1])
        grids = self._errors(network, np.asarray(F[0], np.float32)[None])
        self._note("held out", grids)
        return grids[0][0]

    def _note(self, which, grids):
        self._errors_of[which].append([float(np.nanmean(D)) for D in grids])

    def _conclude(self, network, data):
        """Keep the mean errors of learned and of held-out patches."""
        self.errors_ = {
            which: tuple(np.mean(pairs, axis=0).tolist())
            for which, pairs in self._errors_of.items()
            if pairs
        }
        del self._errors_of

    def _keep(self, run):
        super()._keep(run)
        self.latent_dim_ = len(self.autoencoder_["components"])
        self.explained_variance_ = self.autoencoder_["variances"]

    # -- private: scores --------------------------------------------------------------

    @torch.inference_mode()
    def _errors(self, network, F, compare=True):
        """Return the errors (n, h, w) by the network, and by the projection."""
        valid = np.isfinite(F).all(-1)
        rows = as_tensor(F[valid]).to(network.mean.device)
        ways = (network, network.projected) if compare else (network,)
        grids = np.full((len(ways), *valid.shape), np.nan, np.float32)
        z, weight = network.standardised(rows), self.cos_weight
        for grid, way in zip(grids, ways):
            grid[valid] = row_errors(z, way(z), weight).cpu().numpy()
        return grids

    def _smoothed(self, grids, spread=0):
        """Return grids smoothed by a Gaussian that grows with them."""
        share = self._setting("score_smoothing")
        if not share:
            return grids
        return [
            smooth(D[None], np.sqrt((share * len(D)) ** 2 + spread))[0] for D in grids
        ]
