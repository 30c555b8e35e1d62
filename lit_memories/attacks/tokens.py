"""What attacks on tokens and embeddings share: pictures under what they found."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group


def picture(
    group: Group, embeds: Tensor, guidance_scale: float, generators: Sequence[Generator], sound: Tensor
) -> Tensor:
    """Latents (n, c, h, w) drawn under embeddings, from noise of the generators.

    Args:
        group: the samples.
        embeds: (n, rows, width).
        guidance_scale: of the pictures.
        generators: of the samples.
        sound: whether what a sample's search came to is finite (n,), bool; where not, nor are the latents.
    """
    latents = rollout_rows(group.predictor_of(embeds, guidance_scale), group.draw_seeds(generators), group.steps)
    return latents.masked_fill(~sound[:, None, None, None], torch.nan)


def finite_rows(tensor: Tensor) -> Tensor:
    """Whether all of each row (n, ...) is finite (n,), bool."""
    return tensor.flatten(1).isfinite().all(1)
