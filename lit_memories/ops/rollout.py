"""From noise towards an image: the deterministic DDIM run."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_memories.ops.schedule import DDIMStep, ddim_step

NoiseFn = Callable[[Tensor, int], Tensor]
"""Noise predicted for latents (n, c, h, w) at one timestep: everything a sampler or an inverter sees of a model."""


RowNoiseFn = Callable[[Tensor, int, Tensor], Tensor]
"""Noise predicted for latents (m, c, h, w) at one timestep; the third argument names their rows in the batch."""


def rollout(predict_noise: NoiseFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
    """Run DDIM steps one after the other.

    Args:
        predict_noise: the model.
        latents: seeds (n, c, h, w), or latents at the level the first step starts from.
        steps: transitions, from `NoiseSchedule.ddim_steps`; a prefix of them stops early.

    Returns:
        Latents (n, c, h, w) at the level where the last step ends.
    """
    for step in steps:
        latents = ddim_step(latents, predict_noise(latents, step.timestep), step)
    return latents


def rollout_rows(predict_noise: RowNoiseFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
    """`rollout` of a whole batch (n, c, h, w), with a model that is told the rows."""
    rows = torch.arange(len(latents), device=latents.device)
    return rollout(lambda x, timestep: predict_noise(x, timestep, rows), latents, steps)
