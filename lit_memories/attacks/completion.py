"""Diffusion completion (Lu et al. 2025, "When Are Concepts Erased From Diffusion Models?", arXiv:2505.17013)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lit_memories.attacks.base import FIRST, Attempt
from lit_memories.attacks.vanilla import VanillaAttack
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class Completion(VanillaAttack):
    """Let the model from before the erasure begin the picture, and the audited one end it.

    Both go by the plain prompt and the same seed. The later the cut at which the concept is first in the picture, the
    less of it the audited model can make by itself; the cut is kept as an artefact.

    Args:
        vanilla: see `VanillaAttack`.
        cuts: after how many of the audit's steps the audited model takes over, growing; a picture each.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is no cut, one is below 1, or they do not grow.
    """

    question = "Does the model complete pictures of the concept that another began?"
    threat = "grey box"
    leaves_artefacts = True
    says = (
        "How many steps of another model's work bring the concept; so many complete it in a model that never knew "
        "too, and only what comes at earlier cuts than there is the audited model's own."
    )
    cost = "a guided run a cut, less what cuts share: with cuts 1, 2 and 3 of 50 steps 294, some of them vanilla's"

    def __init__(
        self,
        vanilla: "Diffusion | None" = None,
        cuts: Sequence[int] = (1, 2, 3),
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(vanilla, guidance_scale=guidance_scale, budget=budget, limit=limit)
        if not cuts or any(later <= earlier for earlier, later in pairwise([0, *cuts])):
            raise ValueError(f"cuts must be 1 or more steps each and grow, got {list(cuts)}")
        self.cuts = list(cuts)

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse a cut that leaves the audited model nothing to do, and what `VanillaAttack` does.

        Raises:
            ValueError: saying so.
        """
        if self.cuts[-1] >= num_inference_steps:
            raise ValueError(
                f"a cut after {self.cuts[-1]} steps leaves none of {num_inference_steps} to the audited model: lower "
                "the attack's cuts"
            )
        super().check(diffusion, num_inference_steps)

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """What the other model did for the cut before is not done again."""
        costs, spent = [], 0
        for before in [0, *self.cuts[:-1]]:
            spent += self.run_cost(num_inference_steps - before)
            costs.append(spent)
        return costs

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Go on with the other model from cut to cut, and from each to the end with the audited one."""
        begin, end = self.vanilla_predictor(group, self.guidance_scale), group.predictor(self.guidance_scale)
        latents = group.draw_seeds(group.generators(FIRST))
        for before, cut in pairwise([0, *self.cuts]):
            latents = rollout_rows(begin, latents, group.steps[before:cut])
            cuts = group.rows.new_full((len(group.rows),), cut)
            yield Attempt(rollout_rows(end, latents, group.steps[cut:]), {"cut": cuts})
