"""Feature maps of a frozen CNN, several levels on one grid."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from skdinoad._arrays.maps import unit
from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad._compat.torch import isolated_torch_state
from skdinoad._inputs.estimators import whole_numbers
from skdinoad._typing import ImagesLike, LabelsLike, Self, Size
from skdinoad.features._backbones import load_backbone
from skdinoad.features._extractor import Extractor
from skdinoad.features._levels import (
    cell_shifts,
    level_channels,
    level_maps,
    level_strides,
    on_grid,
)
from skdinoad.features._parts import CacheLike, Runtime

__all__ = ["CNNFeatures"]

#: What was measured of a network, by its digest and levels: a second per network.
_MEASURED = {}


#: Evidence for ``layers="auto"``.
_STRIDES = "guess: strides 4, 8 and 16; PatchCore takes 8 and 16, arXiv 2106.08265"


class CNNFeatures(Extractor):
    """Turn images into grids of the features of a CNN.

    The maps of several levels come on one grid: finer ones are averaged over its cells,
    coarser ones interpolated, and their channels lie side by side. An image is resized
    so that both its sides are whole numbers of the deepest level's cells. Where each
    level's cells really look is measured, so that a defect is where its features are.

    Parameters
    ----------
    model : str, default="tf_efficientnet_lite0.in1k"
        Any CNN of timm that has feature maps of several strides, with its pretrained
        tag. The default is small, fast on a CPU, and comes with ``skdinoad[offline]``.
    weights : str or path, default="auto"
        As in DinoFeatures: "auto", "hub", "package", a file, or "random:SEED".
    layers : "auto", int or sequence of int, default="auto"
        Levels to take, 0-based, negative from the end: the network's stages, or each
        ReLU of a VGG (VGG19 has 16). "auto" is the levels of strides 4, 8 and 16; of
        a VGG, its first 12 ReLUs.
    stride : int, default=8
        Pixels of the resized image per cell of the grid.
    standardize : bool or "levels", default=True
        True: ``fit`` learns each channel's mean and standard deviation over the normal
        images, and ``transform`` takes them out. "levels": each level's vector is
        divided by its length, so that nothing is learned and no level dominates.
        False: features as they are; channels with large values dominate distances.
    padding : {"model", "reflect"}, default="model"
        What convolutions see beyond the edges: what the model was trained with, or the
        map mirrored, as the DFR paper has it; "reflect" is for VGG only.
    image_size : int, (int, int) or None, default=224
        The smaller edge, the exact (height, width), or None for the image's own
        size. Rounded to whole cells of the deepest level.
    interpolation : {"bicubic", "bilinear", "nearest"}, default="bicubic"
        How pixels are resized; antialiased but for "nearest".
    runtime : Runtime or None, default=None
        Engine, precision, device and batch size of the forward pass; None means
        ``Runtime()``. ``runtime__batch_size`` and the like can be searched either way.
    cache : None, False, path, joblib.Memory or DiskCache, default=None
        Where features are kept, per image and by content: None in this process (up
        to 1 GiB), False nowhere, else on disk; a :class:`~skdinoad.DiskCache` limits
        the size of its folder.

    Attributes
    ----------
    value_range_ : (int, int) or None
        Values that become 0 and 255, learned from training images of more than 8 bits;
        None = they have 8.
    weights_name_ : str
        Which weights were used, and their source.
    weights_digest_ : str
        sha256 over the content of the network.
    layers_ : tuple of int
        The levels taken.
    evidence_ : dict of str to str
        For ``layers="auto"``, where the choice comes from.
    strides_ : tuple of int
        Pixels per cell of each.
    shifts_ : tuple of float
        How far each level's cells look off the middle of their pixels, in cells.
    channels_ : tuple of int
        Channels of each level.
    mean_, scale_ : ndarray of shape (c,), float32
        Of the channels, with ``standardize=True``; constant channels have scale 1.

    See Also
    --------
    DinoFeatures : Patch features of Vision Transformers.
    DFR : Rebuilds such features.

    References
    ----------
    Networks and weight loading: timm. EfficientNet-Lite0: Tan, Le, "EfficientNet",
    ICML 2019, arXiv 1905.11946.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad import CNNFeatures
    >>> features = CNNFeatures(model="test_efficientnet", weights="random:0")
    >>> X = np.random.default_rng(0).random((4, 60, 90, 3))
    >>> F = features.set_params(image_size=64).fit_transform(X)
    >>> F.shape, features.strides_
    ((4, 8, 12, 104), (4, 8, 16))
    """

    _parameter_constraints = {
        **Extractor._parameter_constraints,
        "layers": [StrOptions({"auto"}), Integral, "array-like"],
        "stride": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean", StrOptions({"levels"})],
        "padding": [StrOptions({"model", "reflect"})],
        "interpolation": [StrOptions({"bicubic", "bilinear", "nearest"})],
    }

    _kind = "cnn"

    def __init__(
        self,
        *,
        model: str = "tf_efficientnet_lite0.in1k",
        weights: str | Path = "auto",
        layers: Literal["auto"] | int | Sequence[int] = "auto",
        stride: int = 8,
        standardize: bool | Literal["levels"] = True,
        padding: Literal["model", "reflect"] = "model",
        image_size: Size | None = 224,
        interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic",
        runtime: Runtime | None = None,
        cache: CacheLike = None,
    ) -> None:
        self.model = model
        self.weights = weights
        self.layers = layers
        self.stride = stride
        self.standardize = standardize
        self.padding = padding
        self.image_size = image_size
        self.interpolation = interpolation
        self.runtime = runtime
        self.cache = cache

    @isolated_torch_state()
    def fit(self, X: ImagesLike | None = None, y: LabelsLike | None = None) -> Self:
        """Record which weights are used, and learn the channels' mean and scale.

        Parameters
        ----------
        X : array, list of images or paths
            Images as everywhere; with ``standardize=False`` needed for images of more
            than 8 bits alone.
            Colours in the order RGB, not OpenCV's BGR: ``image[..., ::-1]``.
        y : None, array-like of shape (n,), or masks of shape (n, H, W)
            +1 normal, -1 anomalous. **Rows labelled anomalous are left out.**

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, the model is unknown or no such CNN, the
            weights do not fit it, or no image has a valid cell.
        WeightsNotFoundError
            If no weights were found; the message names the remedies.
        """
        with self._learning():
            self._look_at_levels(self._load().network)
            images = self._normals(X, y)
            if self.standardize is True:
                self._learn_scale(images)
        return self

    # -- private ----------------------------------------------------------------------

    def _look_at_levels(self, network):
        """Set which levels are taken, and where their cells look."""
        if self.padding == "reflect" and type(network).__name__ != "VGG":
            raise ValueError(f"padding='reflect' is for VGG; model={self.model!r}.")
        strides = level_strides(network)
        self.layers_ = self._levels(strides)
        auto = isinstance(self.layers, str)
        self.evidence_ = {"layers": _STRIDES} if auto else {}
        self.strides_ = tuple(strides[i] for i in self.layers_)
        self.shifts_, self.channels_ = self._measured()

    def _levels(self, strides):
        """Return the 0-based levels to take."""
        if isinstance(self.layers, str):
            deepest = {stride: i for i, stride in enumerate(strides)}
            if len(deepest) < len(strides):
                return tuple(range(min(12, len(strides))))
            return tuple(deepest[s] for s in (4, 8, 16) if s in deepest)
        chosen = whole_numbers(self.layers)
        n = len(strides)
        levels = tuple(int(i) % n for i in chosen if i in range(-n, n))
        if len(set(levels)) < len(chosen) or not chosen:
            raise ValueError(
                f"layers={self.layers!r}: expected different levels from {-n} to "
                f"{n - 1}; {self.model} has levels of strides {strides}."
            )
        return levels

    def _measured(self):
        key = self.model, self.weights_digest_, self.layers_
        if key not in _MEASURED:
            network = load_backbone(self.model, str(self.weights)).network
            shifts = cell_shifts(network, self.layers_)
            _MEASURED[key] = shifts, level_channels(network, self.layers_)
        return _MEASURED[key]

    def _learn_scale(self, images):
        """Learn mean and scale of the channels, batch by batch in float64."""
        if images is None:
            raise ValueError(
                "CNNFeatures learns the channels' scale from images, and X is None: "
                "pass the normal images, or standardize=False."
            )
        scaler = StandardScaler()
        for rows in np.array_split(np.arange(len(images)), -(-len(images) // 8)):
            grids = self._extract(images[rows])[0]
            cells = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
            cells = cells[np.isfinite(cells).all(-1)]
            if len(cells):
                scaler.partial_fit(cells)
        if not hasattr(scaler, "mean_"):
            raise ValueError(f"None of the {len(images)} images has a valid cell.")
        # A channel that hardly varies must not become a loud one.
        scale = np.where(scaler.scale_ < 1e-6, 1, scaler.scale_)
        self.mean_, self.scale_ = scaler.mean_.astype("f4"), scale.astype("f4")

    def _extractor(self):
        if self.standardize is True:
            check_is_fitted(self, "scale_")
        return super()._extractor()

    def _finish(self, grid):
        if self.standardize == "levels":
            ends = np.cumsum(self.channels_)[:-1]
            return np.concatenate([unit(x) for x in np.split(grid, ends, -1)], -1)
        if self.standardize is True and hasattr(self, "scale_"):
            return (grid - self.mean_) / self.scale_
        return grid

    def _shaping(self):
        return (self.layers_, self.stride, self.padding, self.shifts_)

    def _plan(self, size):
        """Return the pixels (height, width) to resize to, and the grid (h, w)."""
        unit = max(self.strides_)
        cells = [max(1, round(edge / unit)) for edge in self._wanted(size)]
        resized = tuple(n * unit for n in cells)
        grid = tuple(max(1, round(edge / self.stride)) for edge in resized)
        self._check_grid(size, grid)
        return resized, grid

    @torch.inference_mode()
    def _run(self, images, resized, grid):
        """Return float32 features (n, h * w, c)."""
        maps = self._maps(self._pixels(images, resized))
        cells = on_grid(maps, grid, self.shifts_).flatten(1, 2).float().cpu()
        # Sums round by how numbers lie in memory: those kept lie as those computed.
        return np.ascontiguousarray(cells.numpy())

    def _maps(self, x):
        """Return the maps of all levels, (n, c, h, w) each; gradients may pass."""
        device, dtype = self._device_and_dtype()
        x, reflect = x.to(device=device, dtype=dtype), self.padding == "reflect"
        return level_maps(self._backbone().network, x, self.layers_, reflect=reflect)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = self.standardize is True
        return tags
