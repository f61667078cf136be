"""The training loop of all networks of the library."""

import copy
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Integral

import numpy as np
import torch
from sklearn.model_selection import KFold, ShuffleSplit
from tqdm.auto import tqdm

from skdinoad._compat.sklearn import Task

__all__ = [
    "Run",
    "batch_rows",
    "holdout_splits",
    "iterations",
    "train",
    "warm_cosine",
]


@dataclass
class Run:
    """State of a training, which can be resumed.

    Parameters
    ----------
    network : torch.nn.Module
    optimizer : torch.optim.Optimizer
    losses : list of float
        Loss of each iteration so far.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    losses: list = field(default_factory=list)

    def copy(self):
        """Return an independent copy of this run."""
        return Run(*copy.deepcopy((self.network, self.optimizer, self.losses)))

    def go_back_to(self, other):
        self.network, self.optimizer = other.network, other.optimizer
        self.losses = other.losses


def train(
    run,
    loss_of,
    *,
    n_iter,
    learning_rate,
    grad_clip=None,
    seed=0,
    max_time=None,
    keep_every=None,
    verbose=False,
    name="train",
    task=None,
):
    """Train until ``n_iter`` iterations are done in total, or the time is over.

    A run that is stopped and resumed gives the same result as an uninterrupted one,
    because randomness in an iteration depends only on the seed and its number.

    Parameters
    ----------
    run : Run
        Changed in place; left in evaluation mode.
    loss_of : callable
        ``loss_of(i)`` returns the loss of iteration i, 0-based.
    n_iter : int
        Total number of iterations, including those done before.
    learning_rate : callable
        ``learning_rate(i)`` is the learning rate of iteration i.
    grad_clip : float or None
        Largest total norm of all gradients.
    seed : int
    max_time : float or None
        Seconds after which no further iteration starts; at least one is always done.
    keep_every : float or None
        Seconds between backup copies of the run. If an iteration is interrupted, the
        run is restored from the last copy, because it cannot be resumed in the middle
        of an iteration. None makes no copies; use it if the run will not be resumed.
    verbose : bool
        Whether to show a progress bar with the loss and the remaining time.
    name : str
        Label of the progress bar.
    task : Task or None
        Parent task. Callbacks are notified of each iteration and may stop the training
        after it.

    Raises
    ------
    FloatingPointError
        If the loss or its gradients are not finite. The weights are those before this
        iteration.
    """
    run.network.train()
    device = next(run.network.parameters()).device
    task = task or Task()
    bar = tqdm(range(len(run.losses), n_iter), name, unit="it", disable=not verbose)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        _kept(run, keep_every) as keep,
    ):
        start = time.monotonic()
        for i in bar:
            with task.part("iteration") as step:
                _seed(seed + i, device)
                _step(run, loss_of(i), i, learning_rate(i), grad_clip)
            bar.set_postfix(loss=f"{run.losses[-1]:.4f}", refresh=False)
            keep()
            late = max_time is not None and time.monotonic() - start >= max_time
            if step.stop or late:
                break
    run.network.eval()


@contextmanager
def _kept(run, seconds):
    """Yield a function that regularly copies a run; restore the copy on failure."""
    if seconds is None:
        yield lambda: None
        return
    last = time.monotonic(), run.copy()

    def keep():
        nonlocal last
        if time.monotonic() - last[0] >= seconds:
            last = time.monotonic(), run.copy()

    try:
        yield keep
    except BaseException:
        run.go_back_to(last[1])
        raise


def _seed(seed, device):
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # torch.manual_seed would seed all devices
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _step(run, loss, i, rate, grad_clip):
    """Take one gradient step.

    The ``factor`` of a parameter group multiplies its learning rate.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1)
    run.optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(
        run.network.parameters(), math.inf if grad_clip is None else grad_clip
    )
    value = loss.item()
    _check_finite(value, float(norm), i, rate, run.network)
    run.optimizer.step()
    run.losses.append(value)


def _check_finite(loss, norm, i, rate, network):
    if math.isfinite(loss) and math.isfinite(norm):
        return
    network.eval()
    raise FloatingPointError(
        f"Training broke down in iteration {i}: loss {loss}, gradient norm {norm}, "
        f"learning rate {rate:.2g}. Lower learning_rate, use precision='float32', or "
        "check for features that are not finite or very large."
    )


def warm_cosine(i, n_iter, *, warm_up, peak, final) -> float:
    """Return the learning rate of iteration i: linear warm-up, then cosine decay.

    The last warm-up iteration and the first of the decay have the peak rate. The decay
    ends just above ``final``.
    """
    if i < warm_up:
        return peak * i / max(1, warm_up - 1)
    done = (i - warm_up) / max(1, n_iter - warm_up)
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * done))


def iterations(value, n_iter) -> int:
    """Return a number of iterations given as an integer or a share of ``n_iter``."""
    return int(value) if isinstance(value, Integral) else round(value * n_iter)


def batch_rows(n, size, i, seed=0) -> np.ndarray:
    """Return the rows of batch i in an endless stream of shuffled passes over n rows.

    Batches have ``min(size, n)`` rows. Each depends only on its number and the seed.
    """
    size = min(size, n)
    places = np.arange(i * size, (i + 1) * size)
    passes = [_pass(n, k, seed) for k in range(places[0] // n, places[-1] // n + 1)]
    return np.concatenate(passes)[places - places[0] // n * n]


@lru_cache(maxsize=2)
def _pass(n, k, seed):
    return np.random.default_rng([seed, k]).permutation(n)


def holdout_splits(image, holdout, seed) -> list:
    """Return the training and held-out rows of each network.

    Parameters
    ----------
    image : ndarray of shape (n,), int
        The image that each row shows; copies follow their image and share its fold.
        Folds are assigned by the order of images in this array, not by their numbers.
    holdout : int, float or None
        Number of folds; or the share of images to hold out from all training; or None.
    seed : int

    Returns
    -------
    list of (ndarray, ndarray)
        Training rows, and the first rows of the held-out images. The last pair belongs
        to the final network.

    Examples
    --------
    >>> import numpy as np
    >>> from skdinoad._training.loop import holdout_splits
    >>> [(a.tolist(), b.tolist()) for a, b in holdout_splits(np.array([0, 0, 1]), 2, 0)]
    [([0, 1], [2]), ([2], [0]), ([0, 1, 2], [])]
    """
    first = np.sort(np.unique(image, return_index=True)[1])
    images = image[first]
    n, cv = len(images), None
    if n > 1 and isinstance(holdout, Integral):
        cv = KFold(min(holdout, n), shuffle=True, random_state=seed)
    elif n > 1 and holdout is not None:
        count = min(max(1, round(holdout * n)), n - 1)
        cv = ShuffleSplit(1, test_size=count, random_state=seed)
    splits = [
        (np.flatnonzero(np.isin(image, images[learned])), first[held])
        for learned, held in (cv.split(images) if cv else ())
    ]
    whole = [] if len(splits) == 1 else [(np.arange(len(image)), np.array([], int))]
    return splits + whole
