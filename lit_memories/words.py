"""Prompts as attacks see them: token ids, the vectors that stand for them, and embeddings of any mixture of both."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.ops.tokens import content, placed

if TYPE_CHECKING:  # who only reads of attacks, as reports do, need not wait for diffusers
    from lit_memories.diffusion import Diffusion

WORD = "*"
"""What prompts in words have in a learnt vector's place."""


class Words:
    """The text encoders of a model that read one vocabulary, as if they were one.

    A token's vector is those that the encoders have for it, side by side, as both must be learnt (Stable Diffusion XL
    and 3 have two).

    Args:
        diffusion: the model.

    Raises:
        ValueError: if its text encoders read different tokens (T5 beside CLIP), which cannot be chosen together.
    """

    def __init__(self, diffusion: "Diffusion") -> None:
        self.diffusion, self.encoders = diffusion, diffusion.conditioning.token_encoders
        if len(self.encoders) < len(diffusion.conditioning.encoders):
            raise ValueError(
                "this model's text encoders read different tokens (CLIP's and T5's), which cannot be chosen together: "
                "attacks on tokens and embeddings take models without T5"
            )
        diffusion.recall()

    @property
    def window(self) -> int:
        """Tokens of a prompt, markers among them."""
        return int(self.diffusion.tokenizer.model_max_length)

    @property
    def table(self) -> Tensor:
        """The vector of every token (vocabulary, width)."""
        tables: list[Tensor] = [encoder.get_input_embeddings().weight for encoder in self.encoders]
        count = min(map(len, tables))
        return tables[0] if len(tables) == 1 else torch.cat([table[:count] for table in tables], 1)

    @property
    def ordinary(self) -> Tensor:
        """Which tokens are no markers (vocabulary,), bool."""
        tokens = torch.ones(len(self.table), dtype=torch.bool, device=self.table.device)
        tokens[[i for i in self.diffusion.tokenizer.all_special_ids if i < len(tokens)]] = False
        return tokens

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (n, window) of prompts, with markers and padding."""
        return self.diffusion.tokenize(prompts)

    def own(self, ids: Tensor) -> list[list[int]]:
        """Prompts' (n, window) tokens between their markers."""
        tokenizer = self.diffusion.tokenizer
        return [content(row, tokenizer.bos_token_id, tokenizer.eos_token_id) for row in ids.tolist()]

    def inserted(self, ids: Tensor, at: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts with room for more tokens; of those that overflow the window the prompt's own last ones are cut.

        Args:
            ids: of the prompts (n, window).
            at: for each prompt before which of its own tokens, from 0, there is to be room for one, k numbers; one may
                stand there several times, and beyond the last is behind it.

        Returns:
            The ids (n, window), with the vocabulary's first token where there is room, and where that is (n, k).

        Raises:
            ValueError: if the window does not hold so many.
        """
        tokenizer, rows, positions = self.diffusion.tokenizer, [], []
        for own, places in zip(self.own(ids), at, strict=True):
            if len(places) > self.window - 2:
                raise ValueError(
                    f"a prompt of this model holds {self.window - 2} tokens, and {len(places)} are to be put in: fewer"
                )
            kept = own[: self.window - 2 - len(places)]
            room = [min(place, len(kept)) + number for number, place in enumerate(sorted(places))]
            for place in room:
                kept.insert(place, 0)
            marked = [tokenizer.bos_token_id, *kept, tokenizer.eos_token_id]
            rows.append(marked + [tokenizer.pad_token_id] * (self.window - len(marked)))
            positions.append([1 + place for place in room])
        return torch.tensor(rows, device=ids.device), torch.tensor(positions, device=ids.device)

    def free(self, count: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Prompts (count, window) with nothing in them but room for tokens, and where it is (count, tokens).

        Raises:
            ValueError: if the window does not hold so many.
        """
        return self.inserted(self.ids([""] * count), [[0] * tokens] * count)

    def check_room(self, tokens: int, attack: str) -> None:
        """Refuse to put more tokens into a prompt than it holds.

        Raises:
            ValueError: saying how many it holds.
        """
        if tokens > self.window - 2:
            raise ValueError(
                f"a prompt of this model holds {self.window - 2} tokens, and the attack {attack} is to put {tokens} "
                "into it: choose fewer"
            )

    def text(self, ids: Tensor) -> list[str]:
        """Prompts (n, k) in words, without markers and padding; what cannot be printed is left out."""
        texts = self.diffusion.tokenizer.batch_decode(self.own(ids), skip_special_tokens=True)
        return ["".join(c for c in text if c.isprintable()) for text in texts]

    def encoded(self, ids: Tensor, vectors: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """What the text encoders make (n, rows, width) of prompts, in one call; arguments as for `embeds`."""
        with ExitStack() as stack:
            if vectors is not None and positions is not None:
                widths = [encoder.get_input_embeddings().embedding_dim for encoder in self.encoders]
                for encoder, part in zip(self.encoders, vectors.split(widths, -1), strict=True):
                    stack.enter_context(placed(encoder, part, positions))
            return self.diffusion.encode_tokens(ids).float()

    def embeds(self, ids: Tensor, vectors: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Embeddings (n, rows, width) of prompts (n, window), all that the network is told of them; differentiable.

        Each prompt is encoded alone, so that its company does not change it.

        Args:
            ids: of the prompts.
            vectors: to be seen in place of some tokens (n, k, width) or (1, k, width); None for none.
            positions: of these tokens (n, k) or (1, k).
        """
        if vectors is None or positions is None:
            return torch.cat([self._gated(row, self.encoded(row)) for row in ids.split(1)])
        rows = zip(ids.split(1), vectors.expand(len(ids), -1, -1), positions.expand(len(ids), -1), strict=True)
        return torch.cat([self._gated(row, self.encoded(row, v[None], p[None])) for row, v, p in rows])

    def _gated(self, ids: Tensor, states: Tensor) -> Tensor:
        return self.diffusion.told(states, ids)


@dataclass(frozen=True)
class Caption:
    """A prompt with a place for the vector.

    Args:
        text: in words.
        ids: its tokens (1, window), with any token in the place.
        place: where it is (1, 1).
    """

    text: str
    ids: Tensor
    place: Tensor

    @classmethod
    def of(cls, words: Words, concept: Concept, prompt: str, template: str) -> "Caption":
        """A prompt with its place where the concept's phrase begins first; a template without the phrase."""
        before, *after = concept.around(prompt)
        if not after:
            before, *after = template.split("{}")
        rest = "".join(after)
        with torch.inference_mode(False):
            ids, place = words.inserted(words.ids([f"{before} {rest}"]), [[len(words.own(words.ids([before]))[0])]])
        return cls(" ".join(f"{before}{WORD}{rest}".split()), ids, place)

    def embeds(self, words: Words, vector: Tensor) -> Tensor:
        """Embeddings (1, rows, width) with a vector (width,) in its place."""
        return words.embeds(self.ids, vector[None, None], self.place)


def beginning(words: Words, start: str) -> Tensor:
    """The vector (width,) that learning a word begins with: the mean of a text's tokens, or of all ordinary ones."""
    tokens = words.diffusion.words(start) if start else words.ordinary.nonzero()[:, 0].tolist()
    return words.table[tokens].float().mean(0)
