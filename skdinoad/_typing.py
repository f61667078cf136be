"""Types for signatures; shapes, units and directions are given in docstrings."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Self as Self  # in typing since Python 3.11
else:
    Self = Any

__all__ = [
    "Aggregate",
    "Border",
    "DefectKind",
    "DetectorLike",
    "EstimatorLike",
    "ExtractorLike",
    "FeaturesLike",
    "FilePath",
    "ImagesLike",
    "LabelsLike",
    "MapsLike",
    "MasksLike",
    "OneOrList",
    "Precision",
    "RandomState",
    "Self",
    "Size",
    "TextureLike",
    "Threshold",
]


class ArrayOfOthers(Protocol):
    """An object that numpy can convert: a torch tensor, a pandas column."""

    def __array__(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class EstimatorLike(Protocol):
    """An estimator, Pipeline, search or other meta-estimator."""

    def fit(self, *args: Any, **kwargs: Any) -> Any: ...


class DetectorLike(EstimatorLike, Protocol):
    """A detector, or an estimator that ends in one, such as a Pipeline."""

    def score_samples(self, *args: Any, **kwargs: Any) -> Any: ...

    def predict(self, *args: Any, **kwargs: Any) -> Any: ...


class ExtractorLike(EstimatorLike, Protocol):
    """An extractor of patch features and of the positions of patches."""

    def transform_affines(self, *args: Any, **kwargs: Any) -> Any: ...


#: Images or patch features. Not any Sequence, because a single path is a Sequence too.
ImagesLike: TypeAlias = np.ndarray | ArrayOfOthers | list[Any] | tuple[Any, ...]

#: Labels (n,), masks (n, H, W), or a list of masks, with None for empty ones.
LabelsLike: TypeAlias = (
    np.ndarray | ArrayOfOthers | Sequence[float] | Sequence[np.ndarray | None]
)
MasksLike: TypeAlias = np.ndarray | Sequence[np.ndarray | None]
MapsLike: TypeAlias = np.ndarray | Sequence[np.ndarray]

#: An array, or a list of arrays if images differ in size. ``Any`` avoids errors of type
#: checkers in code for images of one size.
OneOrList: TypeAlias = np.ndarray | Any

#: A float, or a dict of group to float. ``Any`` avoids errors of type checkers in code
#: without groups.
Threshold: TypeAlias = float | Any

FilePath: TypeAlias = str | PathLike[str]
Size: TypeAlias = int | tuple[int, int] | list[int]
RandomState: TypeAlias = int | np.random.RandomState | None
FeaturesLike: TypeAlias = ExtractorLike | Literal["passthrough"] | None

#: The second extractor of a detector that also compares texture.
TextureLike: TypeAlias = ExtractorLike | Literal["auto"] | None
Aggregate: TypeAlias = float | Literal["max", "mean", "p99"]
DefectKind: TypeAlias = Literal["scratch", "blob", "cutpaste", "missing"]
Border: TypeAlias = Literal["wrap", "reflect", "replicate", "constant"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
