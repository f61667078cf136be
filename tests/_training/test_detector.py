"""The base class of trained detectors, tested with a detector that learns a mean."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils import Bunch

from skdinoad import SubspaceAD, load, save
from skdinoad._training.detector import TrainedDetector


class Mean(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.value = torch.nn.Parameter(torch.randn(channels))


class MeanDetector(TrainedDetector):
    """Score patches by their distance to a vector found by gradient descent."""

    _presets = {
        "fast": {
            "n_iter": 40,
            "batch_size": 2,
            "learning_rate": 0.1,
        }
    }
    _weights_name = "mean_"

    def __init__(
        self,
        *,
        features=None,
        preset="fast",
        training=None,
        holdout=3,
        aggregate="max",
        target_fpr=0.05,
        device="auto",
        random_state=0,
        verbose=False,
    ):
        for name, value in locals().copy().items():
            if name not in {"self", "__class__"}:
                setattr(self, name, value)

    def _gather(self, X):
        rows = np.stack([np.asarray(F, np.float32) for F in X])
        image = self._numbered(X, np.arange(len(rows)))
        return Bunch(rows=torch.from_numpy(rows), image=image)

    def _identity(self, data):
        return data.rows.sum().item()

    def _new_network(self, data, rows):
        return Mean(data.rows.shape[-1])

    def _from_weights(self, weights):
        return Mean(len(weights["value"]))

    def _optimizer(self, network):
        return torch.optim.Adam(network.parameters())

    def _warm_up_iterations(self):
        return 4

    def _rate(self, i):
        return self._setting("learning_rate")

    def _loss(self, network, data, rows):
        learned = data.rows[rows]
        return lambda i: (learned + torch.randn(1) - network.value).square().mean()

    def _score_row(self, network, data, row):
        gap = data.rows[row] - network.value.detach()
        return gap.norm(dim=-1).numpy()

    def score_grids(self, F):
        value = self._network().value.numpy()
        return np.linalg.norm(F - value, axis=-1)


def mean_detector(**parameters):
    return MeanDetector().set_params(**parameters)


@pytest.fixture
def grids(rng):
    return rng.normal(3, 0.1, size=(7, 2, 3, 8)).astype(np.float32)


def test_learns_the_mean(grids):
    detector = mean_detector(training__n_iter=300).fit(grids)
    np.testing.assert_allclose(detector.mean_["value"], 3, atol=0.4)
    assert detector.n_iter_ == len(detector.loss_curve_) == 300


def test_held_out_scores_are_those_of_networks_that_learned_the_others(grids):
    detector = MeanDetector(holdout=7).fit(grids)
    for i, held_out in enumerate(detector.holdout_scores_):
        others = MeanDetector(holdout=None).fit(np.delete(grids, i, axis=0))
        expected = others.score_samples(grids[i : i + 1])
        np.testing.assert_allclose(held_out, expected, rtol=1e-5)


@pytest.mark.parametrize(("holdout", "n_held"), [(0.3, 2), (2, 7), (99, 7), (None, 0)])
def test_how_many_are_held_out(grids, holdout, n_held):
    detector = MeanDetector(holdout=holdout).fit(grids)
    assert len(detector.holdout_scores_) == n_held
    assert np.isnan(detector.offset_) == (holdout is None)


def test_a_single_image_gives_no_threshold_and_says_so(grids):
    with pytest.warns(UserWarning, match="single image"):
        detector = MeanDetector().fit(grids[:1])
    assert np.isnan(detector.offset_)


def test_stopped_and_resumed_is_never_stopped(grids):
    once = MeanDetector().fit(grids)
    parts = mean_detector(training__warm_start=True, training__max_time=0)
    with pytest.warns(ConvergenceWarning, match="1 of 40 iterations"):
        parts.fit(grids)
    parts.set_params(training__max_time=None).fit(grids)
    assert parts.loss_curve_ == once.loss_curve_
    assert np.array_equal(parts.holdout_scores_, once.holdout_scores_)
    assert np.array_equal(parts.mean_["value"], once.mean_["value"])


def test_time_is_shared_by_all_networks(grids):
    detector = mean_detector(
        training__max_time=0.5, training__n_iter=10**6, training__learning_rate=1e-4
    ).fit(grids)
    assert 4 < detector.n_iter_ < 10**6
    assert len(detector.holdout_scores_) == 7


def test_another_training_starts_anew_and_says_so(grids):
    detector = mean_detector(training__warm_start=True).fit(grids)
    with pytest.warns(UserWarning, match="starts anew"):
        detector.fit(grids + 1)
    fresh = clone(detector).fit(grids + 1)
    assert detector.loss_curve_ == fresh.loss_curve_


def test_a_loaded_model_goes_on_with_its_weights(grids):
    detector = mean_detector(training__warm_start=True).fit(grids)
    assert b"_runs" not in pickle.dumps(detector)
    loaded = (
        pickle.loads(pickle.dumps(detector)).set_params(training__n_iter=41).fit(grids)
    )
    assert loaded.loss_curve_[:40] == detector.loss_curve_
    gap = abs(loaded.mean_["value"] - detector.mean_["value"]).max()
    assert 0 < gap <= 0.11  # one step of Adam


def test_a_resumed_training_decays_as_asked_now(grids):
    detector = mean_detector(training__warm_start=True, holdout=None).fit(grids)
    detector.set_params(training__weight_decay=0.3)
    detector.set_params(training__n_iter=41).fit(grids)
    assert detector._runs[0].optimizer.param_groups[0]["weight_decay"] == 0.3


def test_weights_of_another_shape_are_refused(grids):
    detector = MeanDetector(holdout=None).fit(grids)
    detector._from_weights = lambda weights: Mean(3)
    with pytest.raises(ValueError, match="network of another shape"):
        detector.score_samples(grids)


def test_training_leaves_the_global_random_state(grids):
    before = torch.get_rng_state()
    MeanDetector().fit(grids)
    assert torch.equal(torch.get_rng_state(), before)


def stop_in(detector, grids, name, call=1):
    """Call fit and interrupt it in the given call of a method of the detector."""
    method, calls = getattr(detector, name), []

    def stopping(*args):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return method(*args)

    setattr(detector, name, stopping)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(grids)
    delattr(detector, name)


@pytest.mark.parametrize("first", [0, 20])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("_gather", 1),
        ("_new_run", 3),
        ("_rate", 10),
        ("_rate", 70),
        ("_score_row", 4),
        ("_keep", 1),
        ("_conclude", 1),
        ("_set_offset", 1),
    ],
)
def test_an_interrupted_fit_scores_nothing_and_is_resumed(grids, name, call, first):
    """This includes a fit that continues an earlier one."""
    detector = mean_detector(training__warm_start=True)
    if first:
        detector.set_params(training__n_iter=first).fit(grids)
    if first and name == "_new_run":
        pytest.skip("all runs are there")
    stop_in(detector.set_params(training__n_iter=40), grids, name, call)
    with pytest.raises(NotFittedError):
        detector.score_samples(grids)
    once = MeanDetector().fit(grids)
    detector.fit(grids)
    assert detector.loss_curve_ == once.loss_curve_
    assert np.array_equal(detector.holdout_scores_, once.holdout_scores_)
    assert np.array_equal(detector.mean_["value"], once.mean_["value"])


def test_an_interrupted_fit_goes_through_a_file(grids):
    detector = mean_detector(training__warm_start=True)
    stop_in(detector, grids, "_score_row")
    loaded = pickle.loads(pickle.dumps(detector)).fit(grids)
    assert loaded.loss_curve_ == MeanDetector().fit(grids).loss_curve_


def test_a_warning_made_an_error_mixes_no_trainings(grids):
    detector = mean_detector(training__warm_start=True).fit(grids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="starts anew"):
            detector.fit(grids + 1)
    fresh = clone(detector).fit(grids + 1)
    assert detector.fit(grids + 1).loss_curve_ == fresh.loss_curve_


# -- callbacks ------------------------------------------------------------------------


class Listener:
    """Record the tasks that end; stop a training after some of them."""

    def __init__(self, stop_after=None):
        self.ended, self.scored, self.open = [], None, 0
        self.stop_after = stop_after

    def setup(self, estimator, context):
        self.open += 1

    def teardown(self, estimator, context):
        self.open -= 1

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.ended.append((context.task_name, context.task_id))
        if fitted_estimator is not None:
            self.scored = fitted_estimator.score_samples(X)
        return context.task_name == "iteration" and context.task_id == self.stop_after


def listening(detector, *listeners):
    pytest.importorskip("sklearn.callback", reason="callbacks came with 1.9")
    return detector.set_callbacks(*listeners)


def test_callbacks_hear_of_every_network_and_iteration(grids):
    listener = Listener()
    detector = listening(mean_detector(training__n_iter=5, holdout=2), listener).fit(
        grids
    )
    networks = [("fold 1", 0), ("fold 2", 1), ("train", 2)]
    iterations = [("iteration", i) for i in range(5)]
    heard = [task for network in networks for task in [*iterations, network]]
    assert listener.ended == [*heard, ("fit", 0)]
    assert np.array_equal(listener.scored, detector.score_samples(grids))
    silent = mean_detector(training__n_iter=5, holdout=2).fit(grids)
    assert np.array_equal(listener.scored, silent.score_samples(grids))
    assert listener.open == 0


def test_callbacks_of_a_search_reach_the_detectors(grids):
    listener = Listener()
    listener.max_propagation_depth = None
    search = GridSearchCV(
        mean_detector(training__n_iter=2, holdout=None),
        {"aggregate": ["max"]},
        scoring=lambda *_: 1.0,
        cv=2,
        refit=False,
    )
    listening(search, listener).fit(grids)
    assert [name for name, _ in listener.ended].count("iteration") == 2 * 2
    assert listener.open == 0


def test_callbacks_may_stop_a_training(grids):
    detector = listening(MeanDetector(holdout=None), Listener(stop_after=9))
    assert detector.fit(grids).n_iter_ == 10
    assert (
        detector.n_iter_
        == mean_detector(training__n_iter=10, holdout=None).fit(grids).n_iter_
    )
    with pytest.warns(ConvergenceWarning, match="or a callback, stopped 'train'"):
        listening(detector, Listener(stop_after=0)).fit(grids)


def test_callbacks_are_let_go_of_where_fit_fails_and_where_it_is_saved(grids, tmp_path):
    listener = Listener()
    detector = listening(mean_detector(training__n_iter=2), listener)
    with pytest.raises(ValueError, match="batch_size"):
        clone(detector).set_params(training__batch_size=0).fit(grids)
    with pytest.raises(ValueError, match="0 samples"):
        clone(detector).fit(grids[:0])
    assert (listener.open, listener.ended) == (0, [])
    model = listening(SubspaceAD(), listener).fit(grids)
    save(model, tmp_path / "model.skd")
    again = load(tmp_path / "model.skd")
    assert np.array_equal(again.score_samples(grids), model.score_samples(grids))
    assert not hasattr(again, "_skl_callbacks")
