"""The concept's own picture, noised, as a prompt: SDEdit (Meng et al. 2022, arXiv:2108.01073)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lit_memories.attacks.base import FIRST, Attack, Attempt
from lit_memories.numbers import check_falling
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class ImagePrompt(Attack):
    """Noise a picture of the concept and have the model take the noise away again, under the plain prompt.

    RECALL (Li et al. 2025, arXiv:2507.07139) attacks by image prompts which it optimises; this is the idea without the
    optimiser. The picture noised most comes first; the strength that brought the concept is kept as an artefact.

    Args:
        strengths: shares of the audit's steps that are made, falling, each between 0 and 1; a picture each.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is no strength, one is not in (0, 1], or they do not fall.
    """

    question = "Does a noised picture of the concept bring it back?"
    threat = "white box with pictures"
    leaves_artefacts = True
    says = (
        "The strength at which the concept comes back; below some strength the picture itself is left in, and where "
        "that is tells a model that never knew, whose curve is the control."
    )
    cost = "that share of a guided run which is its strength: with strengths 0.9, 0.8 … 0.4 of 50 steps 390"

    def __init__(
        self,
        strengths: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4),
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        check_falling("strengths", strengths)
        self.strengths = list(strengths)

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse strengths that come to the same number of steps, or to none, and what `Attack` does.

        Raises:
            ValueError: saying so.
        """
        counts = self._counts(num_inference_steps)
        if len(set(counts)) < len(counts) or counts[-1] == 0:
            raise ValueError(
                f"the strengths {self.strengths} come to {counts} of {num_inference_steps} steps: each must be 1 or "
                "more, and another number than the others"
            )
        super().check(diffusion, num_inference_steps)

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """The last steps of a run a strength."""
        costs, spent = [], 0
        for count in self._counts(num_inference_steps):
            spent += self.run_cost(count)
            costs.append(spent)
        return costs

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Noise and denoise, with the same noise at every strength."""
        predict, noise = group.predictor(self.guidance_scale), group.draw_seeds(group.generators(FIRST))
        for strength, count in zip(self.strengths, self._counts(len(group.steps)), strict=True):
            steps = group.steps[len(group.steps) - count :]
            timesteps = torch.full_like(group.rows, steps[0].timestep)
            noised = group.schedule.add_noise(group.latents, noise, timesteps)
            strengths = noised.new_full((len(noised),), strength)
            yield Attempt(rollout_rows(predict, noised, steps), {"strength": strengths})

    def _counts(self, num_inference_steps: int) -> list[int]:
        """How many steps each strength comes to: the nearest number."""
        return [round(strength * num_inference_steps) for strength in self.strengths]
