"""The optimiser compared with a literal loop over numbers."""

import numpy as np
import pytest
import torch

from skdinoad._training.stable_adamw import StableAdamW


def literal(w, gradients, lr, wd, amsgrad=True, eps=1e-8, b1=0.9, b2=0.999):
    """Return the weights after each gradient, one number at a time."""
    w, m, v, vmax, out = w.copy(), 0 * w, 0 * w, 0 * w, []
    for t, (g, rate) in enumerate(zip(gradients, lr), start=1):
        size = 0.0
        expected = np.empty_like(w)
        for i in range(len(w)):
            w[i] *= 1 - rate * wd
            m[i] = b1 * m[i] + (1 - b1) * g[i]
            v[i] = b2 * v[i] + (1 - b2) * g[i] ** 2
            vmax[i] = max(vmax[i], v[i]) if amsgrad else v[i]
            expected[i] = np.sqrt(vmax[i]) / np.sqrt(1 - b2**t) + eps
            size += (g[i] / expected[i]) ** 2
        clip = max(1.0, np.sqrt(size / len(w)))
        for i in range(len(w)):
            w[i] -= rate / ((1 - b1**t) * clip) * m[i] / expected[i]
        out.append(w.copy())
    return out


@pytest.mark.parametrize("amsgrad", [True, False])
def test_steps_equal_a_literal_loop(rng, amsgrad):
    start, gradients = rng.normal(size=6), rng.normal(size=(5, 6))
    gradients[3] *= 50  # an outlier that update clipping must limit
    gradients[4] *= 0.01  # AMSGrad still uses the outlier here
    lr = [0.0, 0.01, 0.02, 0.02, 0.01]
    w = torch.nn.Parameter(torch.tensor(start))
    optimizer = StableAdamW([w], weight_decay=0.1, amsgrad=amsgrad)
    steps = literal(start, gradients, lr, wd=0.1, amsgrad=amsgrad)
    for g, rate, expected in zip(gradients, lr, steps):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(w.detach(), expected, rtol=1e-10)


def test_clipping_is_per_tensor():
    calm, wild, plain = (torch.nn.Parameter(torch.zeros(3)) for _ in range(3))
    ours = StableAdamW([calm, wild], lr=0.1, weight_decay=0.0)
    adamw = torch.optim.AdamW([plain], lr=0.1, weight_decay=0.0, amsgrad=True)
    for g in (1.0, 1.0, 100.0):
        calm.grad, wild.grad, plain.grad = (torch.full((3,), x) for x in (1.0, g, g))
        ours.step()
        adamw.step()
        if g == 1:  # no clipping: equal to AdamW
            torch.testing.assert_close(wild, plain)
    assert calm[0].item() == pytest.approx(-0.3, rel=1e-3)
    # The last gradient is 100 / sqrt((2 + 100**2) / 3) = 1.73 times the expected one.
    ratio = (wild[0].item() + 0.2) / (plain[0].item() + 0.2)
    assert ratio == pytest.approx(1 / 1.73, rel=1e-2)


def test_a_zero_learning_rate_moves_nothing():
    w = torch.nn.Parameter(torch.ones(4))
    optimizer = StableAdamW([w], lr=0.0)
    w.square().sum().backward()
    optimizer.step()
    assert (w == 1).all()


def test_closure_gives_the_loss():
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = StableAdamW([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1
    assert w.item() < 1
