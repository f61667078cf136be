"""The memory bank of AnomalyDINO: build, subsample, query, hold images out."""

from numbers import Real

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch, check_random_state
from tqdm.auto import tqdm

from skdinoad._arrays.geometry import rotated
from skdinoad._arrays.maps import unit
from skdinoad._compat.torch import resolve_device
from skdinoad._neighbors import PatchVectors, import_faiss
from skdinoad.detectors._layered import LayeredDetector
from skdinoad.detectors._rotations import chosen_angles, merged_angles, worth_turning

__all__ = ["BankDetector", "check_channels", "concatenated_layers", "mean_patches"]

#: Parameters that shape what the bank holds.
_FIXED = ("rotations", "masking", "bank__dtype")

#: What is kept of each training image beside its vectors.
_KEPT = ("valid", "mask", "statistics", "whole")


class BankDetector(LayeredDetector):
    """Memory-bank logic of AnomalyDINO: build, subsample, query.

    An image is a Bunch here: ``grid`` (h, w, l * c) of unit vectors; ``valid``,
    ``mask`` and ``scored`` (h, w); ``statistics`` of the mask; ``whole`` as
    :func:`mean_patches` has it; ``held``, its distances to the bank without it. The
    subclass writes ``_verdict(images)`` and ``_to_score(image)``.
    """

    def _check_search(self):
        bank = self._part("bank")
        if bank.search == "exact":
            return
        import_faiss()  # its absence should not show after minutes of work
        if bank.nearest_images is not None:
            raise ValueError(
                f"nearest_images={bank.nearest_images} with search='approximate': an "
                "index holds the vectors of all images. Leave one of the two out."
            )

    def _begin(self):
        self.rotation_gain_ = None
        self._fitted = self._settings(_FIXED)

    def _clone_for_merge(self):
        """Return an unfitted copy whose bank is all that one fit would see."""
        self._check_search()
        whole = {"bank__size": None, "bank__dtype": "float32", "bank__search": "exact"}
        if np.array_equal(self.rotations, "informed"):
            whole["rotations"] = "agnostic"
        return clone(self).set_params(**whole)

    def _join(self, parts):
        """Do what is left to do behind the network."""
        self._images = [Bunch(**image) for part in parts for image in part._images]
        self.masking_, self.mask_statistics_ = self._verdict(self._images)
        for image in self._images:
            image.scored = self._to_score(image)
        self._begin()
        bank, can_turn = self._joined_bank(parts), self.features_ is not None
        wanted = chosen_angles(self.rotations, len(self._distinct()), can_turn)
        self.angles_ = merged_angles(wanted, [part.angles_ for part in parts])
        if self.angles_ == (0,):
            bank = self._without_turns(bank)
        grids = [grid for part in parts for grid in part._known_grids()]
        decide_rotations = not can_turn or bank.turned.any()
        self._settle(
            bank,
            grids,
            decide_rotations=decide_rotations and all(g is not None for g in grids),
        )

    def _joined_bank(self, parts):
        banks, self._n_layers = [part.bank_ for part in parts], parts[0]._n_layers
        for bank in banks:
            expected = banks[0].vectors.shape[1]
            check_channels("A detector", bank.vectors.shape[1], expected)
        self._seen = sum(part._seen for part in parts)
        firsts = np.cumsum([0] + [len(part._images) for part in parts])
        return PatchVectors.merge(banks, firsts, self._part("bank").dtype)

    # -- private: the bank ------------------------------------------------------------

    def _extend(self, X, images):
        """Add images to the bank, and score each of them by a bank without it."""
        grids = self._known_grids() + [image.grid for image in images]
        first = len(self._images)
        bank = PatchVectors.join(self._pictures(X, images, first), self._n_layers)
        self._seen += len(bank)
        bank = self.bank_.extend(bank) if first else bank
        for image in images:
            about = {name: image[name] for name in _KEPT}
            scored = self._to_score(image)
            self._images.append(Bunch(scored=scored, held=None, **about))
        self._settle(bank, grids, decide_rotations=not first)

    def _settle(self, bank, grids, *, decide_rotations):
        """Keep what is wanted of a bank of all images, and hold out each of them.

        An image whose grid is None keeps its held-out distances. ``decide_rotations``:
        whether to decide on turned copies, if ``rotations="informed"``.
        """
        if decide_rotations and np.array_equal(self.rotations, "informed"):
            bank = self._keep_useful_turns(bank, grids)
        wanted = self._part("bank")
        if wanted.sampling == "random" or wanted.search == "approximate":
            # What is drawn, is drawn by rows: not by the order of images.
            bank = bank.in_order(np.argsort(np.argsort(self._contents, kind="stable")))
        self.bank_ = self._thinned(bank)
        for i, grid in enumerate(grids):
            if grid is not None:
                self._images[i].held = self._hold_out(self.bank_, i, grid)
        held = [self._images[i].held for i in self._distinct()]
        self._learn_scales(held, self.bank_.layer, self._n_layers, squared=True)
        if wanted.search == "approximate":
            self.bank_.indexed(check_random_state(self.random_state).randint(2**31))

    def _known_grids(self):
        """Return the grids of the images in the bank; None where it has lost some."""
        grids = []
        for i, image in enumerate(self._images):
            grid = None
            if len(self.bank_) == self._seen:
                channels = self.bank_.vectors.shape[1]
                grid = np.full((*image.valid.shape, channels), np.nan, np.float32)
                grid[image.valid] = self.bank_.of(i)
            grids.append(grid)
        return grids

    def _pictures(self, X, images, first):
        """Return (vectors, image, turned) of each picture, those as given first."""
        parts = [
            self._vectors_of(image.grid, first + i) for i, image in enumerate(images)
        ]
        turns = [angle for angle in self.angles_ if angle]
        if turns:
            numbered = enumerate(images, start=first)
            quiet = not self.verbose
            for i, image in tqdm(numbered, "turn", len(images), disable=quiet):
                pixels = X[image.row]
                copies = [rotated(pixels, angle) for angle in turns]
                F, _ = self._read_batch(copies)
                parts += [
                    self._vectors_of(concatenated_layers(g), i, turned=True) for g in F
                ]
        return parts

    def _vectors_of(self, grid, i, *, turned=False):
        vectors = grid[np.isfinite(grid).all(-1)]
        return vectors.astype(self._part("bank").dtype), i, turned

    def _thinned(self, bank):
        wanted = self._part("bank")
        if wanted.size is None:
            return bank
        share = isinstance(wanted.size, Real) and wanted.size < 1
        size = round(wanted.size * self._seen) if share else wanted.size
        how = wanted.sampling, check_random_state(self.random_state)
        return bank.thinned(max(1, size), *how, verbose=self.verbose)

    def _keep_useful_turns(self, bank, grids):
        """Drop the turned copies unless they bring held-out images nearer."""
        if len(self._distinct()) == 1:
            return bank
        plain, turned = bank.select(~bank.turned), bank
        held = [self._hold_out(plain, *x) for x in enumerate(grids)]
        self._learn_scales(held, plain.layer, self._n_layers, squared=True)
        usual = [self._usual_score(b, grids) for b in (plain, turned)]
        self.rotation_gain_, useful = worth_turning(*usual)
        if useful:
            return bank
        self.angles_ = (0,)
        return self._without_turns(bank)

    def _without_turns(self, bank):
        self._seen = sum(int(image.valid.sum()) for image in self._images)
        return bank.select(~bank.turned) if bank.turned.any() else bank

    def _usual_score(self, bank, grids):
        """Return the median image score of training images held out."""
        held = [self._fused(self._hold_out(bank, *x)) for x in enumerate(grids)]
        return np.median(self._aggregate(held))

    # -- private: distances -----------------------------------------------------------

    def _hold_out(self, bank, i, grid):
        grid = np.where(self._images[i].scored[..., None], grid, np.float32(np.nan))
        copies = np.flatnonzero(self._first == self._first[i])
        return self._distances(grid, bank, without=copies)

    def _distances(self, grid, bank=None, without=None):
        """Return the cosine distances (l, h, w) of unit vectors, NaN where invalid."""
        bank = self.bank_ if bank is None else bank
        valid = np.isfinite(grid).all(-1)
        D = np.full((self._n_layers, *valid.shape), np.nan, np.float32)
        wanted = self._part("bank")
        how = {"k": wanted.n_neighbors, "device": resolve_device(self.device)}
        if wanted.nearest_images is not None and valid.any():
            bank = self._nearest_images(bank, grid[valid], without)
        # Between unit vectors 1 - cos is half the squared distance.
        D[:, valid] = bank.squared_distances(grid[valid], without=without, **how) / 2
        return D

    def _nearest_images(self, bank, vectors, without):
        """Return the part of a bank that comes from the images most like this one."""
        images = np.setdiff1d(bank.image, [] if without is None else without)
        most = self._part("bank").nearest_images
        if len(images) <= most:
            return bank
        seen = int(self.masking_)
        wholes = np.stack([self._images[i].whole[seen] for i in images])
        order = np.argsort(-(wholes @ _mean_patch(vectors)), kind="stable")
        return bank.select(np.isin(bank.image, images[order[:most]]))


def concatenated_layers(grid):
    """Return features (h, w, l, c) of unit length as (h, w, l * c)."""
    return unit(np.asarray(grid, np.float32)).reshape(*grid.shape[:2], -1)


def mean_patches(grid, valid, mask):
    """Return the mean directions (2, l * c) of an image, and of its object alone."""
    masked = mask is not None and (valid & mask).any()
    seen = valid & mask if masked else valid
    return np.stack([_mean_patch(grid[valid]), _mean_patch(grid[seen])])


def _mean_patch(vectors):
    """Return the mean direction (l * c,) of patches (m, l * c)."""
    return unit(vectors.mean(0, dtype=np.float32))


def check_channels(name, channels, expected):
    if channels != expected:
        raise ValueError(
            f"{name} has features of {channels} channels, the bank of {expected}: use "
            "one extractor for all."
        )
