"""Where a concept stands in a prompt's tokens, and how to put vectors in a token's place."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def content(ids: Sequence[int], bos: int, eos: int) -> list[int]:
    """Tokens of a padded prompt between its markers.

    Example:
        >>> content([9, 1, 2, 3, 8, 8], bos=9, eos=8)
        [1, 2, 3]
    """
    inner = list(ids[1:] if ids and ids[0] == bos else ids)
    return inner[: inner.index(eos)] if eos in inner else inner


def find(ids: Sequence[int], phrase: Sequence[int]) -> list[int]:
    """Positions of a phrase's tokens in a prompt's, every occurrence; empty if it does not occur.

    Example:
        >>> find([9, 4, 5, 6, 4, 5, 8], [4, 5])
        [1, 2, 4, 5]
    """
    size = len(phrase)
    starts = [i for i in range(len(ids) - size + 1) if size and list(ids[i : i + size]) == list(phrase)]
    return [start + offset for start in starts for offset in range(size)]


@contextmanager
def prefixed(text_encoder: Any, vectors: Tensor) -> Iterator[None]:
    """Within the context, the text encoder sees `vectors` (k, width) in place of tokens 1 to k of every prompt.

    Encode prompts with k tokens put in after the first, whatever they are. Gradients reach the vectors; with rows of
    the token embedding in them the output is the one of these tokens, to the bit.
    """

    def put(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        placed = vectors.to(output.dtype).expand(len(output), -1, -1)
        return torch.cat([output[:, :1], placed, output[:, 1 + len(vectors) :]], 1)

    hook = text_encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()
