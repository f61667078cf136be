"""What DMAD and reverse distillation share: a student rebuilds a teacher's levels."""

import hashlib
from typing import Any

import numpy as np
import torch
from sklearn.utils import Bunch

from skdinoad._arrays.geometry import warp_back
from skdinoad._arrays.maps import aggregate, smooth_inside
from skdinoad._compat.torch import as_tensor, resolve_device
from skdinoad._inputs.grids import name_of
from skdinoad._inputs.images import Images
from skdinoad._training.detector import TrainedDetector
from skdinoad._training.loop import warm_cosine
from skdinoad._typing import ExtractorLike
from skdinoad.detectors._checkpoints import LoadsOfficial
from skdinoad.features import CNNFeatures, DinoFeatures
from skdinoad.features._levels import on_grid
from skdinoad.networks import (
    MovingStudent,
    check_depth,
    check_scales,
    dmad_weights,
    on_levels,
    pyramid,
)

__all__ = ["PRESETS", "StudentDetector", "as_tensors"]

#: What ``preset`` stands for; most can be given as a parameter of their own.
_OF_PRESETS = (
    "variant",
    "n_iter",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "n_codes",
    "student_width",
    "student_depth",
    "offset_width",
    "offset_stem",
    "scale_channels",
)
_VALUES = {
    "fast": ("ppdm", 300, 8, 2e-3, 1e-2, 50, 128, 1, 16, 2, True),
    "vit": ("pdm", 300, 8, 2e-3, 1e-2, 50, 96, 1, 16, 2, True),
    # 400 epochs of 209 images
    "paper": ("ppdm", 10_450, 8, 5e-3, 1e-2, 200, 0, (6, 4, 3), 64, 1, False),
}
PRESETS = {name: dict(zip(_OF_PRESETS, values)) for name, values in _VALUES.items()}

#: The extractors of the presets; scaling is left to the student.
_EXTRACTORS = {
    "fast": lambda: CNNFeatures(
        layers=(1, 2, 3), image_size=(224, 224), standardize=False
    ),
    "vit": lambda: DinoFeatures(layers=(2, 5, 8), norm=False, image_size=(224, 224)),
    "paper": lambda: CNNFeatures(
        model="wide_resnet50_2.tv_in1k",
        layers=(1, 2, 3),
        image_size=(256, 256),
        interpolation="bilinear",
        standardize=False,
    ),
}


