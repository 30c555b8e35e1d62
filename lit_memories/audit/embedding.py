"""Prompts' embeddings, kept while they may be asked for again, and no longer: an audit may have any number."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from lit_memories.data.cache import cached
from lit_memories.diffusion import Diffusion
from lit_memories.identity import prompting_of

KEPT = 128
"""Prompts whose embeddings are kept: a batch's, and those that come again and again."""


def encoder_of(diffusion: Diffusion) -> Callable[[Sequence[str]], Tensor]:
    """What embeds prompts: the model, or the files of an earlier time if its `Speed` names a folder for them.

    Args:
        diffusion: the model.
    """
    folder = diffusion.speed.text_cache
    if folder is None:
        return diffusion.encode_prompts

    @cache
    def identity() -> str:
        return json.dumps(prompting_of(diffusion), sort_keys=True)

    def encode(prompts: Sequence[str]) -> Tensor:
        name = hashlib.sha256(json.dumps([identity(), *prompts]).encode()).hexdigest()[:20]
        file = folder / f"prompts-{name}.safetensors"
        found = cached(file, ["embeds"], lambda: {"embeds": diffusion.encode_prompts(prompts)})
        return found["embeds"].to(diffusion.device)

    return encode


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
