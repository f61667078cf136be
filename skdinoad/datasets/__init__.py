"""Data sets: rendered parts, planted defects and loaders for folders on disk."""

from skdinoad.datasets._defects import DEFECT_KINDS, plant_defect, plant_defects
from skdinoad.datasets._folder import load_folder, load_images
from skdinoad.datasets._lazy import LazyMasks
from skdinoad.datasets._mask_files import read_mask
from skdinoad.datasets._public import (
    load_btad,
    load_kolektor_sdd,
    load_mpdd,
    load_mvtec_3d,
    load_mvtec_ad,
    load_mvtec_ad2,
    load_mvtec_loco,
    load_real_iad,
    load_visa,
)
from skdinoad.datasets._screws import SCREW_DEFECTS, make_screws

__all__ = [
    "DEFECT_KINDS",
    "SCREW_DEFECTS",
    "LazyMasks",
    "load_btad",
    "load_folder",
    "load_images",
    "load_kolektor_sdd",
    "load_mpdd",
    "load_mvtec_3d",
    "load_mvtec_ad",
    "load_mvtec_ad2",
    "load_mvtec_loco",
    "load_real_iad",
    "load_visa",
    "make_screws",
    "plant_defect",
    "plant_defects",
    "read_mask",
]
