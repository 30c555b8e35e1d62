"""Models and schedules that inverters are tried on: smooth, cheap, and called in blocks as the audit calls its own."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lit_memories.audit.predictor import BlockwisePredictor
from lit_memories.diffusion import Diffusion
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.schedule import BetaSchedule

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SCHEDULE = BetaSchedule((1 - BETAS).cumprod(0), float(1 - BETAS[0]))
STEPS = SCHEDULE.ddim_steps(10)
TOKENS, WIDTH = 3, 5


def latents(count: int = 5, dtype: torch.dtype = torch.float32, size: int = 8) -> Tensor:
    shape = (count, 4, size, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


class Counted:
    """A model that keeps count of the evaluations each row cost."""

    def __init__(self, function: Callable[[Tensor, int], Tensor], rows: int) -> None:
        self.function, self.calls = function, torch.zeros(rows, dtype=torch.long)

    def __call__(self, x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        assert len(x) == len(rows)
        self.calls[rows] += 1
        return self.function(x, timestep)


def curved(x: Tensor, timestep: int) -> Tensor:
    """A smooth nonlinear model, different at every timestep; in blocks, as the audit calls its network."""
    return in_blocks(lambda y: torch.tanh(0.8 * y + 0.3 * y.roll(1, -1)) * (0.5 + timestep / 2000), 4, x)


class Prompted:
    """`curved` with a bias that depends on embeddings: the least that any inverter can work with.

    Calls of a row are counted, and rows in all; a sick row's predictions hold one `illness` above timestep 500.
    """

    def __init__(
        self, rows: int, guidance_scale: float = 1.0, sick: int | None = None, illness: float = torch.nan
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.guidance_scale, self.sick, self.illness = guidance_scale, sick, illness
        self.calls, self.total = torch.zeros(rows, dtype=torch.long), 0
        self.maps = torch.randn(TOKENS * WIDTH, 4 * 8 * 8, generator=generator) / 8
        self.empty = torch.randn(TOKENS, WIDTH, generator=generator)
        self.prompts = torch.randn(rows, TOKENS, WIDTH, generator=generator)

    def of(self, rows: Tensor) -> "Prompted":
        """The same model for some of the rows."""
        part = Prompted(len(rows), self.guidance_scale)
        part.prompts = self.prompts[rows]
        return part

    def under(self, x: Tensor, timestep: int, embeds: Tensor, rows: Tensor | None = None) -> Tensor:
        def one(y: Tensor, c: Tensor) -> Tensor:
            return torch.tanh(0.8 * y + 0.3 * y.roll(1, -1) + (c.flatten(1).tanh() @ self.maps).view_as(y))

        self.total += len(x)
        return in_blocks(one, 4, x, embeds) * (0.5 + timestep / 2000)

    def __call__(self, x: Tensor, timestep: int, rows: Tensor) -> Tensor:
        assert len(x) == len(rows)
        self.calls[rows] += 1
        noise = self.under(x, timestep, self.prompts[rows])
        if timestep > 500:
            noise[rows == self.sick, 0, 0, 0] = self.illness
        return noise


def predictor(diffusion: Diffusion, prompts: list[str], guidance_scale: float = 1.0) -> BlockwisePredictor:
    """A pipeline's predictions, as audits hand them to inverters."""
    embeds, empty = diffusion.encode_prompts(prompts), diffusion.encode_prompts([""])
    return BlockwisePredictor(diffusion, embeds, empty, guidance_scale, block_size=4)


def rescheduled(folder: Path, **options: object) -> Diffusion:
    """A pipeline from a folder with another scheduler configuration."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **options)
    return Diffusion.from_pipeline(pipeline)
