"""Prompts' embeddings, kept while they may be asked for again, and no longer: an audit may have any number."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

KEPT = 128
"""Prompts whose embeddings are kept: a batch's, and those that come again and again."""


class Embeddings:
    """What a text encoder makes of prompts, each encoded alone, so that its company does not change it.

    Args:
        encode: gives the embeddings of prompts.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Tensor]) -> None:
        self._encode = encode
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Of prompts, in float32."""
        return torch.cat([self._one(prompt) for prompt in prompts])

    def __len__(self) -> int:
        return len(self._kept)

    def _one(self, prompt: str) -> Tensor:
        embedded = self._kept.get(prompt)
        if embedded is None:
            embedded = self._kept[prompt] = self._encode([prompt]).float()
        self._kept.move_to_end(prompt)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return embedded
