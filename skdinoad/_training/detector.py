"""The base class of detectors that train a network: folds, time limit, resumption."""

import time
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skdinoad._compat.caller import warn
from skdinoad._compat.products import with_fast_products
from skdinoad._compat.sklearn import Interval, Task
from skdinoad._compat.torch import (
    as_tensor,
    multiplies_bfloat16,
    resolve_device,
    seeded,
)
from skdinoad._training.loop import Run, batch_rows, holdout_splits, iterations, train
from skdinoad.base import BaseDetector
from skdinoad.training import Training

__all__ = ["TrainedDetector"]

#: Seconds of training that an interruption may cost, with ``warm_start``.
_KEEP_EVERY = 10


class TrainedDetector(BaseDetector):
    """Base class of the detectors that train a network on features or images.

    Threshold and display limits come from further networks, one for each fold of the
    training images, or from a share of images that no network learns from.

    A subclass has the parameters below, a table ``_presets`` of what they are where
    they are None, says under which ``_weights_name`` the weights are kept, and writes

    - ``_gather(X)`` -> what there is to learn from, a Bunch: ``image`` (m,) is the
      number of the image that each of its m rows shows;
    - ``_identity(data)`` -> what two fits must share to be one training;
    - ``_new_network(data, rows)`` -> a network to train on these rows, on the CPU;
    - ``_optimizer(network)``;
    - ``_loss(network, data, rows)`` -> the function of an iteration to its loss;
    - ``_rate(i)`` -> the learning rate of iteration i;
    - ``_score_row(network, data, row)`` -> the score grid of the image of one row;
    - ``_from_weights(weights)`` -> a network to score with;

    and, where the defaults do not do, ``_warm_up_iterations()``, before which a network
    has hardly learned, and ``_conclude(network, data)``, which follows the training.
    """

    _parameter_constraints = {
        **BaseDetector._parameter_constraints,
        "holdout": [
            None,
            Interval(Integral, 2, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "device": [str],
        "random_state": ["random_state"],
    }

    _default_parts = {"training": Training}

    #: Largest norm of the gradient; None = any.
    grad_clip: float | None = None

    _parts_of_fit = None

    #: Weights of a network that was trained elsewhere, while ``fit`` takes them over.
    _given = None

    # -- the parts of a detector ------------------------------------------------------

    def _fit_images(self, X):
        self._draw_seed()
        data = self._gather(X)
        if self._given is not None:
            self._take_over(data)
            return
        splits = holdout_splits(data.image, self.holdout, self._seed)
        runs = self._runs_to_go_on_with(data, len(splits))
        most = self._training_settings().max_time
        end = None if most is None else time.monotonic() + most
        self._held = []
        for k, (learned, held) in enumerate(splits, start=1 - len(splits)):
            # The network to keep is number 0, whatever the number of folds.
            run = runs.get(k) or self._new_run(data, k, learned)
            runs.update(
                {k: run} if self._training_settings().warm_start else {}
            )  # or dropped once asked
            left = None if end is None else (end - time.monotonic()) / (1 - k)
            name = f"fold {k + len(splits)}" if k else "train"
            self._train(run, data, learned, left, name)
            self._held += self._score_rows(run.network, data, held)
        self._keep(run)
        self._conclude(run.network, data)

    def _take_over(self, data):
        """Judge all images by a network that was trained elsewhere."""
        network = self._from_weights(self._given)
        _load(network, self._given)
        network.eval().to(resolve_device(self.device))
        rows = np.unique(data.image, return_index=True)[1]  # of copies the first
        self._held = self._score_rows(network, data, rows)
        self._keep(Run(network, None))
        self._conclude(network, data)

    def _score_rows(self, network, data, rows):
        """Return the numbers of the images that some rows show, and their grids."""
        return [(data.image[i], self._score_row(network, data, i)) for i in rows]

    def _numbered(self, X, image, contents=None):
        """Return the image that each row shows, of copies the first.

        ``image`` (m,) names the row of X that each row to learn from shows. Rows of
        one number are held out together.
        """
        kept, place = np.unique(np.asarray(image, int), return_inverse=True)
        self._register_images(X, kept.tolist(), contents)
        self._learned_rows = kept
        return kept[self._register.first][place]

    def _warm_up_iterations(self):
        n_iter, given = self._setting("n_iter"), self._given_setting("warm_up")
        return n_iter // 10 if given is None else iterations(given, n_iter)

    def _conclude(self, network, data):
        pass

    def _set_offset(self):
        self._set_no_offset() if self.holdout is None else super()._set_offset()

    def holdout_grids(self) -> Sequence[np.ndarray] | np.ndarray | None:
        held = sorted(getattr(self, "_held", ()), key=lambda pair: pair[0])
        self._held_rows = [row for row, _ in held]
        return [grid for _, grid in held] or None

    def _held_out(self):
        return np.searchsorted(self._learned_rows, self._held_rows)

    def _reset(self):
        if hasattr(self, self._weights_name):
            self._before = getattr(self, self._weights_name), self.loss_curve_
            self._runs = getattr(self, "_runs", {})
        super()._reset()

    def __getstate__(self):
        """Pickle the weights, not what only this process needs to train on."""
        passing = ("_runs", "_before", "_loaded", "_held")
        state = super().__getstate__()
        return {k: v for k, v in state.items() if k not in passing}

    # -- private: settings ------------------------------------------------------------

    def _training_settings(self):
        """Return what ``training`` holds; a detector without it trains nothing."""
        return (
            self._part("training") if "training" in self._default_parts else Training()
        )

    def _setting(self, name):
        """Return a parameter of the detector or its training, or the preset's value."""
        value = self._given_setting(name)
        return self._presets[self.preset].get(name) if value is None else value

    def _given_setting(self, name):
        holder = self if hasattr(self, name) else self._training_settings()
        return getattr(holder, name, None)

    def _low(self, device):
        """Whether training multiplies in bfloat16."""
        precision = self._training_settings().precision
        if precision == "auto":
            return multiplies_bfloat16(device)
        return precision == "bfloat16"

    def _batch(self, rows, i, least=1):
        """Return the rows of iteration i, some of them twice if there are few."""
        batch = batch_rows(len(rows), self._setting("batch_size"), i, self._seed)
        return np.resize(rows[batch], max(least, len(batch)))

    def _draw_seed(self):
        """Draw a seed; a training that goes on keeps its own where none is given."""
        given = isinstance(self.random_state, Integral)
        if given or not (
            self._training_settings().warm_start and hasattr(self, "_run_key")
        ):
            self._seed = check_random_state(self.random_state).randint(2**30)

    # -- private: training ------------------------------------------------------------

    def _runs_to_go_on_with(self, data, n):
        """Return the networks of the last fit, {} if this is another training."""
        key = (self._identity(data), n, self._seed, self.holdout)
        before = getattr(self, "_run_key", None)
        goes_on = self._training_settings().warm_start
        if goes_on and before == key:
            # Both are missing where an interrupted fit went through a file.
            self._runs = getattr(self, "_runs", {})
            self._before = getattr(self, "_before", (None, []))
            done, n_iter = len(self._before[1]), self._setting("n_iter")
            if n_iter < done:
                raise ValueError(
                    f"n_iter={n_iter} with warm_start=True, but {done} iterations are "
                    "done: n_iter is their number altogether."
                )
            return self._runs
        # In this order: interrupted, no key may stand beside the runs of another.
        self._runs, self._before, self._run_key = {}, (None, []), key
        if goes_on and before is not None:
            warn(
                "warm_start=True, but images, features or settings are not those of "
                "the last fit: the training starts anew.",
                UserWarning,
            )
        return self._runs

    def _new_run(self, data, k, rows):
        with seeded(self._seed):  # the same for all: their scores are compared
            network = self._new_network(data, rows)
        weights, losses = self._before if k == 0 else (None, [])
        if weights is not None:  # loaded from a file: the moments start anew
            _load(network, weights)
        network.to(resolve_device(self.device))
        return Run(network, self._optimizer(network), list(losses))

    def _train(self, run, data, rows, seconds, name):
        n_iter, training = self._setting("n_iter"), self._training_settings()
        for group in run.optimizer.param_groups:  # may be another one since
            group["weight_decay"] = self._setting("weight_decay") or 0
        try:
            with Task.current(self).part(name, n_iter - len(run.losses)) as task:
                train(
                    run,
                    self._loss(run.network, data, rows),
                    n_iter=n_iter,
                    learning_rate=self._rate,
                    grad_clip=self.grad_clip,
                    seed=self._seed,
                    max_time=seconds,
                    keep_every=_KEEP_EVERY if training.warm_start else None,
                    verbose=self.verbose,
                    name=name,
                    task=task,
                )
            self._check_network(run.network, data, rows)
        except FloatingPointError:
            self._run_key = None  # nothing to go on with
            raise
        if len(run.losses) < min(self._warm_up_iterations(), n_iter):
            warn(
                f"max_time={training.max_time}, or a callback, stopped {name!r} after "
                f"{len(run.losses)} of {n_iter} iterations: it has hardly learned. "
                "Allow more time, fewer n_iter, or holdout=None.",
                ConvergenceWarning,
            )

    def _check_network(self, network, data, rows):
        """Refuse what the last step broke; NaN would mean "invalid patch" later."""
        if len(rows):
            self._refuse_broken(self._score_row(network, data, rows[0]))

    def _refuse_broken(self, grid):
        if not np.isfinite(grid).any(axis=(-2, -1)).all():  # in each of several maps
            raise FloatingPointError(
                "Training broke down in its last iteration: the network gives scores "
                "that are no numbers. Lower learning_rate or weight_decay, or use "
                "precision='float32'."
            )

    def _keep(self, run):
        """Keep what scoring needs."""
        self.loss_curve_, self.n_iter_ = list(run.losses), len(run.losses)
        state = run.network.state_dict()
        weights = {k: v.detach().cpu().numpy().copy() for k, v in state.items()}
        setattr(self, self._weights_name, weights)
        self._loaded, self._before = None, (None, [])

    def _network(self):
        """Return the trained network, built from its weights where it is not yet."""
        device = resolve_device(self.device)
        if getattr(self, "_loaded", None) is None or self._loaded[0] != device:
            weights = getattr(self, self._weights_name)
            with seeded(0):  # its first weights are drawn, and then replaced
                network = self._from_weights(weights)
            _load(network, weights)
            self._loaded = device, network.eval().requires_grad_(False).to(device)
        return self._loaded[1]


def _load(network, weights):
    """Take over weights, a dict of name to ndarray, and score as fast as may be."""
    try:
        network = with_fast_products(network)
        network.load_state_dict({k: as_tensor(v) for k, v in weights.items()})
    except RuntimeError as error:
        raise ValueError(
            f"These are the weights of a network of another shape: {error}"
        ) from error
