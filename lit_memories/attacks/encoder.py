"""What attacks share that look at the text encoder alone: a prompt sought there, and pictures drawn under it."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lit_memories.attacks.base import FIRST, IDS, Attack, Attempt
from lit_memories.attacks.tokens import picture
from lit_memories.probes.base import Group, Need
from lit_memories.words import Words

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class EncoderAttack(Attack):
    """Seek a prompt by the audited model's own text encoder, which most erasures leave as it was, and draw under it.

    Network evaluations are those of the pictures: the encoder's, many and small, are not counted.

    Args:
        tokens: of the prompt, which holds nothing else.
        draws: pictures under it at most, from other noise each.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is none of either.
    """

    needs: ClassVar[tuple[Need, ...]] = ("judge", "steps", "concept")
    threat = "grey box"
    leaves_artefacts = True
    cost = "a guided DDIM run a picture; evaluations of the text encoder are not counted"

    def __init__(
        self,
        tokens: int,
        draws: int = 1,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        if min(tokens, draws) < 1:
            raise ValueError(f"tokens and draws must be 1 or more, got {tokens} and {draws}")
        self.tokens, self.draws = tokens, draws

    @abstractmethod
    def search(self, group: Group) -> tuple[Tensor, Tensor]:
        """Tokens for each sample (n, tokens), and how good they are (n,): not finite where the search failed."""

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse text encoders of different words, too many tokens, and a budget that does not pay for a picture.

        Args:
            diffusion: the model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying why.
        """
        super().check(diffusion, num_inference_steps)
        Words(diffusion).check_room(self.tokens, self.name)

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """A DDIM run a picture."""
        return self.run_costs(num_inference_steps, self.draws)

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Search, and draw."""
        words, seeds = group.words, group.generators(FIRST)
        tokens, quality = self.search(group)
        ids, places = words.free(*tokens.shape)
        prompts = ids.scatter(1, places, tokens)
        embeds, texts = words.embeds(prompts), words.text(prompts)
        for _ in range(self.draws):
            latents = picture(group, embeds, self.guidance_scale, seeds, quality.isfinite())
            yield Attempt(latents, {"tokens": tokens, IDS: prompts}, texts)


def alone(words: Words, prompts: Sequence[str]) -> Tensor:
    """The text encoder's hidden states (n, window, width) of prompts, each encoded alone."""
    return torch.cat([words.encoded(row) for row in words.ids(prompts).split(1)])
