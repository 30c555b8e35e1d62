"""Prompts as attacks see them: token ids, the vectors that stand for them, and embeddings of any mixture of both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_memories.ops.tokens import content, placed

if TYPE_CHECKING:  # who only reads of attacks, as reports do, need not wait for diffusers
    from lit_memories.diffusion import Diffusion


class Words:
    """The text encoder of a model, and its vocabulary.

    Args:
        diffusion: the model.

    Raises:
        ValueError: if it has not one text encoder (SDXL), whose tokens could be chosen.
    """

    def __init__(self, diffusion: "Diffusion") -> None:
        if len(diffusion.conditioning.encoders) != 1:
            raise ValueError(
                "this model has two text encoders (SDXL), whose tokens cannot be chosen together: attacks on tokens "
                "and embeddings take models with one"
            )
        diffusion.recall()
        self.diffusion = diffusion

    @property
    def window(self) -> int:
        """Tokens of a prompt, markers among them."""
        return int(self.diffusion.tokenizer.model_max_length)

    @property
    def table(self) -> Tensor:
        """The vector of every token (vocabulary, width)."""
        table: Tensor = self.diffusion.text_encoder.get_input_embeddings().weight
        return table

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
        """The text encoder's hidden states (n, window, width) of prompts, in one call; arguments as for `embeds`."""
        if vectors is None or positions is None:
            return self.diffusion.encode_tokens(ids).float()
        with placed(self.diffusion.text_encoder, vectors, positions):
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
        return self.diffusion.gated(states, [set(tokens) for tokens in self.own(ids)])
