"""Settings of the extractors: the forward pass, tiles and the cache on disk."""

from numbers import Integral, Real
from pathlib import Path
from typing import Literal, TypeAlias

import joblib
from sklearn.base import BaseEstimator

from skdinoad._compat.sklearn import Interval, StrOptions
from skdinoad.features._engines import ENGINES

__all__ = ["CacheLike", "DiskCache", "Runtime", "Tiles"]


class Runtime(BaseEstimator):
    """Settings of the forward pass of an extractor: engine, precision, device, batch.

    Parameters
    ----------
    engine : str, default="torch"
        What computes the forward pass: "torch", "compile" (``torch.compile``, which
        takes long for each input size), or on the CPU "onnxruntime",
        "onnxruntime-int8" or "openvino". The extras have these names; int8 is part of
        the extra "onnxruntime". "auto" times torch and the installed engines on images
        of ``fit``, except int8 and "compile", and keeps the fastest. ``fit`` compares
        an engine with torch on four images and raises an error if the root mean square
        difference of the features, divided by the root mean square distance of patches
        from their mean, exceeds 0.001, or 0.15 with int8. CNNs support "torch" only.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of the network; features are always float32. On a CPU "bfloat16" saves
        time only if the processor has instructions for it.
    device : str, default="auto"
        "auto" takes a GPU if there is one.
    batch_size : int, default=8
        Images per forward pass; with tiles, tiles of one image per forward pass.

    Examples
    --------
    >>> from skdinoad import DinoFeatures, Runtime
    >>> features = DinoFeatures(runtime=Runtime(engine="openvino"))
    >>> features.set_params(runtime__batch_size=4).runtime
    Runtime(batch_size=4, engine='openvino')
    """

    _parameter_constraints = {
        "engine": [StrOptions({"auto", *ENGINES})],
        "dtype": [StrOptions({"float32", "bfloat16", "float16"})],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        engine: Literal[
            "torch", "compile", "onnxruntime", "onnxruntime-int8", "openvino", "auto"
        ] = "torch",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        self.engine = engine
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size


class Tiles(BaseEstimator):
    """Settings of tiles, for large images with small defects.

    The network processes square tiles one after the other, and their features form one
    grid for the image. With ``image_size=None`` the image keeps its full resolution.

    Parameters
    ----------
    size : int, default=448
        Edge of a tile in pixels, a multiple of the patch size.
    overlap : float, default=0.25
        Smallest overlap of neighbouring tiles, as a share of a tile. Where tiles
        overlap, features are averaged with weights that decrease towards the edges.

    Examples
    --------
    >>> from skdinoad import DinoFeatures, Tiles
    >>> features = DinoFeatures(image_size=None, tiles=Tiles(size=224))
    >>> features.set_params(tiles__overlap=0.5).tiles
    Tiles(overlap=0.5, size=224)
    """

    _parameter_constraints = {
        "size": [Interval(Integral, 1, None, closed="left")],
        "overlap": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, *, size: int = 448, overlap: float = 0.25) -> None:
        self.size = size
        self.overlap = overlap


class DiskCache(BaseEstimator):
    """Settings of a folder that caches features.

    Parameters
    ----------
    folder : str or path
        Created if it does not exist. Several processes may use it at the same time.
    max_size : int, str or None, default=None
        Largest total size of the features in the folder: a number of bytes, or a text
        such as "500MB", "2GB" or "1.5GiB". Every process with a limit deletes the least
        recently used features to make room for new ones. None: no limit.

    Examples
    --------
    >>> from skdinoad import DinoFeatures, DiskCache
    >>> DinoFeatures(cache=DiskCache("features", max_size="2GB")).cache.max_size
    '2GB'
    """

    _parameter_constraints = {
        "folder": [str, Path],
        "max_size": [None, Interval(Integral, 1, None, closed="left"), str],
    }

    def __init__(
        self, folder: str | Path, *, max_size: int | str | None = None
    ) -> None:
        self.folder = folder
        self.max_size = max_size


#: Where features are cached: None in the process, False nowhere, else in a folder.
CacheLike: TypeAlias = str | Path | Literal[False] | joblib.Memory | DiskCache | None
