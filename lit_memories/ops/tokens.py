"""Where a concept stands in a prompt's tokens, and how to put vectors in a token's place."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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


def shared(ids: Sequence[int], others: Sequence[int], window: int) -> tuple[list[int], list[int]]:
    """Where two prompts say the same around what differs: positions in either, in pairs, the padding's among them.

    Args:
        ids: tokens of one, with markers and without padding.
        others: of the other.
        window: how many tokens both are padded to.

    Example:
        >>> shared([9, 1, 4, 2, 8], [9, 1, 5, 6, 2, 8], 8)
        ([0, 1, 3, 4, 5, 6], [0, 1, 4, 5, 6, 7])
    """
    most = min(len(ids), len(others))
    begin = next((i for i in range(most) if ids[i] != others[i]), most)
    end = next((i for i in range(most - begin) if ids[-1 - i] != others[-1 - i]), most - begin)
    padding = window - max(len(ids), len(others))
    one, other = (
        [*range(begin), *range(len(text) - end, len(text)), *range(len(text), len(text) + padding)]
        for text in (ids, others)
    )
    return one, other


@contextmanager
def placed(text_encoder: Any, vectors: Tensor, positions: Tensor) -> Iterator[None]:
    """Within the context, the text encoder sees vectors in place of some tokens of every prompt.

    Whatever tokens stand there are not seen. Gradients reach the vectors; with rows of the token embedding in them the
    output is the one of these tokens, to the bit.

    Args:
        text_encoder: of transformers.
        vectors: (n, k, width), or (1, k, width) for all prompts.
        positions: where they stand (n, k) or (1, k), in 0 .. tokens - 1.
    """

    def put(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        chosen = positions.to(output.device).expand(len(output), -1)[..., None].expand(-1, -1, output.shape[-1])
        return output.scatter(1, chosen, vectors.to(output).expand(len(output), -1, -1))

    hook = text_encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()
