r"""UnlearnDiffAtk (Zhang et al. 2024, arXiv:2310.11868, eq. 7): tokens before a prompt that explain a picture of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from lit_memories.attacks.base import FIRST, IDS, Attack, Attempt
from lit_memories.attacks.tokens import finite_rows, picture
from lit_memories.numbers import LEARNING, check_range
from lit_memories.ops.attack import Descent
from lit_memories.ops.gradients import gradients
from lit_memories.ops.simplex import drawn, onto_simplex, straight_through
from lit_memories.probes.base import Group
from lit_memories.words import Words

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class UnlearnDiffAtk(Attack):
    r"""Seek tokens c' before a prompt c under which the erased model finds the noise in the sample's own picture x.

    .. math:: \min_{c'} \mathbb{E}_\epsilon \lVert \epsilon - \epsilon_{\theta'}(x_t, [c', c]) \rVert^2

    Each token is a point of the probability simplex over the vocabulary's ordinary tokens. A step draws tokens from
    these points, lets gradients pass straight through the draw, moves the points by AdamW and projects them back. Time
    goes from nearly clean to noise, in the middles of equal parts; at the end of each a picture is made with the
    likeliest tokens, by their ids, from noise of its own, and judged.

    That the plain prompt alone shows the concept, which officially counts as success, is none here: `Plain` tells it.

    Args:
        tokens: how many are put before the prompt, whose own last ones are cut if they overflow the window.
        timesteps: how many are attacked at, one after the other; as many pictures are judged.
        steps: at each.
        lr: learning rate.
        weight_decay: see `ops.attack.Descent`.
        faithful: as the official code does it: the decay is added to the gradient, and the gradient of a draw is cut to
            [-1, 1].
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if a number is out of range.
    """

    question = "Do tokens before the prompt bring the concept back? (Zhang et al. 2024, eq. 7)"
    needs = ("judge", "steps", "gradients")
    threat = "white box with pictures"
    leaves_artefacts = True
    says = (
        "That some prompt makes the model draw the concept: whether from memory or because tokens were fitted to the "
        "picture, only a model that never knew it tells."
    )
    cost = "a timestep: steps with gradients and a guided DDIM run; with 50 of 40 steps and 50 inference steps 7000"

    def __init__(
        self,
        tokens: int = 3,
        timesteps: int = 50,
        steps: int = 40,
        lr: float = 1e-2,
        weight_decay: float = 0.1,
        faithful: bool = False,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        check_range("lr", lr, *LEARNING)
        if min(tokens, timesteps, steps) < 1 or lr <= 0 or weight_decay < 0:
            raise ValueError(
                "tokens, timesteps and steps must be 1 or more, lr positive and weight_decay not negative, got "
                f"{tokens}, {timesteps}, {steps}, {lr} and {weight_decay}"
            )
        self.tokens, self.timesteps, self.steps = tokens, timesteps, steps
        self.lr, self.weight_decay, self.faithful = lr, weight_decay, faithful

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse encoders of different words, too many tokens or timesteps, and a budget that pays for no picture.

        Args:
            diffusion: the model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying why.
        """
        super().check(diffusion, num_inference_steps)
        Words(diffusion).check_room(self.tokens, self.name)
        if self.timesteps > (most := diffusion.schedule.num_train_timesteps):
            raise ValueError(f"the attack {self.name} has {self.timesteps} timesteps, and the model {most}: fewer")

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """Steps and a DDIM run at each timestep."""
        each = self.steps + self.run_cost(num_inference_steps)
        return [(1 + number) * each for number in range(self.timesteps)]

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Descend at one timestep after the other, and draw with the likeliest tokens."""
        words, count = group.words, len(group.prompts)
        ids, places = words.inserted(words.ids(group.prompts), [[0] * self.tokens] * count)
        ordinary = words.ordinary.nonzero()[:, 0]
        start = torch.full((count, self.tokens, len(ordinary)), 1 / len(ordinary), device=ids.device)
        search = Descent(start, self.lr, self.weight_decay, onto_simplex, decoupled=not self.faithful)
        generators, seeds = group.generators("/unlearn_diff_atk"), group.generators(FIRST)
        part = group.schedule.num_train_timesteps // self.timesteps
        for timestep in range(part // 2, part * self.timesteps, part):
            with gradients():
                vectors = words.table[ordinary.clone()].float()
                seen = ids.clone(), vectors, places.clone()
                shares = search.run(self._loss(group, timestep, *seen, generators), self.steps)
            chosen = ordinary[shares.argmax(-1)]
            prompt = ids.scatter(1, places, chosen)
            latents = picture(group, words.embeds(prompt), self.guidance_scale, seeds, finite_rows(shares))
            yield Attempt(latents, {"tokens": chosen, IDS: prompt}, words.text(prompt))

    def _loss(
        self,
        group: Group,
        timestep: int,
        ids: Tensor,
        table: Tensor,
        places: Tensor,
        generators: Sequence[Generator],
    ) -> Callable[[Tensor, int], Tensor]:
        """The mean squared error of what is to be predicted of the pictures at a timestep, summed over samples."""
        latents, rows = group.latents.clone(), group.rows.clone()
        timesteps = torch.full((len(rows),), timestep, device=latents.device)

        def loss(shares: Tensor, step: int) -> Tensor:
            uniform = torch.stack([torch.rand(self.tokens, generator=g) for g in generators]).to(shares.device)
            if self.faithful:
                shares = shares.clone()  # what is hooked must not be the leaf, whose hooks would pile up
                shares.register_hook(lambda gradient: gradient.clamp(-1, 1))
            vectors = straight_through(shares, table, drawn(shares.detach(), uniform))
            noise = group.draw_seeds(generators)
            noisy = group.schedule.add_noise(latents, noise, timesteps)
            wanted = group.schedule.target(latents, noise, timesteps)
            found = group.predictor_of(group.words.embeds(ids, vectors, places), 1.0)(noisy, timesteps, rows)
            return (found - wanted).square().flatten(1).mean(1).sum()

        return loss
