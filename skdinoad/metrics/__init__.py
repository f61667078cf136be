"""Metrics of image scores and heat maps.

As everywhere in the library, labels are +1 (normal) and -1 (anomalous), and higher
scores mean more normal. Masks are True where anomalous, and higher map values mean more
anomalous. The anomalous class is the positive class, as in the papers.
"""

from skdinoad.metrics._image import (
    f1_max_score,
    image_ap_score,
    image_auroc_score,
    recall_at_fpr_score,
)
from skdinoad.metrics._pixel import (
    aupro_score,
    pixel_ap_score,
    pixel_auroc_score,
    pixel_f1_max_score,
)
from skdinoad.metrics._scorers import (
    detection_scorer,
    f1_max_scorer,
    image_ap_scorer,
    image_auroc_scorer,
    pixel_ap_scorer,
    pixel_aupro_scorer,
    pixel_auroc_scorer,
    pixel_f1_max_scorer,
    recall_at_fpr_scorer,
    recall_scorer,
    specificity_scorer,
)
from skdinoad.metrics._streaming import StreamingPixelMetrics

__all__ = [
    "StreamingPixelMetrics",
    "aupro_score",
    "detection_scorer",
    "f1_max_score",
    "f1_max_scorer",
    "image_ap_score",
    "image_ap_scorer",
    "image_auroc_score",
    "image_auroc_scorer",
    "pixel_ap_score",
    "pixel_ap_scorer",
    "pixel_aupro_scorer",
    "pixel_auroc_score",
    "pixel_auroc_scorer",
    "pixel_f1_max_score",
    "pixel_f1_max_scorer",
    "recall_at_fpr_score",
    "recall_at_fpr_scorer",
    "recall_scorer",
    "specificity_scorer",
]