class StudentDetector(LoadsOfficial, TrainedDetector):
    """Base class of detectors whose student rebuilds a frozen teacher's levels.

    ``scales`` (largest offset, pixels per offset), of the fields that deform the image,
    and ``n_codes``, of prototypes, are parameters of the detector or class attributes:
    () and 0 switch them off.
    """

    _presets = PRESETS
    _weights_name = "student_"
    _official_weights = staticmethod(dmad_weights)

    variant: Any = None
    scales: Any = ()
    n_codes: int | None = 0

    # -- the parts of a detector ------------------------------------------------------

    def default_features(self) -> ExtractorLike:
        return _EXTRACTORS[self.preset]()

    def _check_input(self, X):
        teacher = self.features
        if teacher is not None and not hasattr(teacher, "prepared"):
            raise TypeError(
                f"features={teacher!r} cannot teach: {type(self).__name__} needs the "
                "network itself. Pass CNNFeatures(...), DinoFeatures(...) or None."
            )
        X = super()._check_input(X)
        if not isinstance(X, Images):
            raise ValueError(
                f"{type(self).__name__} needs images, and X holds feature grids: pass "
                "images, behind aligners at most."
            )
        return X

    def score_grids(self, F: np.ndarray) -> np.ndarray:
        return self._part_maps(self._network(), *as_tensors(F))

    def _aggregate(self, D):
        return np.array([self._peaks(grid)[0] for grid in D])

    def _shown(self, D):
        return [grid[0] for grid in D]  # the second one is the deformation

    def _map(self, grid, affine, size):
        return warp_back(self._shown([grid])[0], affine, size)

    # -- private: images --------------------------------------------------------------

    def _read_batch(self, batch):
        """Return images as the network takes them, NaN = invalid, and affines."""
        return self.features_.prepared(batch)

    def _gather(self, X):
        """Return all training images, and what the teacher makes of them unmoved."""
        check_scales(self.scales)
        data = self._prepared(X)
        data.maps = self._known(data.x)
        whole = bool(data.valid.all())
        data.masks = None if whole else on_levels(data.valid, data.maps)
        self._spec = self._specification(data)
        return data

    def _prepared(self, X):
        """Return usable images, and the row of X that each is."""
        x, valid, image, row, self.grid_shape_ = [], [], [], 0, None
        for F, _ in self._batches(X, "fit"):
            for grid in F:
                self.grid_shape_ = self.grid_shape_ or grid.shape
                self._check_shape(grid.shape, self.grid_shape_, name_of(X, row))
                if np.isfinite(grid).any():
                    part = as_tensors(grid[None])
                    x.append(part[0]), valid.append(part[1]), image.append(row)
                row += 1
        image = self._numbered(X, image)
        return Bunch(x=torch.cat(x), valid=torch.cat(valid), image=image)

    @torch.inference_mode()
    def _known(self, x):
        """Return the teacher's levels of all images, as float16."""
        levels = [[t.half().cpu() for t in self._taught(part)] for part in x.split(8)]
        maps = [torch.cat(parts) for parts in zip(*levels)]
        if not all(torch.isfinite(level).all() for level in maps):
            raise ValueError(
                "The teacher's features exceed 65504 and cannot be kept as float16."
            )
        return maps

    def _taught(self, x):
        """Return the teacher's levels of images, as float32; gradients may pass."""
        maps = self.features_._maps(x)
        maps = pyramid([maps[i] for i in np.argsort(self.features_.layers_)])
        return [level.float().to(resolve_device(self.device)) for level in maps]

    # -- private: training ------------------------------------------------------------

    def _specification(self, data):
        """Return what the networks are built from."""
        places = data.maps[-1][:, 0].numel()
        if data.masks is not None:
            places = int(data.masks[-1].sum())
        codes = self._setting("n_codes")
        codes = min(codes, max(1, places // 4)) if codes else 0
        if self._given is not None:
            codes = len(self._given.get("distiller.codebook.codes", ()))
        distiller = {
            "channels": [level.shape[1] for level in data.maps],
            "width": self._setting("student_width") or None,
            "depth": check_depth(self._setting("student_depth"), len(data.maps)),
            "codes": codes,
            "signed": any(bool((level < 0).any()) for level in data.maps),
        }
        deformer = {
            "scales": [(float(most), int(stride)) for most, stride in self.scales],
            "width": self._setting("offset_width"),
            "stem": self._setting("offset_stem"),
            "inverse": self._setting("variant") == "ppdm",
        }
        return {"distiller": distiller, "deformer": deformer}

    def _identity(self, data):
        digest = hashlib.sha1(data.x.numpy(), usedforsecurity=False)
        for level in data.maps:
            digest.update(level.numpy())
        settings = (self._setting("variant"), self._setting("scale_channels"))
        return (digest.hexdigest(), *settings, self.loss, repr(self._spec))

    def _new_network(self, data, rows):
        network = MovingStudent.of(**self._spec)
        distiller, maps = network.distiller, [level[rows] for level in data.maps]
        masks = data.masks and [mask[rows] for mask in data.masks]
        if self._setting("scale_channels"):
            distiller.learn_scales(maps, masks)
        if distiller.codebook is not None:
            places = distiller.places(maps[-1], masks and masks[-1])
            distiller.codebook.start_from(places)
        return network

    def _from_weights(self, weights):
        return MovingStudent.of(**self._spec)

    def _optimizer(self, network):
        how = {"betas": (0.5, 0.999), "weight_decay": self._setting("weight_decay")}
        return torch.optim.AdamW(network.parameters(), **how)

    def _rate(self, i):
        n_iter, peak = self._setting("n_iter"), self._setting("learning_rate")
        warm_up = (
            self._warm_up_iterations()
            if self._given_setting("warm_up") is not None
            else 0
        )
        return warm_cosine(i, n_iter, warm_up=warm_up, peak=peak, final=0)

    def _loss(self, network, data, rows):
        """Return the function of an iteration to its loss."""
        device = next(network.parameters()).device
        low = self._low(device)

        def loss(i):
            batch = self._batch(rows, i, least=2)  # BatchNorm wants two
            x = data.x[batch].to(device)
            valid = None if data.masks is None else data.valid[batch].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                losses = network.losses(
                    x,
                    self._taught,
                    valid=valid,
                    maps=lambda: [m[batch].to(device).float() for m in data.maps],
                    local=self.loss == "local",
                )
            network.history.append({k: float(v.detach()) for k, v in losses.items()})
            return sum(losses.values())

        return loss

    def _keep(self, run):
        super()._keep(run)
        history = run.network.history
        self.loss_parts_ = {
            name: [losses[name] for losses in history] for name in (history or [{}])[0]
        }

    # -- private: scores --------------------------------------------------------------

    def _peaks(self, grid):
        """Return an image's reconstruction error and size of deformation."""
        return aggregate(grid, self.aggregate)

    def _score_row(self, network, data, row):
        return self._part_maps(
            network, data.x[row : row + 1], data.valid[row : row + 1]
        )[0]

    @torch.inference_mode()
    def _part_maps(self, network, x, valid):
        """Return error and deformation maps (n, 2, H, W), NaN where invalid."""
        device = next(network.parameters()).device
        x, inside = x.to(device), None if valid.all() else valid.to(device)
        parts = network.parts(x, self._taught, self._levels_at_image_size, inside)
        parts = torch.cat(parts, dim=1).cpu().numpy()
        sigma = self.score_smoothing * x.shape[-2]
        parts = zip(parts, valid.numpy())
        return np.stack([smooth_inside(part, v, sigma) for part, v in parts])

    def _levels_at_image_size(self, levels, size):
        """Return levels (b, 1, h_l, w_l) at the size of the image, (b, l, h, w)."""
        shifts = np.array(getattr(self.features_, "shifts_", (0.0,) * len(levels)))
        order = np.argsort(self.features_.layers_)
        return on_grid(levels, size, shifts[order].tolist()).movedim(-1, 1)


def as_tensors(F):
    """Return prepared images (n, 3, H, W), 0 where invalid, and what is valid."""
    x = as_tensor(np.ascontiguousarray(np.moveaxis(F, -1, 1), np.float32))
    valid = torch.isfinite(x).all(1)
    return torch.nan_to_num(x), valid
