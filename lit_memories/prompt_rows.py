"""Prompts as rows of one tensor: what all ways of telling a network of them share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids (n, tokens), padded; prompts beyond the encoder's window are cut as in Stable Diffusion."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return tokens.input_ids


def exceeds(tokenizer: Any, prompt: str, window: int) -> bool:
    """Whether a prompt has more tokens than a window."""
    return len(tokenizer(prompt).input_ids) > window


def with_row(embeds: Tensor, values: Tensor) -> Tensor:
    """Embeddings (n, rows, width) with one row more: `values` (n, k), k up to the width, filled up with zeros."""
    row = functional.pad(values, (0, embeds.shape[-1] - values.shape[-1]))
    return torch.cat([embeds, row[:, None]], 1)
