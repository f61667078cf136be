"""Import timm, even if the installed torchvision is broken."""

import torch

from skdinoad._compat.imports import uncollected

__all__ = ["timm"]

# torch.library drops an operator when its Library object dies, so keep it alive.
_libraries = []


def _define_missing_torchvision_operators():
    """Declare the two operators that a torchvision built for CUDA expects.

    timm imports torchvision, and a torchvision built for another torch (a CUDA
    wheel beside a CPU torch, say) stops at import with "operator torchvision::nms
    does not exist", because its compiled part did not load. We use none of its
    compiled operators, so declaring their schemas is enough for the import.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    _libraries.append(library)


def _import_timm():
    try:
        import timm
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _define_missing_torchvision_operators()
        import timm
    return timm


with uncollected():
    timm = _import_timm()
