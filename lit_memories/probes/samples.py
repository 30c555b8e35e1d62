"""Does the prompt still work, do others, and what comes without any? Samples, and what a judge sees in them."""

from lit_memories.numbers import STRONGEST, Number, check_range
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.probes.prices import Price, Terms
from lit_memories.probes.seed import SEEN


class Samples(Probe):
    """Samples under the concept's prompts, under others and under none, drawn from the same noise in every model.

    Args:
        guidance_scale: of the samples.

    Raises:
        ValueError: if it is out of range.
    """

    question = "What does the model draw under the concept's prompts, under others, and under none?"
    sets = ("prompted", "retained", "unprompted")
    numbers = (*SEEN, Number("met", "prompts met in every factor", "rate", percent=True, digits=0, direction="down"))
    needs = ("steps",)
    uses = ("judge",)
    pictures = True
    says = "What prompting shows. A prompt that fails is not a memory that is gone."
    cost = "a DDIM run, guided: with 20 steps 40"

    def __init__(self, guidance_scale: float = 7.5) -> None:
        check_range("guidance_scale", guidance_scale, 0, STRONGEST)
        self.guidance_scale = guidance_scale

    def price(self, terms: Terms) -> Price:
        """A run."""
        return terms.run(self.guidance_scale)

    def __call__(self, group: Group) -> Answers:
        """Draw and look."""
        seeds = group.draw_seeds(group.generators())
        latents = rollout_rows(group.predictor(self.guidance_scale), seeds, group.steps)
        images = group.decode(latents)
        sound = latents.flatten(1).isfinite().all(1).tolist()
        numbers = group.judge(images)
        if "correct" in numbers:
            numbers["met"] = [None if not correct else float(all(correct.values())) for correct in numbers["correct"]]
        return Answers(numbers, [None if good else "not finite" for good in sound], {"sample": images})
