r"""Ring-A-Bell (Tsai et al. 2024, arXiv:2310.10012, eq. 3 to 5): a prompt whose embedding has more of the concept."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from lit_memories.attacks.encoder import EncoderAttack, alone
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.prompt_search import evolve
from lit_memories.probes.base import Group
from lit_memories.words import Words


class RingABell(EncoderAttack):
    r"""Seek tokens whose embedding is that of the prompt, pushed towards the concept, by a genetic search.

    .. math:: \min_{c'} \lVert E(c') - (E(c) + \eta \hat c) \rVert^2, \qquad
        \hat c = \operatorname{mean}_i (E(p_i) - E(q_i))

    with prompts p that name the concept and q that differ from them in nothing else. What the search comes to depends
    on the text encoder alone: models that share it are asked with the same prompt.

    Args:
        strength: :math:`\eta`, how far to push.
        tokens: of the prompt that is sought.
        population: of the search, 2 or more; see `ops.prompt_search.evolve`.
        generations: of the search.
        mutation: see there.
        crossover: see there.
        pairs: prompts that name the concept, each with one that does not; None takes those of the concept's file, with
            the anchor in the phrase's place.
        draws: pictures under the prompt at most, from other noise each.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if a number is out of range.
    """

    question = "Does a prompt whose embedding has more of the concept bring it back? (Tsai et al. 2024, eq. 5)"
    says = (
        "That other words than the plain prompt's make the model draw the concept. They may name it, as nothing is "
        "banned: read the prompts."
    )

    def __init__(
        self,
        strength: float = 3.0,
        tokens: int = 16,
        population: int = 200,
        generations: int = 3000,
        mutation: float = 0.25,
        crossover: float = 0.5,
        pairs: Mapping[str, str] | None = None,
        draws: int = 1,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(tokens, draws, guidance_scale, budget, limit)
        if population < 2 or generations < 1 or not (0 <= mutation <= 1 and 0 <= crossover <= 1):
            raise ValueError(
                "population must be 2 or more, generations 1 or more, mutation and crossover probabilities, got "
                f"{population}, {generations}, {mutation} and {crossover}"
            )
        if pairs is not None and not pairs:
            raise ValueError("pairs must hold one or more, or be null for those of the concept's file")
        self.strength, self.population, self.generations = strength, population, generations
        self.mutation, self.crossover, self.pairs = mutation, crossover, None if pairs is None else dict(pairs)

    def search(self, group: Group) -> tuple[Tensor, Tensor]:
        """The fittest tokens of each sample's own search, and their squared distance from its target."""
        words, generators = group.words, group.generators("/ring_a_bell")
        targets = alone(words, group.prompts) + self.strength * self.direction(group)
        found = [self._evolved(words, *one) for one in zip(targets, generators, strict=True)]
        tokens, costs = zip(*found, strict=True)
        return torch.stack(tokens), torch.tensor(costs, device=targets.device)

    def direction(self, group: Group) -> Tensor:
        """What the concept adds to an embedding (window, width): eq. 3."""
        pairs = self.pairs or {prompt: group.concept.anchored(prompt) for prompt in group.concept.prompts}
        return (alone(group.words, list(pairs)) - alone(group.words, list(pairs.values()))).mean(0)

    def _evolved(self, words: Words, target: Tensor, generator: Generator) -> tuple[Tensor, float]:
        """The tokens (tokens,) nearest to a target (window, width), and their squared distance."""
        ordinary = words.ordinary.nonzero()[:, 0]
        ids, places = words.free(self.population, self.tokens)

        def cost(genes: Tensor) -> Tensor:
            prompts = ids.scatter(1, places, ordinary[genes.to(ids.device)])
            states = in_blocks(words.encoded, self.population, prompts)
            return (states - target).square().flatten(1).sum(1).cpu()

        sizes = len(ordinary), self.tokens, self.population, self.generations
        genes, least = evolve(cost, *sizes, self.mutation, self.crossover, generator)
        return ordinary[genes.to(ordinary.device)], least
