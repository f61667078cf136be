"""Subsample banks: greedy k-centre coresets and random subsets."""

import numpy as np
import torch
from tqdm.auto import tqdm

from skdinoad._compat.products import linear
from skdinoad._compat.torch import as_tensor
from skdinoad._neighbors._norms import squared_norms

__all__ = ["k_centre", "k_centre_images", "k_centre_local", "random_subset"]

#: Number of farthest points from which centres are chosen between two updates.
_CANDIDATES = 512

#: Number of points per step when updating distances to new centres.
_ROWS = 4096


@torch.inference_mode()
def k_centre(X, n, *, verbose=False) -> np.ndarray:
    """Choose n rows as a coreset by greedy k-centre.

    The first choice is the row nearest to the mean; each further choice is the row
    farthest from all previous ones. The largest remaining distance is at most twice the
    optimum for n rows (Gonzalez 1985). PatchCore (Roth et al., CVPR 2022,
    arXiv 2106.08265, algorithm 1) subsamples its memory bank in this way.

    Parameters
    ----------
    X : ndarray of shape (m, c), float32 or float16
    n : int
        At most m.
    verbose : bool

    Returns
    -------
    rows : ndarray of shape (n,), int64
        In the order of choice: the first k rows are the result for n = k.

    Notes
    -----
    The result is exact and deterministic. The plain algorithm reads all of X for each
    choice and is limited by memory bandwidth. Here many choices share one pass over X.
    The farthest rows are candidates; all other rows are at most as far as the nearest
    candidate was. As long as the farthest candidate is at least at this distance, it is
    the farthest row of all. Otherwise all distances are updated by one matrix product.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._neighbors import k_centre
    >>> k_centre(np.array([[0.0], [1.0], [5.0], [9.0]], dtype=np.float32), 3)
    array([2, 0, 3])
    """
    X, squares = as_tensor(X), as_tensor(squared_norms(X))
    mean = X.mean(0, dtype=torch.float32)
    first = (squares - 2 * (X.float() @ mean)).argmin()
    chosen, done = [first[None]], 1
    gap = torch.full((len(X),), torch.inf)
    with tqdm(total=n, desc="coreset", disable=not verbose) as bar:
        while True:
            _update(gap, X, squares, chosen[-1])
            bar.update(len(chosen[-1]))
            if done == n:
                return torch.cat(chosen).numpy()
            chosen.append(_choose(gap, X, squares, n - done))
            done += len(chosen[-1])


def _update(gap, X, squares, centres):
    """Update each row's squared distance to its nearest centre in place."""
    C, norms = X[centres].float() * -2, squares[centres]
    for start in range(0, len(X), _ROWS):
        rows = slice(start, start + _ROWS)
        nearest = linear(X[rows].float(), C, norms).amin(1)
        gap[rows] = torch.minimum(gap[rows], nearest + squares[rows])
    gap[centres] = -torch.inf  # never chosen again, even if all gaps are 0


def _choose(gap, X, squares, n):
    """Return the next choices, at least one and at most n."""
    gaps, rows = gap.topk(min(_CANDIDATES, len(gap)))
    C, norms, limit = X[rows].float(), squares[rows], gaps[-1].item()
    # Distances of all pairs: each choice then reads one row of it instead of all of C.
    apart = linear(C * -2, C, norms) + norms[:, None]
    chosen = []
    while len(chosen) < n:
        gap_j, j = gaps.max(0)
        if chosen and gap_j.item() <= limit:
            break
        chosen.append(rows[j])
        gaps = torch.minimum(gaps, apart[j])
        gaps[j] = -torch.inf
    return torch.stack(chosen)


def k_centre_images(bank, n) -> np.ndarray:
    """Choose n of the m images of a location-wise bank by greedy k-centre.

    Parameters
    ----------
    bank : ndarray of shape (h, w, m, c), float32
        0 where invalid.
    n : int

    Returns
    -------
    images : ndarray of shape (n,), int64, ascending
    """
    flat = as_tensor(bank).reshape(-1, *bank.shape[2:])
    product = sum(part @ part.mT for part in flat.float()).double().numpy()
    # Points with the same distances as the images, with m coordinates, not h * w * c.
    value, vector = np.linalg.eigh(product)
    points = vector * np.sqrt(np.maximum(value, 0))
    return np.sort(k_centre(points.astype(np.float32), n))


@torch.inference_mode()
def k_centre_local(bank, valid, n) -> np.ndarray:
    """Choose n of the m vectors of each location, by greedy k-centre.

    Parameters
    ----------
    bank : ndarray of shape (h, w, m, c), float32
    valid : ndarray of shape (h, w, m), bool
        Invalid vectors are chosen only if no valid one is left.
    n : int
        At most m.

    Returns
    -------
    index : ndarray of shape (h, w, n), int64
        Indices into the m vectors of each location.
    """
    h, w, m, c = bank.shape
    out = torch.empty(h * w, n, dtype=torch.int64)
    flat, ok = as_tensor(bank).reshape(-1, m, c), as_tensor(valid).reshape(-1, m)
    for cells in torch.arange(h * w).split(max(1, 2**22 // (m * c))):
        out[cells] = _centres(flat[cells].float(), ok[cells], n)
    return out.reshape(h, w, n).numpy()


def _centres(X, valid, n):
    """Run greedy k-centre on many small sets at once: (b, m, c) -> (b, n)."""
    count = valid.sum(1).clamp_min(1)[:, None]
    mean = (X * valid[..., None]).sum(1) / count
    gap = -(X - mean[:, None]).square().sum(-1)  # first choice: nearest to the mean
    gap[~valid] = -torch.inf
    lists, chosen = torch.arange(len(X)), []
    while len(chosen) < n:
        chosen.append(gap.argmax(1))
        new = (X - X[lists, chosen[-1], None]).square().sum(-1)
        gap = new if len(chosen) == 1 else torch.minimum(gap, new)
        gap[~valid] = -1
        for j in chosen:
            gap[lists, j] = -2
    return torch.stack(chosen, 1)


def random_subset(m, n, random_state) -> np.ndarray:
    """Choose n of m rows at random.

    Parameters
    ----------
    m, n : int
    random_state : numpy.random.RandomState

    Returns
    -------
    rows : ndarray of shape (n,), int64, ascending
    """
    return np.sort(random_state.choice(m, n, replace=False))
