"""What signatures say of types; shapes, units and directions stand in docstrings."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Self as Self  # typing has it from Python 3.11 on
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
    """What numpy makes an array of: a tensor of torch, a column of pandas."""

    def __array__(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class EstimatorLike(Protocol):
    """An estimator, Pipeline, search or other meta-estimator."""

    def fit(self, *args: Any, **kwargs: Any) -> Any: ...


class DetectorLike(EstimatorLike, Protocol):
    """A detector, or whatever ends in one."""

    def score_samples(self, *args: Any, **kwargs: Any) -> Any: ...

    def predict(self, *args: Any, **kwargs: Any) -> Any: ...


class ExtractorLike(EstimatorLike, Protocol):
    """What gives patch features and says where the patches lie."""

    def transform_affines(self, *args: Any, **kwargs: Any) -> Any: ...


#: Images or patch features; no other sequences, for a single path is one of characters.
ImagesLike: TypeAlias = np.ndarray | ArrayOfOthers | list[Any] | tuple[Any, ...]

#: Labels (n,), masks (n, H, W), or a list of masks, None where one is empty.
LabelsLike: TypeAlias = (
    np.ndarray | ArrayOfOthers | Sequence[float] | Sequence[np.ndarray | None]
)
MasksLike: TypeAlias = np.ndarray | Sequence[np.ndarray | None]
MapsLike: TypeAlias = np.ndarray | Sequence[np.ndarray]

#: Or a list of arrays if images differ in size; whose images do not need not ask which.
OneOrList: TypeAlias = np.ndarray | Any

#: Or a dict of group to float; who has no groups need not ask which.
Threshold: TypeAlias = float | Any

FilePath: TypeAlias = str | PathLike[str]
Size: TypeAlias = int | tuple[int, int] | list[int]
RandomState: TypeAlias = int | np.random.RandomState | None
FeaturesLike: TypeAlias = ExtractorLike | Literal["passthrough"] | None

#: The second extractor of a detector that compares texture too.
TextureLike: TypeAlias = ExtractorLike | Literal["auto"] | None
Aggregate: TypeAlias = float | Literal["max", "mean", "p99"]
DefectKind: TypeAlias = Literal["scratch", "blob", "cutpaste", "missing"]
Border: TypeAlias = Literal["wrap", "reflect", "replicate", "constant"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
