"""What every inverter takes and gives."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from lit_memories.ops.path import DDIMStep, ddim_inverse_coefficients
from lit_memories.ops.rollout import RowPredictFn, rollout_rows

Calls: TypeAlias = tuple[int, float]
"""How often each sample is predicted, at least and at most; infinity where that is not known."""


@runtime_checkable
class PromptedPredictor(Protocol):
    """A `RowPredictFn` that can also be asked what the network says under other embeddings than the samples' own."""

    @property
    def guidance_scale(self) -> float:
        """Guidance of the predictions that a call gives."""

    @property
    def empty(self) -> Tensor:
        """Embeddings of the empty prompt (tokens, width)."""

    def __call__(self, latents: Tensor, timestep: float | Tensor, rows: Tensor) -> Tensor:
        """Predictions for latents (m, c, h, w) under the prompts of their rows."""

    def under(self, latents: Tensor, timestep: float, embeds: Tensor, rows: Tensor) -> Tensor:
        """Predictions for samples of some rows, unguided, under embeddings (m, tokens, width); differentiable."""


@dataclass(frozen=True)
class Inversion:
    """Seeds and how well they were found, a row a sample.

    Args:
        seeds: latents at the noisiest level (n, c, h, w).
        residual: worst relative residual of the implicit steps (n,).
        evaluations: network evaluations spent on each sample (n,).
        converged: whether every step met the inverter's tolerance (n,).
        state: what `Inverter.regenerate` needs besides the seeds (n, ...); None if the seeds are all.
        measured: whether `residual` was; if not it is NaN and nothing counts as converged, which says nothing about the
            seeds. Audits then record neither, where a NaN that was measured means divergence.
    """

    seeds: Tensor
    residual: Tensor
    evaluations: Tensor
    converged: Tensor
    state: Tensor | None = None
    measured: bool = True

    def cpu(self) -> Self:
        """The same on the CPU."""
        tensors: dict[str, Any] = {name: x.cpu() for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


class Inverter(ABC):
    """Finds the seed from which a sampler, DDIM unless the class says otherwise, makes given latents.

    An inverter treats every sample on its own: no sum, no stopping rule and no batch statistic mixes samples.
    """

    faithful: bool = False
    """Whether it does as official code does, which keeps whatever it finds: audits then count it, converged or not."""

    def check(self, steps: Sequence[DDIMStep]) -> None:
        """Refuse, before any work, steps that it cannot go back through.

        Args:
            steps: of an audit, noise first.

        Raises:
            ValueError: saying why, and what to do.
        """
        for step in steps:
            ddim_inverse_coefficients(step)

    @abstractmethod
    def __call__(self, predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents (n, c, h, w) through `steps`, which are given as the sampler takes them, noise first."""

    def sample(self, predict: RowPredictFn, seeds: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
        """Latents that the sampler makes of seeds from the prior; known seeds are made by it."""
        return rollout_rows(predict, seeds, steps)

    def regenerate(self, predict: RowPredictFn, inversion: Inversion, steps: Sequence[DDIMStep]) -> Tensor:
        """Latents that the sampler makes of what an inversion found."""
        return self.sample(predict, inversion.seeds, steps)

    def inverting(self, steps: Sequence[DDIMStep]) -> Calls:
        """Predictions that an inversion through `steps` takes; one a step or more if not overridden."""
        return len(steps), math.inf

    def sampling(self, steps: Sequence[DDIMStep]) -> Calls:
        """Predictions that `sample` takes."""
        return len(steps), len(steps)

    def regenerating(self, steps: Sequence[DDIMStep]) -> Calls:
        """Predictions that `regenerate` takes."""
        return self.sampling(steps)

    def settings(self) -> dict[str, Any]:
        """Name and hyper-parameters, as far as a record depends on them."""
        options = {name: x.settings() if isinstance(x, Inverter) else x for name, x in vars(self).items()}
        return {"name": type(self).__name__, **options}


def relative_norm(residual: Tensor, reference: Tensor) -> Tensor:
    """Norm of a residual (n, ...) relative to that of `reference`, a value a sample (n,); NaN where that overflows."""
    size = reference.flatten(1).norm(dim=1)
    size = size.where(size.isfinite(), torch.nan).clamp_min(torch.finfo(residual.dtype).tiny)
    return residual.flatten(1).norm(dim=1) / size
