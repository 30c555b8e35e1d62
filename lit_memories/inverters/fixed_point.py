"""Fixed-point inversion: warm start, Anderson acceleration, damping, per-sample stopping."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_memories.inverters.base import Calls, Inversion, Inverter, relative_norm
from lit_memories.ops.path import DDIMStep, ddim_inverse_coefficients
from lit_memories.ops.rollout import RowPredictFn


class FixedPoint(Inverter):
    r"""Solves every implicit DDIM step :math:`x = a z + b\,\epsilon(x, t)` to a tolerance, a sample at a time.

    The iteration starts from the noise found at the previous step and is accelerated by Anderson mixing with memory
    one (Walker & Ni 2011): with :math:`g` the map's value and :math:`f = g - x`, the next iterate is :math:`g - \theta
    (g - g_\text{prev})` with :math:`\theta = \langle f, \Delta f\rangle / \langle \Delta f, \Delta f\rangle`. Where
    the residual grows instead of shrinking, the next iterate is a damped one, :math:`x + 2^{-k} f` from the best point
    so far after :math:`k` failures in a row: that contracts wherever the map's slopes are below one, however negative.
    A sample leaves the batch as soon as it has converged; what is kept is the iterate of smallest residual, and of
    latents that are finite the seeds are finite, whatever the network gives.

    Under guidance the slopes grow with its scale. On the pictogram model every sample converges at guidance 3. At 7.5
    and 20 steps most do not, and at 50 they do, to other seeds than those the latents were made of: there are several
    (docs/audit.md has the figures).

    Args:
        max_evaluations: network evaluations a step may take, at least 1.
        tolerance: relative residual at which a step is done.

    Raises:
        ValueError: if `max_evaluations` is below 1 or `tolerance` is not positive.
    """

    def __init__(self, max_evaluations: int = 10, tolerance: float = 3e-4) -> None:
        if max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1, got {max_evaluations}")
        if tolerance <= 0:
            raise ValueError(f"tolerance must be positive, got {tolerance}")
        self.max_evaluations, self.tolerance = max_evaluations, tolerance

    def __call__(self, predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents through `steps`."""
        count = len(latents)
        worst = torch.zeros(count, device=latents.device)
        evaluations = torch.zeros(count, dtype=torch.long, device=latents.device)
        predicted = torch.zeros_like(latents)
        for number, step in enumerate(reversed(steps)):
            start = latents if number == 0 else _forward(latents, predicted, step)
            latents, predicted, residual, used = self._solve(predict, latents, start, step)
            worst, evaluations = torch.maximum(worst, residual), evaluations + used
        return Inversion(latents, worst, evaluations, worst < self.tolerance)

    def inverting(self, steps: Sequence[DDIMStep]) -> Calls:
        """One prediction a step where the first meets the tolerance, and no more than a step may take."""
        return len(steps), len(steps) * self.max_evaluations

    def _solve(
        self, predict: RowPredictFn, latents: Tensor, start: Tensor, step: DDIMStep
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One implicit step: latents and prediction at the noisier level, residual and evaluations a sample."""
        count = len(latents)
        # A prediction near the largest number there is overflows on the way; a step without it is always finite.
        start = _finite_or(start, _forward(latents, torch.zeros_like(latents), step))
        solution, best_predicted, best_f = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        residual = torch.full((count,), torch.inf, device=latents.device, dtype=latents.dtype)
        used = torch.zeros(count, dtype=torch.long, device=latents.device)
        damping = torch.ones_like(residual)
        rows, x = torch.arange(count, device=latents.device), start
        previous: tuple[Tensor, Tensor] | None = None
        for _ in range(self.max_evaluations):
            predicted = predict(x, step.timestep, rows)
            g = _forward(latents[rows], predicted, step)
            f = g - x
            error = relative_norm(f, g)
            used[rows] += 1
            better = error <= residual[rows]  # never where something is not finite: the error then is NaN
            for best, value in ((solution, g), (best_predicted, predicted), (best_f, f)):
                best[rows] = torch.where(_image(better), value, best[rows])
            residual[rows] = torch.where(better, error, residual[rows])
            damping[rows] = torch.where(better, 1, damping[rows] / 2)
            proposal = _finite_or(g if previous is None else _anderson(g, f, previous), g)
            damped = solution[rows] - (1 - _image(damping[rows])) * best_f[rows]
            x = torch.where(_image(better), proposal, damped)
            # How many are left is all that the host has to know, and to wait for.
            active = (~(residual[rows] < self.tolerance)).nonzero()[:, 0]
            if len(active) == 0:
                break
            rows, x, previous = rows[active], x[active], (g[active], f[active])
        return solution, best_predicted, residual, used


def _forward(latents: Tensor, predicted: Tensor, step: DDIMStep) -> Tensor:
    a, b = ddim_inverse_coefficients(step)
    return a * latents + b * predicted


def _anderson(g: Tensor, f: Tensor, previous: tuple[Tensor, Tensor]) -> Tensor:
    g_previous, f_previous = previous
    change = (f - f_previous).flatten(1)
    norm = change.square().sum(1)
    theta = torch.where(norm > 0, (f.flatten(1) * change).sum(1) / norm, 0)[:, None, None, None]
    return g - theta * (g - g_previous)


def _finite_or(latents: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of `latents`, or of `otherwise` where they are not finite."""
    return torch.where(_image(latents.flatten(1).isfinite().all(1)), latents, otherwise)


def _image(values: Tensor) -> Tensor:
    """A value a sample (n,), as one that multiplies latents."""
    return values[:, None, None, None]
