"""Samples and models that are plain functions, for attacks to be held against sums done by hand."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Generator, Tensor

from lit_memories.ops.generators import seeded
from lit_memories.ops.rollout import RowPredictFn
from lit_memories.ops.schedule import BetaSchedule
from lit_memories.probes.base import Group

Model = Callable[[Tensor, int, str], Tensor]
"""Noise in latents (1, c, h, w), at a timestep, under a prompt."""
SHAPE = 4, 8, 8
SCHEDULE = BetaSchedule(torch.linspace(0.9999, 0.01, 1000, dtype=torch.float64), 1.0)


def given(prompts: Sequence[str], model: Model, num_inference_steps: int = 4) -> Group:
    """A group of samples under prompts, whose model's predictions are the same under any guidance.

    `group.asked` lists every evaluation, by the latents' row and the timestep. Embeddings are the prompts' hash, and
    `predictor_of` takes a model with the attribute ``function``.
    """
    asked: list[tuple[int, int]] = []
    by_hash = {float(hash(prompt) % 1000): prompt for prompt in prompts}

    def predictor(guidance_scale: float, under: Sequence[str] | None = None, function: Model = model) -> RowPredictFn:
        texts = prompts if under is None else under

        def predict(latents: Tensor, timestep: int, rows: Tensor) -> Tensor:
            asked.extend((int(row), timestep) for row in rows)
            each = zip(latents.split(1), rows, strict=True)
            return torch.cat([function(x, timestep, texts[int(row)]) for x, row in each])

        return predict

    def predictor_of(embeds: Tensor, guidance_scale: float, diffusion: Any = None) -> RowPredictFn:
        texts = [by_hash[float(row)] for row in embeds[:, 0, 0]]
        return predictor(guidance_scale, texts, model if diffusion is None else diffusion.function)

    def generators(purpose: str = "") -> list[Generator]:
        return [seeded(prompt + purpose) for prompt in prompts]

    def draw_seeds(drawing: Sequence[Generator]) -> Tensor:
        return torch.stack([torch.randn(SHAPE, generator=generator) for generator in drawing])

    group = SimpleNamespace(
        prompts=list(prompts), rows=torch.arange(len(prompts)), steps=SCHEDULE.ddim_steps(num_inference_steps),
        schedule=SCHEDULE, predictor=predictor, predictor_of=predictor_of, generators=generators,
        draw_seeds=draw_seeds, asked=asked, latents=draw_seeds(generators("/pictures")) + 3.0,
    )  # fmt: skip
    return cast(Group, group)


class Other:
    """A model beside the audited one."""

    def __init__(self, function: Model) -> None:
        self.function = function

    def to(self, device: torch.device) -> "Other":
        return self

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(hash(prompt) % 1000) for prompt in prompts])[:, None, None]
