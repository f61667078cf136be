"""Images to try things on: rendered parts, planted defects, folders on disk."""

from skdinoad.datasets._defects import plant_defect
from skdinoad.datasets._folder import load_folder, read_mask
from skdinoad.datasets._screws import SCREW_DEFECTS, make_screws

__all__ = ["SCREW_DEFECTS", "load_folder", "make_screws", "plant_defect", "read_mask"]
