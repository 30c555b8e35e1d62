"""Classifier guidance of "When Are Concepts Erased From Diffusion Models?" (Lu et al. 2025, arXiv:2505.17013)."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch

from lit_memories.attacks.base import FIRST, Attempt
from lit_memories.attacks.noise_probe import MOST
from lit_memories.attacks.vanilla import VanillaAttack
from lit_memories.numbers import check_range
from lit_memories.ops.generators import seeded
from lit_memories.ops.noisy_classifier import NoisyClassifier, guided, trained
from lit_memories.ops.rollout import begun, rollout_eta, rollout_rows
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class ClassifierGuidance(VanillaAttack):
    r"""Guide the audited model by a classifier of noisy latents that knows the concept.

    .. math:: \hat\epsilon = \epsilon - \sqrt{1 - \bar\alpha_t}\; s\, \nabla_{z_t} \log p(\text{concept} \mid z_t, t)

    The classifier learns from what the model from before the erasure draws, pair by pair from one seed, under the
    concept's prompts and under the same with the anchor in the concept's place. So it tells the concept and not two
    data sets apart. It is a function of that model and the concept, the same in the audits of all models, and is taught
    once a run; its pictures' evaluations are in each sample's plan and spent once. The classifier's own passes are not
    counted: it has 0.1 million weights. The official one is a perceptron on its authors' latents, so that its scales
    are of another unit.

    Args:
        vanilla: see `VanillaAttack`.
        scales: s, 0 or more; all are tried with all etas, a picture each.
        etas: shares of DDPM's noise, 0 or more, as in `NoiseProbe`; 0 is plain DDIM.
        pairs: of pictures, with the concept and without, that the classifier learns from.
        training: steps of the classifier's training.
        guidance_scale: of all pictures, by the prompt.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is no scale, eta, pair or step of training, or a scale or eta is out of range.
    """

    question = "Does a classifier that knows the concept guide the model to it?"
    needs = ("judge", "steps", "concept")
    threat = "white box"
    leaves_artefacts = True
    says = (
        "Nothing without a control: the gradient itself draws what pleases a classifier, in a model that never knew "
        "too, and only success beyond that one's tells of a memory."
    )
    cost = "two guided runs a pair to learn from, once, and one a picture: with 64 pairs, 4 scales and 50 steps 13200"

    def __init__(
        self,
        vanilla: "Diffusion | None" = None,
        scales: Sequence[float] = (30.0, 50.0, 75.0, 125.0),
        etas: Sequence[float] = (0.0,),
        pairs: int = 64,
        training: int = 500,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(vanilla, guidance_scale=guidance_scale, budget=budget, limit=limit)
        check_range("scales", scales, 0, 1e6)
        check_range("etas", etas, 0, MOST)
        if min(pairs, training) < 1:
            raise ValueError(f"pairs and training must be 1 or more each, got {pairs} and {training}")
        self.scales, self.etas, self.pairs, self.training = list(scales), list(etas), pairs, training
        self._trained: NoisyClassifier | None = None

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """The classifier's pictures, and a run an eta and scale."""
        run, first = self.run_cost(num_inference_steps), self.shared(num_inference_steps)
        return [first + (1 + number) * run for number in range(len(self.scales) * len(self.etas))]

    def shared(self, num_inference_steps: int) -> int:
        """The classifier's pictures."""
        return 2 * self.pairs * self.run_cost(num_inference_steps)

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Teach the classifier, or take it as it was taught, and draw with each eta and scale."""
        classifier, generators = self._classifier(group), group.generators("/classifier_guidance")
        seeds = group.draw_seeds(group.generators(FIRST))
        for eta, scale in product(self.etas, self.scales):
            predict = guided(begun(group.predictor(self.guidance_scale)), classifier, group.schedule, scale)
            latents = rollout_eta(predict, seeds, group.steps, generators, eta)
            made_with = latents.new_tensor([[eta, scale]]).expand(len(latents), -1)
            yield Attempt(latents, {"eta_scale": made_with})

    def _classifier(self, group: Group) -> NoisyClassifier:
        if self._trained is None:
            named = [group.concept.prompts[number % len(group.concept.prompts)] for number in range(self.pairs)]
            prompts = [*named, *map(group.concept.anchored, named)]
            predict = self.vanilla_predictor(group, self.guidance_scale, prompts)
            seeds = group.draw_seeds([seeded(f"{self.name}/{number}") for number in range(self.pairs)])
            latents = rollout_rows(predict, torch.cat([seeds, seeds]), group.steps)
            shows = torch.arange(len(prompts), device=latents.device) < self.pairs
            self._trained = trained(latents, shows, group.schedule, self.training, f"{self.name}/training")
        return self._trained
