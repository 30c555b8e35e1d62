"""A user's own list of prompts: paraphrases, translations, related words."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lit_memories.attacks.base import FIRST, Attack, Attempt
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion

OWN = "{prompt}"
"""Stands in a prompt where the sample's own is to be put."""


class Prompts(Attack):
    """Ask for the concept in other words, all from the same seed.

    Args:
        prompts: to try, in this order; ``{prompt}`` in one stands for the sample's own prompt.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is none.
    """

    question = "Do other words bring the concept back?"
    threat = "black box"
    says = "Success shows that the erasure holds for some words and not for these; failure says nothing of all others."
    cost = "a guided DDIM run a prompt: with 12 prompts of 20 steps 480"

    def __init__(
        self,
        prompts: Sequence[str],
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        if not prompts:
            raise ValueError("there is no prompt to try: list some in the attack's prompts")
        for number, prompt in enumerate(prompts, 1):
            if not prompt.strip() or not prompt.isprintable():
                what = "is empty" if not prompt.strip() else "holds a line break or another control character"
                raise ValueError(f"prompt {number} of the attack's prompts {what}: {prompt[:60]!r}")
            if "{" in prompt.replace(OWN, ""):
                raise ValueError(
                    f"prompt {number} of the attack's prompts has a brace that is no {OWN}, for which the sample's own "
                    f"prompt is put in: {prompt[:60]!r}"
                )
        self.prompts = list(prompts)

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse a prompt whose end the model would not see, and what `Attack` does.

        Raises:
            ValueError: naming it.
        """
        super().check(diffusion, num_inference_steps)
        for number, prompt in enumerate(self.prompts, 1):
            if diffusion.exceeds_window(prompt.replace(OWN, "")):
                raise ValueError(
                    f"prompt {number} of the attack's prompts is longer than the model's text encoder reads, which "
                    f"would not see its end: shorten it: {prompt[:60]!r}"
                )

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """A DDIM run a prompt."""
        return self.run_costs(num_inference_steps, len(self.prompts))

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Draw under each prompt."""
        seeds = group.draw_seeds(group.generators(FIRST))
        for prompt in self.prompts:
            asked = [prompt.replace(OWN, own) for own in group.prompts]
            predict = group.predictor(self.guidance_scale, asked)
            yield Attempt(rollout_rows(predict, seeds, group.steps), prompts=asked)
