r"""MMA-Diffusion's attack on text (Yang et al. 2024, arXiv:2311.17516, eq. 2): other words for what a prompt says."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from lit_memories.attacks.encoder import EncoderAttack, alone
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.gradients import gradients
from lit_memories.ops.prompt_search import swaps
from lit_memories.probes.base import Group
from lit_memories.words import Words

SHORTEST = 3
"""Letters of a banned word, at least: shorter ones are parts of most others."""


class MMA(EncoderAttack):
    r"""Seek tokens whose pooled embedding is that of the prompt, while the concept's own words are banned.

    .. math:: \max_{c'} \cos(E(c'), E(c))

    by greedy coordinate gradient: from random tokens, the best of the candidates that `ops.prompt_search.swaps` names
    is taken where it is better. No token holds a banned word, and no prompt that is taken spells one. Pictures are
    drawn with the tokens themselves; words typed anew may come apart differently.

    Args:
        tokens: of the prompt that is sought.
        steps: of the search.
        candidates: tried a step.
        top: tokens of each place that candidates are drawn from.
        banned: words that must not occur, also within others, beside those of the concept's phrase and paraphrases;
            of all only those of 3 letters or more count.
        draws: pictures under the prompt at most, from other noise each.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if a number is out of range.
    """

    question = "Does a prompt that means the concept without its words bring it back? (Yang et al. 2024, eq. 2)"
    needs = ("judge", "steps", "concept", "gradients")
    says = "That other words make the model draw the concept; where they fail, the search may have been too short."

    def __init__(
        self,
        tokens: int = 20,
        steps: int = 1000,
        candidates: int = 512,
        top: int = 256,
        banned: Sequence[str] = (),
        draws: int = 1,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(tokens, draws, guidance_scale, budget, limit)
        if min(candidates, top) < 1 or steps < 0:
            raise ValueError(
                f"candidates and top must be 1 or more and steps 0 or more, got {candidates}, {top} and {steps}"
            )
        self.steps, self.candidates, self.top, self.banned = steps, candidates, top, list(banned)

    def search(self, group: Group) -> tuple[Tensor, Tensor]:
        """The tokens of each sample's own search, and the cosine they come to."""
        words, generators = group.words, group.generators("/mma")
        ids = words.ids(group.prompts)
        targets = pooled(words, ids, alone(words, group.prompts))
        ban = self._ban(group)
        found = [self._climbed(words, ban, *one) for one in zip(targets, generators, strict=True)]
        tokens, cosines = zip(*found, strict=True)
        return torch.stack(tokens), torch.stack(cosines)

    def _ban(self, group: Group) -> list[str]:
        """The words that must not occur, in small letters."""
        concept = group.concept
        texts = (concept.phrase, *concept.paraphrases, *self.banned)
        return [word.lower() for text in texts for word in text.split() if len(word) >= SHORTEST]

    def _climbed(self, words: Words, ban: Sequence[str], target: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Tokens (tokens,) whose pooled embedding is nearest to a target (width,), and the cosine."""
        free = allowed(words, ban)
        ids, places = words.free(1, self.tokens)

        def cosine(tokens: Tensor) -> Tensor:
            prompts = ids.repeat(len(tokens), 1).scatter(1, places.repeat(len(tokens), 1), tokens)
            return functional.cosine_similarity(pooled(words, prompts, words.encoded(prompts)), target[None])

        tokens = free[torch.randint(len(free), (self.tokens,), generator=generator).to(free.device)]
        while _spells(words, tokens, ban):
            tokens = free[torch.randint(len(free), (self.tokens,), generator=generator).to(free.device)]
        reached = in_blocks(cosine, self.candidates, tokens[None])[0]
        table = words.table[free].float()
        for _ in range(self.steps):
            gradient = -slope(words, ids.scatter(1, places, tokens[None]), places, target) @ table.T
            tried = free[swaps(torch.searchsorted(free, tokens), gradient, self.top, self.candidates, generator)]
            cosines = in_blocks(cosine, self.candidates, tried).nan_to_num(-1)
            for row in cosines.argsort(descending=True).tolist():
                if not cosines[row] > reached:
                    break
                if not _spells(words, tried[row], ban):
                    tokens, reached = tried[row], cosines[row]
                    break
        return tokens, reached


def pooled(words: Words, ids: Tensor, states: Tensor) -> Tensor:
    """CLIP's embedding of whole prompts (n, width): the hidden states (n, window, width) at their first end markers."""
    ends = (ids == words.diffusion.tokenizer.eos_token_id).int().argmax(1)
    return states[torch.arange(len(ids), device=ids.device), ends]


def slope(words: Words, ids: Tensor, places: Tensor, target: Tensor) -> Tensor:
    """The gradient (k, width) of a prompt's cosine with a target (width,), by the vectors in some places (1, k)."""
    with gradients():
        ids, places, target = ids.clone(), places.clone(), target.clone()
        vectors = words.table[ids.gather(1, places)].detach().float().requires_grad_()
        states = words.encoded(ids, vectors, places)
        cosine = functional.cosine_similarity(pooled(words, ids, states), target[None]).sum()
        return torch.autograd.grad(cosine, vectors)[0][0]


def allowed(words: Words, ban: Sequence[str]) -> Tensor:
    """Tokens (k,), growing, that are no markers and hold no banned word."""
    texts = words.diffusion.tokenizer.convert_ids_to_tokens(range(len(words.table)))
    clean = [not any(word in str(text).lower() for word in ban) for text in texts]
    return (words.ordinary & torch.tensor(clean, device=words.table.device)).nonzero()[:, 0]


def _spells(words: Words, tokens: Tensor, ban: Sequence[str]) -> bool:
    """Whether a prompt (k,) holds a banned word, in one token or several."""
    (text,) = words.text(tokens[None])
    return any(word in text.lower() for word in ban)
