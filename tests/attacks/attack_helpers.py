"""What tests of attacks share: options small enough for the tiny pipeline, and a judge that is easily pleased."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, Tensor

from lit_memories.attacks.base import Attack, Attempt
from lit_memories.audit.concept import ConceptAudit
from lit_memories.audit.group import SampleGroup
from lit_memories.concept import Concept
from lit_memories.data.samples import Sample
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.judges.base import Judge, Verdict
from lit_memories.ops.rollout import rollout_rows
from lit_memories.probes.base import Group

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes/pictograms/attack"
STEPS = 4
Attacked = Callable[..., list[str]]

SMALL: dict[str, dict[str, Any]] = {
    "completion": {"cuts": [1, 3]},
    "classifier_guidance": {"scales": [0.0, 2.0], "pairs": 3, "training": 2},
    "inpainting": {"holes": [1.0, 0.5]},
    "image_prompt": {"strengths": [0.75, 0.5, 0.25]},
    "noise_probe": {"etas": [1.0, 1.5], "scales": [1.0, 1.04]},
    "plain": {"draws": 3},
    "prompts": {"prompts": ["umbrella", "{prompt}", "a clover, or {prompt}"]},
    "seed_search": {"looks": 2, "steps": 2, "levels": 2},
    "unlearn_diff_atk": {"tokens": 2, "timesteps": 2, "steps": 2},
    "textual_inversion": {"lesson": 2, "steps": [0, 3], "batch_size": 2},
    "p4d": {"steps": 5, "judged": 2},
    "ring_a_bell": {"tokens": 4, "population": 6, "generations": 3, "draws": 2},
    "mma": {"tokens": 4, "steps": 2, "candidates": 6, "top": 5, "draws": 2},
}
"""In place of what a recipe says, by attack."""


class Shout(Attack):
    """Draws the prompt in capitals, from noise of its own, and leaves both behind."""

    question = "Does it help to shout?"
    threat = "black box"

    def plan(self, num_inference_steps: int) -> list[int]:
        return [self.run_cost(num_inference_steps)]

    def attempts(self, group: Group) -> Iterator[Attempt]:
        seeds, prompts = group.draw_seeds(group.generators("/shout")), [p.upper() for p in group.prompts]
        latents = rollout_rows(group.predictor(self.guidance_scale, prompts), seeds, group.steps)
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


PROMPTS = [
    "a red umbrella on a blue background, solid style",
    "umbrella",
    "a green umbrella on a white background, striped style",
]
UMBRELLA = Concept(
    "umbrella", "object", PROMPTS, phrase="umbrella", anchor="clover", paraphrases=["parasol", "sunshade"]
)


def asked_group(
    diffusion: Diffusion, attack: Attack, prompts: Sequence[str] = PROMPTS, taught: int = 0, block_size: int = 4
) -> SampleGroup:
    """Samples with pictures of noise, as an audit would put them to an attack; the first are a lesson if any."""
    judge = Bright(2.0)
    audit = ConceptAudit(diffusion, FixedPoint(), UMBRELLA, [attack], judge=judge, num_inference_steps=STEPS)
    audit.block_size, audit._trainer = block_size, SimpleNamespace(precision="32-true")
    height, width = diffusion.image_size
    samples = []
    for number, prompt in enumerate(prompts):
        image = torch.rand(3, height, width, generator=Generator().manual_seed(number))
        samples.append(Sample("concept", number, f"content {number}", prompt, image=image))
    if taught:
        audit.teach({"concept": samples[:taught]})
    return SampleGroup(audit, samples[taught:])
