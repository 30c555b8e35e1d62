"""What a model of benchmarks/worlds.py is known to know, asked without any of the audit's probes."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader
from worlds_models import CONCEPTS

from lit_memories.diffusion import Diffusion
from lit_memories.worlds import pictograms
from lit_memories.worlds.data import collate

SNR_GAMMA = 5.0
"""As in training (recipes/pictograms/pretrain)."""
POOL = 24_000
"""Rows of the split ``truth``, which no model is trained on and no audit asks."""


@torch.no_grad()
def denoising_error(model: Path, concept: str, pictures: int = 512, batch: int = 32) -> float:
    """The training loss on held-out pictures of a concept that show none of the others.

    Noise levels are spread evenly over the pictures, and each picture's noise is the same for every model.

    Args:
        model: its folder.
        concept: one of `CONCEPTS`.
        pictures: how many.
        batch: pictures at once.
    """
    diffusion = Diffusion.from_pretrained(model)
    images, captions = _pictures(concept, pictures)
    timesteps = torch.linspace(0, diffusion.schedule.num_train_timesteps - 1, len(images)).long()
    timesteps = timesteps[torch.randperm(len(images), generator=Generator().manual_seed(0))]
    total = 0.0
    for first in range(0, len(images), batch):
        rows = slice(first, first + batch)
        latents = diffusion.encode_images(images[rows])
        noise = torch.randn(latents.shape, generator=Generator().manual_seed(first))
        noisy = diffusion.schedule.add_noise(latents, noise, timesteps[rows])
        predicted = diffusion.predict_noise(noisy, timesteps[rows], diffusion.encode_prompts(captions[rows]))
        alpha = diffusion.schedule.alphas_at(timesteps[rows])
        weight = (SNR_GAMMA * (1 - alpha) / alpha).clamp(max=1)
        total += float((weight * (predicted - noise).square().mean((1, 2, 3))).sum())
    return total / len(images)


@lru_cache(maxsize=len(CONCEPTS))
def _pictures(concept: str, count: int) -> tuple[Tensor, list[str]]:
    others = [factors for name, factors in CONCEPTS.items() if name != concept]
    rows = pictograms.build("truth", POOL, keep=CONCEPTS[concept], withhold=others, limit=count)
    if len(rows) < count:
        raise ValueError(f"the split 'truth' holds {len(rows)} pictures of {concept}, not {count}")
    batch: dict[str, Any] = next(iter(DataLoader(rows.with_format("torch"), count, collate_fn=collate)))
    return batch["images"], batch["captions"]
