"""Approximate index for large banks, with the optional dependency faiss."""

import numpy as np

__all__ = ["build_index", "import_faiss", "search_index"]

#: Vectors per inverted list, and the share of lists that a query probes; for the recall
#: see ``benchmarks/speed/bank.py``.
_PER_LIST, _PROBED = 64, 1 / 32


def build_index(bank, random_state):
    """Build a faiss index of a bank with inverted lists around k-means centres.

    Parameters
    ----------
    bank : ndarray of shape (m, c), float32 or float16
    random_state : int
        Seed of the k-means.

    Returns
    -------
    faiss.IndexIVFFlat
        It can be pickled and holds a copy of the vectors.

    Raises
    ------
    ImportError
        If faiss is not installed.
    """
    faiss = import_faiss()
    bank = np.ascontiguousarray(bank, np.float32)
    lists = max(1, len(bank) // _PER_LIST)
    quantizer = faiss.IndexFlatL2(bank.shape[1])
    index = faiss.IndexIVFFlat(quantizer, bank.shape[1], lists)
    index.cp.seed = random_state
    index.cp.min_points_per_centroid = 1
    index.nprobe = max(8, round(lists * _PROBED))
    index.train(bank)
    index.add(bank)
    index.make_direct_map()
    return index


def search_index(index, queries, *, k=1):
    """Return approximate nearest neighbours.

    Parameters
    ----------
    index : faiss.IndexIVFFlat
    queries : ndarray of shape (q, c), float32
    k : int

    Returns
    -------
    squared : ndarray of shape (q, k), float32
        Squared Euclidean distances, ascending, never below the exact ones; infinity if
        the probed lists hold fewer than k vectors.
    rows : ndarray of shape (q, k), int64
    """
    queries = np.ascontiguousarray(queries, np.float32)
    _, rows = index.search(queries, min(k, index.ntotal))
    # faiss uses the formula that is inaccurate near 0: see the package's docstring.
    found = index.reconstruct_batch(rows.clip(0).ravel()).reshape(*rows.shape, -1)
    squared = np.square(queries[:, None] - found).sum(-1)
    squared[rows < 0] = np.inf
    order = np.argsort(squared, axis=1, kind="stable")
    return np.take_along_axis(squared, order, 1), np.take_along_axis(rows, order, 1)


def import_faiss():
    """Import faiss, or explain how to install it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "search='approximate' needs faiss: pip install 'skdinoad[faiss]', or use "
            "search='exact'."
        ) from error
    return faiss
