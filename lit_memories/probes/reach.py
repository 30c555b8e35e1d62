"""Is a memory a needle or a basin? How far one can walk from a picture's seed before the concept is gone."""

import math

import torch

from lit_memories.numbers import Number
from lit_memories.ops.sphere import crossing, rotate
from lit_memories.probes.base import Answers, Group, Probe
from lit_memories.probes.prices import Price, Terms

ANGLES = tuple(range(0, 91, 15))
"""Degrees at which the way from a seed to noise is looked at."""


class Reach(Probe):
    """Degrees from an image's seed towards noise at which half of the walks no longer show the concept.

    Args:
        directions: random ones, of each image; each costs a DDIM run an angle.

    Raises:
        ValueError: if there is none.
    """

    question = "How far from the picture's seed does the concept reach?"
    sets = ("concept",)
    numbers = (Number("reach", "reach", "paired", "degrees", "down", zero="only the seed itself", digits=0),)
    needs = ("seeds", "inverter", "judge")
    says = "Whether noise near a seed brings the concept back. A judge's eye, and few angles: it is coarse."
    cost = "7 DDIM runs a direction, with 20 steps 140"

    def __init__(self, directions: int = 2) -> None:
        if directions < 1:
            raise ValueError(
                f"directions must be at least 1, got {directions}: leave reach out of model.probes instead"
            )
        self.directions = directions

    def price(self, terms: Terms) -> Price:
        """A run a direction and angle."""
        return terms.calls(terms.inverter.sampling) * (self.directions * len(ANGLES))

    def __call__(self, group: Group) -> Answers:
        """Walk, look, and find where half of the walks have lost the concept."""
        seeds, count = group.seeds, len(group.prompts)
        angles, seen = torch.tensor(ANGLES, dtype=torch.float64), []
        prompts = [prompt for prompt in group.prompts for _ in ANGLES]
        predict, generators = group.predictor(group.guidance_scale, prompts), group.generators("/reach")
        # A seed that is not finite has no great circle; it is flagged, and any other serves in its place.
        sound = seeds.flatten(1).isfinite().all(1)
        for _ in range(self.directions):
            directions = group.draw_seeds(generators)
            ways = rotate(
                torch.where(sound[:, None, None, None], seeds, directions.roll(1, -1)),
                directions,
                angles * math.pi / 180,
            )
            images = group.decode(group.inverter.sample(predict, ways.flatten(0, 1), group.steps))
            shown = group.judge(images, prompts)["shows_concept"]
            seen.append(torch.tensor(list(shown), dtype=torch.float64).view(count, len(ANGLES)))
        found = crossing(angles, torch.stack(seen).mean(0)).angle
        return Answers({"reach": found.where(sound.cpu(), torch.nan)})
