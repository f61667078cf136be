"""Settings of the memory banks: how large, how stored, how searched."""

from numbers import Integral, Real
from typing import Literal

from sklearn.base import BaseEstimator

from skdinoad._compat.sklearn import Interval, StrOptions

__all__ = ["LocalBank", "MemoryBank"]

_DTYPES = [StrOptions({"float32", "float16"})]


class MemoryBank(BaseEstimator):
    """Settings of the memory bank of :class:`~skdinoad.AnomalyDINO`.

    The bank holds patch vectors of all good images, whatever their location.

    Parameters
    ----------
    size : int, float or None, default=4000
        Largest number of vectors that the bank keeps. A float is a share of all
        vectors; None keeps all. In the benchmarks a coreset of a tenth costs no
        accuracy.
    sampling : {"coreset", "random"}, default="coreset"
        How the vectors to keep are chosen: by greedy k-centre, or at random.
    dtype : {"float32", "float16"}, default="float32"
        How vectors are stored. Distances are computed in float32.
    search : {"exact", "approximate"}, default="exact"
        "approximate" uses an index of faiss (``pip install 'skdinoad[faiss]'``).
    n_neighbors : int, default=1
        The distance of a patch is the mean distance to this many nearest vectors.
    nearest_images : int or None, default=None
        Compare each image only with the vectors of this many training images: those
        whose mean patch has the highest cosine similarity to the image's. With
        ``size=None`` and thousands of training images of several products, the cost of
        a score then does not grow with their number. None compares with all images.

    See Also
    --------
    LocalBank : A bank for each location, for DinoPatch.

    Notes
    -----
    With ViT-S at 224 pixels each image, and each rotation of it, gives 256 vectors,
    which take 0.4 MB for each layer. A comparison with 1000 vectors costs 0.2 GFLOP per
    image and layer; the network costs 12.

    Examples
    --------
    >>> from skdinoad import AnomalyDINO, MemoryBank
    >>> detector = AnomalyDINO(bank=MemoryBank(size=None))
    >>> detector.set_params(bank__size=0.1).bank.size
    0.1
    """

    _parameter_constraints = {
        "size": [
            None,
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "sampling": [StrOptions({"coreset", "random"})],
        "dtype": _DTYPES,
        "search": [StrOptions({"exact", "approximate"})],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "nearest_images": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        size: float | None = 4000,
        sampling: Literal["coreset", "random"] = "coreset",
        dtype: Literal["float32", "float16"] = "float32",
        search: Literal["exact", "approximate"] = "exact",
        n_neighbors: int = 1,
        nearest_images: int | None = None,
    ) -> None:
        self.size = size
        self.sampling = sampling
        self.dtype = dtype
        self.search = search
        self.n_neighbors = n_neighbors
        self.nearest_images = nearest_images


class LocalBank(BaseEstimator):
    """Settings of the memory banks of :class:`~skdinoad.DinoPatch`.

    There is one bank for each location of the patch grid.

    Parameters
    ----------
    neighborhood : int, default=1
        A patch is compared with the banks up to this many patches away, in rows and in
        columns. 0 compares with the same location only; the size of the grid, or more,
        compares with all locations.
    global_weight : float, default=0
        Weight w, 0 to 1, of the distance to the nearest vector of all locations: the
        distance is (1 - w) times the local one plus w times the global one.
    metric : {"euclidean", "cosine"}, default="euclidean"
        The distance; cosine is 1 - cos. Scores of the two are not comparable.
    max_images : int or None, default=None
        Largest number of images that the banks keep, chosen by greedy k-centre.
    n_prototypes : int or None, default=None
        Largest number of vectors that each bank keeps, chosen by greedy k-centre. At
        least 2, so that something is left when a training image is held out.
    n_components : int or None, default=None
        Reduce vectors to this many principal components; one more number keeps the
        distance of a vector from their span.
    pca : {"shared", "local"}, default="shared"
        One basis for all locations, or one for each. "local" needs
        ``neighborhood=0``.
    dtype : {"float32", "float16"}, default="float32"
        How vectors are stored. Distances are computed in float32.
    nearest_images : int or None, default=None
        Compare each image only with this many training images: those whose mean patch
        has the highest cosine similarity to the image's. Useful where one model serves
        several products or views. Not with ``n_prototypes``, which mixes images. None
        compares with all images.

    See Also
    --------
    MemoryBank : One bank for all locations, for AnomalyDINO.

    Notes
    -----
    The banks take l * h * w * c * 4 bytes per image: 0.4 MB for each layer at 224
    pixels with ViT-S. The benchmarks say what each way to reduce them costs in
    accuracy.

    Examples
    --------
    >>> from skdinoad import DinoPatch, LocalBank
    >>> detector = DinoPatch(bank=LocalBank(neighborhood=0))
    >>> detector.set_params(bank__metric="cosine").bank
    LocalBank(metric='cosine', neighborhood=0)
    """

    _parameter_constraints = {
        "neighborhood": [Interval(Integral, 0, None, closed="left")],
        "global_weight": [Interval(Real, 0, 1, closed="both")],
        "metric": [StrOptions({"euclidean", "cosine"})],
        "max_images": [None, Interval(Integral, 1, None, closed="left")],
        "n_prototypes": [None, Interval(Integral, 2, None, closed="left")],
        "n_components": [None, Interval(Integral, 1, None, closed="left")],
        "pca": [StrOptions({"shared", "local"})],
        "dtype": _DTYPES,
        "nearest_images": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        neighborhood: int = 1,
        global_weight: float = 0,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        max_images: int | None = None,
        n_prototypes: int | None = None,
        n_components: int | None = None,
        pca: Literal["shared", "local"] = "shared",
        dtype: Literal["float32", "float16"] = "float32",
        nearest_images: int | None = None,
    ) -> None:
        self.neighborhood = neighborhood
        self.global_weight = global_weight
        self.metric = metric
        self.max_images = max_images
        self.n_prototypes = n_prototypes
        self.n_components = n_components
        self.pca = pca
        self.dtype = dtype
        self.nearest_images = nearest_images
