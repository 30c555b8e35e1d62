"""Plain DDIM inversion."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_memories.inverters.base import Calls, Inversion, Inverter, relative_norm
from lit_memories.ops.path import DDIMStep, ddim_inverse_coefficients
from lit_memories.ops.rollout import RowPredictFn


class DDIMInversion(Inverter):
    r"""Plain DDIM inversion (Song et al. 2021): each implicit step is solved by a single substitution.

    The noise wanted at :math:`z_t` is evaluated at :math:`z_{t'}` instead, with timestep :math:`t`. Cheap, and biased:
    on the pictogram model the seeds' NLL comes out far too low (docs/audit.md has the figure).

    Args:
        measure_residual: spend one more evaluation a step to report by how much the substitution fails. Without it an
            audit cannot tell which samples diverged, and flags only those that are not finite.
        tolerance: relative residual below which a step counts as converged.
    """

    def __init__(self, measure_residual: bool = True, tolerance: float = 1e-3) -> None:
        self.measure_residual, self.tolerance = measure_residual, tolerance

    def __call__(self, predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents through `steps`."""
        rows = torch.arange(len(latents), device=latents.device)
        residual = torch.full((len(latents),), 0.0 if self.measure_residual else torch.nan, device=latents.device)
        for step in reversed(steps):
            a, b = ddim_inverse_coefficients(step)
            moved = a * latents + b * predict(latents, step.timestep, rows)
            if self.measure_residual:
                again = a * latents + b * predict(moved, step.timestep, rows)
                residual = torch.maximum(residual, relative_norm(again - moved, again))
            latents = moved
        evaluations = len(steps) * (2 if self.measure_residual else 1)
        return Inversion(
            seeds=latents,
            residual=residual,
            evaluations=torch.full((len(latents),), evaluations, device=latents.device),
            converged=residual < self.tolerance,
            measured=self.measure_residual,
        )

    def inverting(self, steps: Sequence[DDIMStep]) -> Calls:
        """One prediction a step, and one to measure it."""
        calls = len(steps) * (1 + self.measure_residual)
        return calls, calls
