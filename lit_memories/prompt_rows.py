"""Prompts as rows of one tensor: what all ways of telling a network of them share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lit_memories.ops.tokens import content, find


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and the rows of an embedding that its tokens become.

    Args:
        tokenizer: CLIP's, whose prompts begin with a marker, or T5's, whose prompts do not.
        first: the row of a prompt's first token.
        window: how many rows there are.
    """

    tokenizer: Any
    first: int
    window: int

    @property
    def begins(self) -> int:
        """Where a prompt's first word stands: behind the marker, if there is one."""
        return 0 if self.tokenizer.bos_token_id is None else 1

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt, one a row, cut or padded to the window."""
        options: dict[str, Any] = {"padding": "max_length", "max_length": self.window, "truncation": True}
        found: list[list[int]] = self.tokenizer(list(prompts), **options).input_ids
        return found

    def exceeded(self, prompt: str) -> bool:
        """Whether a prompt has more tokens than there are rows, so that its end is cut."""
        return len(self.tokenizer(prompt).input_ids) > self.window

    def words(self, prompt: str) -> list[int]:
        """A prompt's tokens without markers and padding."""
        marker = -1 if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
        return content(self.tokenize([prompt])[0], marker, self.tokenizer.eos_token_id)


def places(readers: Sequence[Reader], prompt: str, phrase: str) -> list[int]:
    """Rows of a prompt's embedding in which the tokens of a phrase are; none if it does not hold it."""
    found = ((reader, find(reader.tokenize([prompt])[0], reader.words(phrase))) for reader in readers)
    return [reader.first + row for reader, rows in found for row in rows]


def marks_of(readers: Sequence[Reader], tokens: int, prompts: Sequence[str], phrase: str, ends: bool = False) -> Tensor:
    """1 at the rows of each prompt's embedding in which a phrase is, else 0 (n, tokens).

    Args:
        readers: who reads prompts.
        tokens: rows of text.
        prompts: n of them.
        phrase: which words.
        ends: mark end markers too; where padding is the same token, all of it.
    """
    marks = torch.zeros(len(prompts), tokens)
    for row, prompt in enumerate(prompts):
        marks[row, places(readers, prompt, phrase)] = 1
        for reader in readers if ends else ():
            ids = reader.tokenize([prompt])[0]
            marks[row, [reader.first + i for i, token in enumerate(ids) if token == reader.tokenizer.eos_token_id]] = 1
    return marks


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


def repadded(ids: Tensor, tokenizer: Any, other: Any) -> Tensor:
    """A tokenizer's ids (n, tokens) as another one of the same words would have padded them."""
    ends = (ids == tokenizer.eos_token_id).cumsum(1)
    return ids.masked_fill((ends - (ids == tokenizer.eos_token_id).long()) > 0, other.pad_token_id)


@lru_cache(maxsize=8)  # vocabularies are long, and attacks look at words at every step
def check_same_words(tokenizer: Any, other: Any) -> None:
    """Refuse to read one tokenizer's ids as another's whose words have other numbers.

    Raises:
        ValueError: saying so.
    """
    words = other.get_vocab()
    if any(words.get(word) != number for word, number in tokenizer.get_vocab().items()):
        raise ValueError("this model's text encoders number words in different ways: it takes prompts, not token ids")


def clip_states(encoders: Sequence[Any], *ids: Tensor) -> tuple[Tensor, list[Any]]:
    """CLIP encoders' last hidden states but one, side by side (n, tokens, widths), and all that each of them gave.

    Args:
        encoders: of transformers.
        ids: of the prompts (n, tokens), as each encoder's tokenizer has them.
    """
    found = [encoder(x.to(encoder.device), output_hidden_states=True) for encoder, x in zip(encoders, ids, strict=True)]
    return torch.cat([one.hidden_states[-2] for one in found], -1), found


def with_row(embeds: Tensor, values: Tensor) -> Tensor:
    """Embeddings (n, rows, width) with one row more: `values` (n, k), k up to the width, filled up with zeros."""
    row = functional.pad(values, (0, embeds.shape[-1] - values.shape[-1]))
    return torch.cat([embeds, row[:, None]], 1)
