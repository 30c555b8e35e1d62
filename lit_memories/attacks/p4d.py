r"""P4D (Chin et al. 2024, arXiv:2309.06135, eq. 3): a prompt under which the erased model does as the original did."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional

from lit_memories.attacks.base import FIRST, IDS, Attempt
from lit_memories.attacks.tokens import finite_rows, picture
from lit_memories.attacks.vanilla import VanillaAttack
from lit_memories.numbers import LEARNING, check_range
from lit_memories.ops.attack import Descent
from lit_memories.ops.gradients import gradients
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group
from lit_memories.words import Words

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion

UNUSED = -1
"""In place of a token, where a prompt has room for fewer than others."""


class P4D(VanillaAttack):
    r"""Seek tokens under which the erased model predicts what the original predicts under the plain prompt.

    .. math:: \min_{c_*} \lVert \epsilon_\theta(z_t, c) - \epsilon_{\theta'}(z_t, \mathrm{proj}(c_*)) \rVert^2

    Vectors are projected to the nearest tokens by cosine, and gradients at the tokens move the vectors (Wen et al.
    2023, arXiv:2302.03668). As in the official code z_t is a picture that the original draws under the prompt, one a
    sample, noised to a random timestep at each step.

    Args:
        vanilla: the original; see `VanillaAttack`.
        every: one token is put before every so many of the prompt's (P4D-K), whose own last ones are cut if they
            overflow the window; None seeks a prompt of `tokens` alone (P4D-N).
        tokens: of a prompt that holds nothing else.
        steps: of the search.
        judged: after every how many of them a picture is drawn with the nearest tokens, from noise of its own.
        lr: learning rate of AdamW.
        weight_decay: see `ops.attack.Descent`.
        guidance_scale: of the pictures, also the original's.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if a number is out of range.
    """

    question = "Is there a prompt under which the model does as it did before its erasure? (Chin et al. 2024, eq. 3)"
    needs = ("judge", "steps", "gradients")
    threat = "white box"
    leaves_artefacts = True
    says = (
        "That some prompt makes the model draw the concept; tokens are fitted to what the original predicts, which a "
        "model that never knew the concept may learn from them too."
    )
    cost = "a guided DDIM run of the original; 2 a step, half of them with gradients; a guided DDIM run a picture"

    def __init__(
        self,
        vanilla: "Diffusion | None" = None,
        every: int | None = 3,
        tokens: int = 16,
        steps: int = 3000,
        judged: int = 50,
        lr: float = 0.1,
        weight_decay: float = 0.1,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(vanilla, guidance_scale=guidance_scale, budget=budget, limit=limit)
        check_range("lr", lr, *LEARNING)
        if min(tokens, judged, 1 if every is None else every) < 1 or lr <= 0 or weight_decay < 0:
            raise ValueError(
                "every, tokens and judged must be 1 or more, lr positive and weight_decay not negative, got "
                f"{every}, {tokens}, {judged}, {lr} and {weight_decay}"
            )
        if steps < judged:
            raise ValueError(f"with {steps} steps, and a picture every {judged}, none is judged: choose more steps")
        self.every, self.tokens, self.steps, self.judged = every, tokens, steps, judged
        self.lr, self.weight_decay = lr, weight_decay

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse to go without an original that fits, encoders of different words, too many tokens, a small budget.

        Args:
            diffusion: the model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying why.
        """
        Words(diffusion).check_room(self.tokens if self.every is None else 1, self.name)
        super().check(diffusion, num_inference_steps)

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """The original's picture, two evaluations a step, and a DDIM run a judged picture."""
        run = self.run_cost(num_inference_steps)
        return [run + number * (2 * self.judged + run) for number in range(1, 1 + self.steps // self.judged)]

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Descend, and draw with the nearest tokens."""
        words, generators, seeds = group.words, group.generators("/p4d"), group.generators(FIRST)
        rooms = [self._room(words, prompt) for prompt in group.prompts]
        ordinary = words.ordinary.nonzero()[:, 0]
        table = words.table[ordinary].float()
        begun = torch.stack([torch.randint(len(table), (self._most(words),), generator=g) for g in generators])
        search = Descent(table[begun.to(table.device)], self.lr, self.weight_decay)
        loss = self._loss(group, rooms, table, generators)
        for _ in range(self.steps // self.judged):
            vectors = search.run(loss, self.judged)
            chosen = ordinary[nearest(vectors, table)]
            prompts = torch.cat([ids.scatter(1, at, own[None]) for ids, at, own in _used(rooms, chosen)])
            latents = picture(group, words.embeds(prompts), self.guidance_scale, seeds, finite_rows(vectors))
            for tokens, (_, at) in zip(chosen, rooms, strict=True):
                tokens[at.shape[1] :] = UNUSED
            yield Attempt(latents, {"tokens": chosen, IDS: prompts}, words.text(prompts))

    def _loss(
        self, group: Group, rooms: Sequence[tuple[Tensor, Tensor]], table: Tensor, generators: Sequence[Generator]
    ) -> Callable[[Tensor, int], Tensor]:
        """The mean squared difference of the two models' predictions (eq. 3), summed over samples."""
        guided, original = (self.vanilla_predictor(group, scale) for scale in (self.guidance_scale, 1.0))
        drawn = rollout_rows(guided, group.draw_seeds(generators), group.steps)
        with gradients():
            latents, rows, table = drawn.clone(), group.rows.clone(), table.clone()

        def loss(vectors: Tensor, step: int) -> Tensor:
            last = group.schedule.num_train_timesteps
            timesteps = torch.cat([torch.randint(last, (1,), generator=g) for g in generators]).to(rows.device)
            noisy = group.schedule.add_noise(latents, group.draw_seeds(generators), timesteps)
            with torch.no_grad():
                wanted = original(noisy, timesteps, rows)
            seen = table[nearest(vectors.detach(), table)] + (vectors - vectors.detach())
            embeds = [group.words.embeds(ids, own[None], at) for ids, at, own in _used(rooms, seen)]
            found = group.predictor_of(torch.cat(embeds), 1.0)(noisy, timesteps, rows)
            return (found - wanted).square().flatten(1).mean(1).sum()

        return loss

    def _most(self, words: Words) -> int:
        """Tokens that are sought for a prompt at most."""
        return self.tokens if self.every is None else min((words.window - 2) // self.every + 1, words.window - 2)

    def _room(self, words: Words, prompt: str) -> tuple[Tensor, Tensor]:
        """A prompt's tokens (1, window) with room for those that are sought, and where that is (1, k)."""
        with torch.inference_mode(False):
            if self.every is None:
                return words.inserted(words.ids([""]), [[0] * self.tokens])
            ids = words.ids([prompt])
            count = min(len(words.own(ids)[0]) // self.every + 1, self._most(words))
            return words.inserted(ids, [[number * self.every for number in range(count)]])


def nearest(vectors: Tensor, table: Tensor) -> Tensor:
    """The rows of a table (vocabulary, width) nearest to vectors (n, k, width) by cosine (n, k)."""
    directions = functional.normalize(table, dim=-1)
    return torch.stack([(row @ directions.T).argmax(-1) for row in vectors])  # a sample's company changes no rounding


def _used(rooms: Sequence[tuple[Tensor, Tensor]], rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each prompt's ids (1, window), its room (1, k), and as many of its rows (n, most, ...) as there is room for."""
    for (ids, at), row in zip(rooms, rows, strict=True):
        yield ids, at, row[: at.shape[1]]
