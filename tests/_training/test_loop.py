"""The training loop."""

import math
import time

import numpy as np
import pytest
import torch

from skdinoad._compat.torch import seeded
from skdinoad._training.loop import (
    Run,
    batch_rows,
    holdout_splits,
    iterations,
    train,
    warm_cosine,
)


def make_run():
    with seeded(0):
        network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5))
        network.append(torch.nn.Linear(8, 1))
    return Run(network, torch.optim.Adam(network.parameters()))


def quadratic(run):
    X = torch.linspace(-1, 1, 30).reshape(10, 3)

    def loss(i):
        return (run.network(X[batch_rows(10, 4, i)]) - 1).square().mean()

    return loss


def fit(run, n_iter, **parameters):
    parameters = {"learning_rate": lambda i: 0.01, **parameters}
    train(run, quadratic(run), n_iter=n_iter, **parameters)
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.network.parameters()])


def test_training_lowers_the_loss_and_leaves_evaluation_mode():
    run = fit(make_run(), 300)
    assert len(run.losses) == 300
    assert np.mean(run.losses[-20:]) < 0.5 * np.mean(run.losses[:20])
    assert not run.network.training


def test_a_resumed_run_ends_as_one_that_never_stopped():
    once = fit(make_run(), 20)
    twice = fit(fit(make_run(), 7), 20)
    assert twice.losses == once.losses
    assert torch.equal(weights(twice), weights(once))


