"""Memory banks: exact search, coresets and an approximate index.

Squared distances come from one matrix product (|q|^2 + |b|^2 - 2 q.b). This formula is
inaccurate if q and b are close, so it is used only to find the neighbour; the distance
is then computed from the difference. An image in the bank scores exactly 0, and a score
does not depend on the other images of its batch.

Banks are float32 or float16; all computations use float32, on the CPU or a GPU.
"""

from skdinoad._neighbors._bank import PatchVectors
from skdinoad._neighbors._coreset import k_centre, k_centre_images, k_centre_local
from skdinoad._neighbors._flat import nearest
from skdinoad._neighbors._index import import_faiss
from skdinoad._neighbors._local import nearest_local
from skdinoad._neighbors._located import LocatedVectors
from skdinoad._neighbors._mutual import mutual_distances
from skdinoad._neighbors._norms import squared_norms

__all__ = [
    "LocatedVectors",
    "PatchVectors",
    "import_faiss",
    "k_centre",
    "k_centre_images",
    "k_centre_local",
    "mutual_distances",
    "nearest",
    "nearest_local",
    "squared_norms",
]
