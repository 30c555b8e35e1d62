"""Muon: momentum whose every step is orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

`torch.optim.Muon` takes matrices only; the networks here are mostly convolutions, whose kernels (out, in, h, w) are
matrices (out, in h w).
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Push all singular values of a matrix (m, n) to about 1 by a quintic Newton-Schulz iteration.

    Args:
        matrix: any matrix but zero.
        iterations: 5 leave singular values between about 0.7 and 1.2.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is for Muon: a weight with at least 8 rows and 8 columns; the rest is for AdamW."""
    return parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= 8


class MuonAdamW(torch.optim.Optimizer):
    """Muon on matrices and kernels, AdamW on everything else, as one optimiser.

    Args:
        parameters: those to train.
        lr: AdamW's learning rate; Muon's is `ratio` times that.
        ratio: of the two learning rates.
        momentum: Muon's (Nesterov).
        betas: AdamW's.
        weight_decay: decoupled, for both.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 2e-3,
        ratio: float = 10.0,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-4,
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in parameters:
            (matrices if is_matrix(parameter) else others).append(parameter)
        groups = [{"params": matrices, "muon": True, "lr": lr * ratio}, {"params": others, "muon": False, "lr": lr}]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update = self._muon if group["muon"] else self._adam
                    parameter.add_(update(parameter, group), alpha=-group["lr"])
        return loss

    def _muon(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None  # noqa: S101 - for the type checker; `step` has looked
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        matrix = orthogonalise((gradient + group["momentum"] * state["momentum"]).flatten(1))
        return matrix.view_as(parameter) * max(1.0, len(matrix) / matrix.shape[1]) ** 0.5

    def _adam(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None  # noqa: S101
        if not state:
            state["step"], state["mean"], state["square"] = 0, torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(gradient.square(), 1 - beta2)
        mean = state["mean"] / (1 - beta1 ** state["step"])
        return mean / ((state["square"] / (1 - beta2 ** state["step"])).sqrt() + 1e-8)