def test_the_seed_decides_and_the_global_state_does_not_move():
    before = torch.get_rng_state()
    one, same = fit(make_run(), 5, seed=1), fit(make_run(), 5, seed=1)
    other = fit(make_run(), 5, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert one.losses == same.losses != other.losses


def test_time_is_kept_and_at_least_one_iteration_done():
    run = make_run()
    loss = quadratic(run)

    def slow(i):
        time.sleep(0.02)
        return loss(i)

    train(run, slow, n_iter=10_000, learning_rate=lambda i: 0.01, max_time=0.1)
    assert 1 <= len(run.losses) <= 6
    assert len(fit(make_run(), 10, max_time=0).losses) == 1


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_breakdown_stops_with_iteration_rate_and_remedy(what):
    run = make_run()
    sound = quadratic(run)

    def loss(i):
        if i < 3:
            return sound(i)
        # The slope of sqrt at 0 is infinite; times 0 it is NaN, from a finite loss.
        zero = 0 * sum(p.sum() for p in run.network.parameters())
        return zero.sqrt() if what == "gradient" else zero + math.inf

    with pytest.raises(
        FloatingPointError, match=r"iteration 3.* 0\.01\..*learning_rate"
    ):
        train(run, loss, n_iter=10, learning_rate=lambda i: 0.01)
    assert len(run.losses) == 3
    assert weights(run).isfinite().all()
    assert torch.equal(weights(run), weights(fit(make_run(), 3)))


def test_gradients_are_clipped_together():
    run = make_run()
    run.optimizer = torch.optim.SGD(run.network.parameters())
    before = weights(run)
    train(
        run,
        lambda i: 1e4 * quadratic(run)(i),
        n_iter=1,
        learning_rate=lambda i: 1.0,
        grad_clip=0.1,
    )
    assert (weights(run) - before).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_bar_shows_the_loss(capsys):
    fit(make_run(), 3, verbose=True, name="fold 1")
    shown = capsys.readouterr().err
    assert "fold 1" in shown
    assert "loss=" in shown
    fit(make_run(), 3)
    assert capsys.readouterr().err == ""


def test_learning_rate_is_the_official_schedule():
    rates = [
        warm_cosine(i, 1100, warm_up=100, peak=2e-3, final=2e-4) for i in range(1100)
    ]
    expected = np.linspace(0, 2e-3, 100)
    np.testing.assert_allclose(rates[:100], expected, atol=1e-12)
    i = np.arange(1000)
    cosine = 2e-4 + 0.5 * (2e-3 - 2e-4) * (1 + np.cos(np.pi * i / 1000))
    np.testing.assert_allclose(rates[100:], cosine, atol=1e-12)


def test_short_schedules_work():
    for warm_up in (0, 1, 5):
        rates = [
            warm_cosine(i, 5, warm_up=warm_up, peak=1, final=0.1) for i in range(5)
        ]
        assert np.isfinite(rates).all()
        assert max(rates) == 1 or warm_up == 1


def test_iterations_are_numbers_or_shares():
    assert iterations(100, 300) == 100
    assert iterations(0.1, 300) == 30
    assert iterations(1, 300) == 1
    assert iterations(1.0, 300) == 300
    assert iterations(np.int64(5), 300) == 5


def test_batches_pass_over_all_rows_again_and_again():
    stream = np.concatenate([batch_rows(5, 3, i, seed=2) for i in range(10)])
    for k in range(6):
        assert sorted(stream[5 * k : 5 * k + 5]) == list(range(5))
    passes = {tuple(stream[5 * k : 5 * k + 5]) for k in range(6)}
    assert len(passes) > 3
    assert sorted(batch_rows(2, 8, 0)) == [0, 1]


@pytest.mark.parametrize("copies", [1, 3])
def test_folds_hold_out_each_image_once_with_its_copies(copies):
    image = np.repeat(np.arange(7), copies)
    splits = holdout_splits(image, 3, seed=0)
    assert len(splits) == 4
    held = np.concatenate([h for _, h in splits])
    assert sorted(held) == list(range(0, 7 * copies, copies))
    for rows, h in splits[:3]:
        assert not set(image[rows]) & set(image[h])
        assert len(rows) == copies * (7 - len(h))
    assert len(splits[3][0]) == 7 * copies


def test_other_ways_to_hold_out():
    image = np.arange(10)
    ((rows, held),) = holdout_splits(image, 0.3, seed=0)
    assert (len(rows), len(held)) == (7, 3)
    ((rows, held),) = holdout_splits(image, None, seed=0)
    assert (len(rows), len(held)) == (10, 0)
    ((rows, held),) = holdout_splits(image[:1], 3, seed=0)
    assert (len(rows), len(held)) == (1, 0)
    ((rows, held),) = holdout_splits(image[:2], 0.9, seed=0)
    assert (len(rows), len(held)) == (1, 1)


@pytest.mark.parametrize("holdout", [3, 0.3])
def test_images_are_held_out_by_the_order_in_which_they_come(holdout):
    image = np.repeat([4, 0, 3, 7, 1, 2], 2)
    plain = holdout_splits(np.repeat(range(6), 2), holdout, seed=0)
    for found, expected in zip(holdout_splits(image, holdout, seed=0), plain):
        assert all(map(np.array_equal, found, expected))


def interrupted(run, i, n_iter=20, **parameters):
    """Train and interrupt in the middle of iteration i."""
    sound = quadratic(run)

    def loss(j):
        value = sound(j)
        if j == i:
            next(run.network.parameters()).data.add_(1)  # simulates half a step
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        train(run, loss, n_iter=n_iter, learning_rate=lambda i: 0.01, **parameters)
    return run


@pytest.mark.parametrize(("keep_every", "kept"), [(0, 5), (1000, 0)])
def test_a_run_stopped_within_an_iteration_goes_back_to_its_last_copy(keep_every, kept):
    run = interrupted(make_run(), 5, keep_every=keep_every)
    assert len(run.losses) == kept
    once, resumed = fit(make_run(), 20), fit(run, 20)
    assert resumed.losses == once.losses
    assert torch.equal(weights(resumed), weights(once))


def test_nothing_is_copied_where_nobody_goes_on(monkeypatch):
    monkeypatch.setattr(Run, "copy", None)
    assert len(interrupted(make_run(), 5).losses) == 5
