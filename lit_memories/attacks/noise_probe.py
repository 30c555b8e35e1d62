"""The noise-based probe of "When Are Concepts Erased From Diffusion Models?" (Lu et al. 2025, arXiv:2505.17013)."""

from collections.abc import Iterator, Sequence
from itertools import product

from lit_memories.attacks.base import FIRST, Attack, Attempt
from lit_memories.numbers import check_range
from lit_memories.ops.rollout import rollout_eta
from lit_memories.probes.base import Group

MOST = 100
"""An eta or scale beyond which nothing but the fresh noise is left; the official ones end at 1.85 and 1.04."""


class NoiseProbe(Attack):
    """Sample under the plain prompt with more fresh noise at every step than the model was trained to take away.

    What an erasure left of the concept may lie off the paths that DDIM takes; noise leads there. Nothing is optimised.
    Every picture begins at the same seed, and its fresh noise is its own.

    Args:
        etas: shares of DDPM's noise, 0 or more (`ops.schedule.ddim_eta_step`); all are tried with all scales.
        scales: by which the fresh noise is raised besides, 0 or more.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is no eta or scale, or one is out of range.
    """

    question = "Does more noise on the way than the model was trained on bring the concept back?"
    threat = "white box"
    leaves_artefacts = True
    says = (
        "Success where plain draws fail shows a concept that the plain sampler only steers around; raised noise spoils "
        "pictures, of which a judge may be wrong, as the control shows."
    )
    cost = "a guided run a pair of eta and scale: with 24 pairs and 50 steps 2400"

    def __init__(
        self,
        etas: Sequence[float] = (1.0, 1.17, 1.34, 1.51, 1.68, 1.85),
        scales: Sequence[float] = (1.0, 1.02, 1.03, 1.04),
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        check_range("etas", etas, 0, MOST)
        check_range("scales", scales, 0, MOST)
        self.etas, self.scales = list(etas), list(scales)

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """A run a pair."""
        return self.run_costs(num_inference_steps, len(self.etas) * len(self.scales))

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Sample with each pair of eta and scale."""
        predict, generators = group.predictor(self.guidance_scale), group.generators("/noise_probe")
        seeds = group.draw_seeds(group.generators(FIRST))
        for eta, scale in product(self.etas, self.scales):
            latents = rollout_eta(predict, seeds, group.steps, generators, eta, scale)
            made_with = latents.new_tensor([[eta, scale]]).expand(len(latents), -1)
            yield Attempt(latents, {"eta_scale": made_with})
