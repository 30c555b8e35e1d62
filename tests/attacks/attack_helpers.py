"""What tests of attacks share: options small enough for the tiny pipeline, and a judge that is easily pleased."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_memories.attacks.base import Attack, Attempt, run_cost
from lit_memories.concept import Concept
from lit_memories.judges.base import Judge, Verdict
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes/pictograms/attack"
STEPS = 4
Attacked = Callable[..., list[str]]

SMALL: dict[str, dict[str, Any]] = {
    "completion": {"cuts": [1, 3]},
    "image_prompt": {"strengths": [0.75, 0.5, 0.25]},
    "noise_probe": {"etas": [1.0, 1.5], "scales": [1.0, 1.04]},
    "plain": {"draws": 3},
    "prompts": {"prompts": ["umbrella", "{prompt}", "a clover, or {prompt}"]},
    "seed_search": {"looks": 2, "steps": 2, "levels": 2},
}
"""In place of what a recipe says, by attack."""


class Shout(Attack):
    """Draws the prompt in capitals, from noise of its own, and leaves both behind."""

    question = "Does it help to shout?"
    threat = "black box"

    def plan(self, num_inference_steps: int) -> list[int]:
        return [run_cost(num_inference_steps, self.guidance_scale)]

    def attempts(self, group: Group) -> Iterator[Attempt]:
        seeds, prompts = group.draw_seeds(group.generators("/shout")), [p.upper() for p in group.prompts]
        latents = rollout_rows(group.noise(self.guidance_scale, prompts), seeds, group.steps)
        yield Attempt(latents, {"seed": seeds}, prompts)


class Bright(Judge):
    """Sees the concept in pictures that are lighter than a share of all that is possible."""

    def __init__(self, least: float = 0.5) -> None:
        super().__init__()
        self.least = least

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        light = float(image.mean())
        return {"shows_concept": float(light > self.least), "probability": light}

    def identity(self, concept: Concept) -> str:
        return f"bright {self.least}"
