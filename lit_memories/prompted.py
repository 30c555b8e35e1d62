"""A model's prompts: what its network is told of them, and where the text encoders are that say it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from lit_memories.conditioning import Conditioning
from lit_memories.denoisers import Denoiser
from lit_memories.ops.adapters import gate
from lit_memories.ops.attachment import Attachment
from lit_memories.ops.tokens import content
from lit_memories.prompt_rows import marks_of, places, tokenize, with_row
from lit_memories.speed import Speed

if TYPE_CHECKING:  # guards stand on prompts
    from lit_memories.guards.base import Guard


class Prompted(nn.Module):
    """What a model does with prompts.

    Its text encoders go where the network goes, unless its `Speed` has them stay in the host's memory: embeddings then
    are computed there, and follow the network. What works on the encoders themselves has them recalled.
    """

    adapter: Attachment | None
    gate_prompts: list[str]
    gate_power: Literal[1, 2]
    conditioning: Conditioning
    denoiser: Denoiser
    tokenizer: Any
    speed: Speed
    guard: "Guard | None" = None
    recalled: bool = False

    @property
    def component(self) -> str:
        """Name of the network among the parts, as in a pipeline: ``unet`` or ``transformer``."""
        return self.denoiser.component

    @property
    def network(self) -> Any:
        """The network that predicts."""
        return getattr(self, self.component)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (n, tokens), padded; prompts beyond the encoder's window are cut as in Stable Diffusion."""
        return tokenize(self.tokenizer, prompts).to(self.device)

    def words(self, prompt: str) -> list[int]:
        """A prompt's tokens without markers and padding."""
        (ids,) = self.tokenize([prompt]).tolist()
        return content(ids, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)

    def places(self, prompt: str, phrase: str) -> list[int]:
        """Rows of a prompt's embedding in which the tokens of a phrase are; none if it does not hold it."""
        return places(self.conditioning.readers, prompt, phrase)

    def marks(self, prompts: Sequence[str], phrase: str, ends: bool = False) -> Tensor:
        """1 at those rows of each prompt, and at end markers if asked, else 0 (n, tokens)."""
        conditioning = self.conditioning
        return marks_of(conditioning.readers, conditioning.tokens, prompts, phrase, ends).to(self.device)

    def exceeds_window(self, prompt: str) -> bool:
        """Whether a prompt has more tokens than any text encoder sees, so that its end is cut."""
        return self.conditioning.readers[-1].exceeded(prompt)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, rows, width), all the network is told of prompts; see `lit_memories.conditioning`."""
        embeds = self.conditioning.encode(prompts).to(self.device)
        if self.adapter is None and self.guard is None:
            return embeds
        return self.told(embeds, tokenize(self.tokenizer, prompts))

    def told(self, embeds: Tensor, ids: Tensor) -> Tensor:
        """Embeddings (n, rows, width) of prompts' tokens (n, window), with what a guard and an adapter's gate add."""
        found = embeds if self.guard is None else self.guard.tell(self, embeds, ids)
        if self.adapter is None:
            return found
        if not self.gate_prompts:
            return with_row(found, torch.ones(len(found), 1).to(found))
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        tokens = [set(content(row, bos, eos)) for row in ids.tolist()]
        known = self.conditioning.encode(self.gate_prompts).to(embeds.device)
        text, concepts = (self.conditioning.split(x)[0] for x in (embeds, known))
        concept_tokens = [set(self.words(prompt)) for prompt in self.gate_prompts]
        return with_row(found, gate(text, concepts, tokens, concept_tokens)[:, None] ** self.gate_power)

    @property
    def beside(self) -> list[str]:
        """Prompts that a guided prediction asks about besides a sample's own: the empty one, or what a guard says."""
        return [""] if self.guard is None else self.guard.beside

    def beside_embeds(self) -> Tensor:
        """Embeddings (k, rows, width) of the prompts `beside`, which a guard leaves alone."""
        if self.guard is None:
            return self.encode_prompts(self.beside)
        plain = torch.cat([self.conditioning.encode([one]) for one in self.beside]).to(self.device)
        embeds = self.guard.untold(self, plain)
        return embeds if self.adapter is None else with_row(embeds, embeds.new_zeros(len(embeds), 1))

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings (n, tokens, width) of token ids (n, tokens); refused with several text encoders."""
        return self.conditioning.encode_tokens(ids).to(self.device)

    def recall(self) -> None:
        """Have text encoders be where the network is from now on, for what works on them and not by prompts."""
        if self.recalled:
            return
        self.recalled = True
        for encoder in self.conditioning.encoders.values():
            encoder.to(self.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast everything but text encoders that are to stay where they are."""
        modules = dict(self._modules)
        if self.speed.offload_text and not self.recalled:
            for name in self.conditioning.encoders:
                del self._modules[name]
        try:
            return super()._apply(fn, recurse)
        finally:
            self._modules.clear()
            self._modules.update(modules)
