"""The lines of benchmarks/worlds.py as those read them who made none of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Model = dict[str, Any]
"""A line: a model, what it was shown, and every number it was asked."""


def ladders(models: Sequence[Model], concept: str) -> dict[int, list[Model]]:
    """By training seed, its models in the order of the pictures of a concept that they saw."""
    seeds = sorted({model["seed"] for model in models})
    return {seed: sorted((m for m in models if m["seed"] == seed), key=lambda m: m["shown"][concept]) for seed in seeds}


def values(model: Model, concept: str, side: str, path: str) -> Tensor:
    """A number of every picture."""
    return torch.tensor(model["concepts"][concept][side][path], dtype=torch.float64)
