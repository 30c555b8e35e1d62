"""What every inverter takes and gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_memories.ops.schedule import DDIMStep

RowNoiseFn = Callable[[Tensor, int, Tensor], Tensor]
"""Noise predicted for latents (m, c, h, w) at one timestep; the third argument names their rows in the batch."""


@dataclass(frozen=True)
class Inversion:
    """Seeds and how well they were found, a row a sample.

    Args:
        seeds: latents at the noisiest level (n, c, h, w).
        residual: worst relative residual of the implicit steps (n,).
        evaluations: network evaluations spent on each sample (n,).
        converged: whether every step met the inverter's tolerance (n,).
    """

    seeds: Tensor
    residual: Tensor
    evaluations: Tensor
    converged: Tensor


class Inverter(ABC):
    """Finds the seed from which DDIM makes given latents.

    An inverter treats every sample on its own: no sum, no stopping rule and no batch statistic mixes samples.
    """

    @abstractmethod
    def __call__(self, predict_noise: RowNoiseFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents (n, c, h, w) through `steps`, which are given as the sampler takes them, noise first."""

    def settings(self) -> dict[str, Any]:
        """Name and hyper-parameters, as far as a record depends on them."""
        return {"name": type(self).__name__, **vars(self)}


def relative_norm(residual: Tensor, reference: Tensor) -> Tensor:
    """Norm of a residual (n, ...) relative to that of `reference`, a value a sample (n,)."""
    return residual.flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1).clamp_min(
        torch.finfo(residual.dtype).tiny
    )
