"""StableAdamW: AdamW with AMSGrad and update clipping per tensor."""

import torch

__all__ = ["StableAdamW"]


class StableAdamW(torch.optim.Optimizer):
    """AdamW with smaller steps for tensors with unexpectedly large gradients.

    As in Dinomaly's official code, it uses decoupled weight decay on every tensor and
    the maximum of the uncorrected second moment (``amsgrad``). The learning rate of a
    tensor is divided by the root mean square of gradient over expected gradient if this
    exceeds 1.

    Parameters
    ----------
    params : iterable of Tensor
    lr : float
    betas : (float, float), default=(0.9, 0.999)
    eps : float, default=1e-8
    weight_decay : float, default=1e-4
    amsgrad : bool, default=True

    References
    ----------
    Wortsman et al., "Stable and low-precision training for large-scale vision-language
    models", NeurIPS 2023, arXiv 2304.13013, algorithm 2; Reddi et al., "On the
    Convergence of Adam and Beyond", ICLR 2018.

    Examples
    --------
    >>> import torch
    >>> from skdinoad._training.stable_adamw import StableAdamW
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = StableAdamW([w], lr=0.1, weight_decay=0.0)
    >>> w.square().sum().backward(); optimizer.step(); round(w.item(), 4)
    0.9
    """

    def __init__(
        self,
        params,
        lr=2e-3,
        *,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-4,
        amsgrad=True,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "amsgrad": amsgrad})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; an optional ``closure`` recomputes loss and gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._update(w, group)
        return loss

    def _update(self, w, group):
        state, g = self.state[w], w.grad
        if not state:
            state["step"] = 0
            state["m"], state["v"] = torch.zeros_like(w), torch.zeros_like(w)
            if group["amsgrad"]:
                state["vmax"] = torch.zeros_like(w)
        state["step"] += 1
        m, v = state["m"], state["v"]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        w.mul_(1 - lr * group["weight_decay"])
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["amsgrad"]:
            v = torch.maximum(state["vmax"], v, out=state["vmax"])
        # The bias correction is a scalar, which needs no pass over the tensor.
        scale = (1 - beta2 ** state["step"]) ** 0.5
        expected = v.sqrt().add_(group["eps"] * scale)
        surprise = (g / expected).norm().item() * scale / w.numel() ** 0.5
        size = lr * scale / (1 - beta1 ** state["step"]) / max(1, surprise)
        w.addcdiv_(m, expected, value=-size)
