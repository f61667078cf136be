"""Training: one loop for every network of the library."""

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
    """A network in training: what it takes to go on where it stopped.

    Parameters
    ----------
    network : torch.nn.Module
    optimizer : torch.optim.Optimizer
    losses : list of float
        One for each iteration so far.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    losses: list = field(default_factory=list)

    def copy(self):
        """Return a run that goes on from here, whatever becomes of this one."""
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
    """Train until ``n_iter`` iterations are done altogether, or the time is over.

    A run that is stopped and resumed ends as one that never was: what is random in an
    iteration depends on the seed and the iteration's number alone.

    Parameters
    ----------
    run : Run
        Changed in place; left in evaluation mode.
    loss_of : callable
        ``loss_of(i)`` returns the loss of iteration i, 0-based.
    n_iter : int
        Iterations altogether, those done before included.
    learning_rate : callable
        ``learning_rate(i)`` is that of iteration i.
    grad_clip : float or None
        Largest norm of all gradients together.
    seed : int
    max_time : float or None
        Seconds after which no further iteration starts; one is always done.
    keep_every : float or None
        Seconds between copies of the run. If an iteration is interrupted, the run goes
        back to the last copy: one stopped in the middle of an iteration could not go
        on as if it had never stopped. None = no copies, if nobody will go on with it.
    verbose : bool
        Whether to show a bar with the loss and the time left.
    name : str
        What the bar is called.
    task : Task or None
        Callbacks are told of each iteration as a part of it, and may stop the training
        after one.

    Raises
    ------
    FloatingPointError
        If the loss or its gradients are not finite; the weights are left as they were
        before that iteration.
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
    """Yield the function that copies a run now and then; go back to that on failure."""
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
    if device.type == "cuda":  # torch.manual_seed would move all devices
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _step(run, loss, i, rate, grad_clip):
    """Take one step down the gradient of the loss.

    A group of parameters may learn at a multiple of the rate, its ``factor``.
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
        "look for features that are not finite or very large."
    )


def warm_cosine(i, n_iter, *, warm_up, peak, final) -> float:
    """Return the learning rate of iteration i: a linear rise from 0, then a cosine.

    The last iteration of the rise has the peak, as has the first of the cosine, which
    ends just above ``final``.
    """
    if i < warm_up:
        return peak * i / max(1, warm_up - 1)
    done = (i - warm_up) / max(1, n_iter - warm_up)
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * done))


def iterations(value, n_iter) -> int:
    """Return a number of iterations, given as such or as a share of all of them."""
    return int(value) if isinstance(value, Integral) else round(value * n_iter)


def batch_rows(n, size, i, seed=0) -> np.ndarray:
    """Return the rows of batch i in an endless stream of shuffled passes over n rows.

    Batches have ``min(size, n)`` rows. Each depends on its number alone.
    """
    size = min(size, n)
    places = np.arange(i * size, (i + 1) * size)
    passes = [_pass(n, k, seed) for k in range(places[0] // n, places[-1] // n + 1)]
    return np.concatenate(passes)[places - places[0] // n * n]


@lru_cache(maxsize=2)
def _pass(n, k, seed):
    return np.random.default_rng([seed, k]).permutation(n)


def holdout_splits(image, holdout, seed) -> list:
    """Return what each network learns from and is asked about.

    Parameters
    ----------
    image : ndarray of shape (n,), int
        The image that each row shows: copies of an image follow it and stay with it.
        Folds are dealt in the order in which images come here, not by their numbers.
    holdout : int, float or None
        Number of folds; or a share of images that no network learns from; or nothing.
    seed : int

    Returns
    -------
    list of (ndarray, ndarray)
        Rows to learn from, and the first rows of the images held out. The last pair is
        that of the network to keep.

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
