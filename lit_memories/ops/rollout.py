"""From noise towards an image: the deterministic DDIM run, and one that adds fresh noise on its way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

from lit_memories.ops.path import DDIMStep, ddim_eta_step, ddim_step

PredictFn = Callable[[Tensor, float], Tensor]
"""What a model predicts of latents (n, c, h, w) at one timestep, as `NoiseSchedule.predicts` says.

It is all that a sampler or an inverter sees of a model."""


RowPredictFn = Callable[[Tensor, float, Tensor], Tensor]
"""The same of latents (m, c, h, w); the third argument names their rows in the batch."""


Predict = TypeVar("Predict", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Trajectories:
    """Predictions that depend on those before them on the same way from noise to a picture.

    A call by itself is on no way: it depends on nothing but what it is given.

    Args:
        after: gives predictions and what is remembered of them; takes what was remembered at the step before, None at
            the first, and then what a `PredictFn` or `RowPredictFn` takes.
    """

    after: Callable[..., tuple[Tensor, Tensor | None]]

    def __call__(self, *asked: Any) -> Tensor:
        """A prediction on no way."""
        return self.after(None, *asked)[0]

    def begin(self) -> Callable[..., Tensor]:
        """The predictions along one way, which are to be asked in its order, all samples each time."""
        memory: Tensor | None = None

        def predict(*asked: Any) -> Tensor:
            nonlocal memory
            found, memory = self.after(memory, *asked)
            return found

        return predict


def begun(predict: Predict) -> Predict:
    """A model's predictions from the beginning of a way from noise to a picture on; whatever samples asks for them."""
    begin = getattr(predict, "begin", None)
    return predict if begin is None else begin()


def rollout(predict: PredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
    """Run DDIM steps one after the other.

    Args:
        predict: the model.
        latents: seeds (n, c, h, w), or latents at the level the first step starts from.
        steps: transitions, from `NoiseSchedule.ddim_steps`; a prefix of them stops early.

    Returns:
        Latents (n, c, h, w) at the level where the last step ends.
    """
    predict = begun(predict)
    for step in steps:
        latents = ddim_step(latents, predict(latents, step.timestep), step)
    return latents


def rollout_rows(predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
    """`rollout` of a whole batch (n, c, h, w), with a model that is told the rows."""
    rows, predict = torch.arange(len(latents), device=latents.device), begun(predict)
    return rollout(lambda x, timestep: predict(x, timestep, rows), latents, steps)


def rollout_eta(
    predict: RowPredictFn,
    latents: Tensor,
    steps: Sequence[DDIMStep],
    generators: Sequence[Generator],
    eta: float,
    scale: float = 1.0,
) -> Tensor:
    """`rollout_rows` by `ddim_eta_step`: with fresh noise at every step.

    Args:
        predict: the model.
        latents: seeds (n, c, h, w).
        steps: as for `rollout`.
        generators: of the fresh noise, one a sample; they draw on the CPU, step by step, whatever `eta` is.
        eta: share of DDPM's noise, 0 or more.
        scale: by which the fresh noise is raised besides.

    Returns:
        Latents (n, c, h, w) at the level where the last step ends.
    """
    rows, predict = torch.arange(len(latents), device=latents.device), begun(predict)
    for step in steps:
        fresh = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
        predicted = predict(latents, step.timestep, rows)
        latents = ddim_eta_step(latents, predicted, fresh.to(latents), step, eta, scale)
    return latents
