"""ANT, auto-steering denoising trajectories (Li et al. 2025, arXiv:2504.12782)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.generators import seeded
from lit_memories.ops.saliency import common, largest, smallest, summed_gradients
from lit_memories.ops.select import Selection
from lit_memories.ops.targets import match


class ANT(RolloutEraser):
    r"""Turns guidance round in the middle and late steps of a run, and keeps the early ones, which lay the structure.

    .. math:: \ell_{-} + \beta\, u(x_{-}) + \alpha\,[\ell_{+} + \beta\, u(x_{+})], \quad
        u(x) = \lVert \epsilon_\theta(x, \emptyset) - \epsilon_0(x, \emptyset) \rVert^2

    .. math:: \ell_{-} = \lVert \epsilon_\theta(x_{-}, c) - (\epsilon_0(x_{-}, \emptyset)
        - \eta [\epsilon_0(x_{-}, c) - \epsilon_0(x_{-}, \emptyset)]) \rVert^2, \quad
        \ell_{+} = \lVert \epsilon_\theta(x_{+}, c) - \epsilon_0(x_{+}, c) \rVert^2

    with :math:`x_{+}` from one of the run's first `before` steps and :math:`x_{-}` from one of the others: attraction
    to what the original predicts (officially by guidance of scale eta, always 1), then ESD's repulsion, and the empty
    prompt's predictions kept throughout. Only those weights move which this loss depends on most in all of several
    passes: the intersection of their masks.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: what the masks choose from; officially all.
        before: how many of the run's first steps attract.
        attract_weight: :math:`\alpha`.
        empty_weight: :math:`\beta`.
        mask_ratio: share of every tensor's weights that a mask marks, in (0, 1).
        mask_seeds: how many masks are made; 0 to let all weights move.
        mask_batches: losses that a mask is made of, for the concept's name.
        faithful: as the released code for one concept. It counts steps from the clean end, so that the last ones
            attract and the first ones, too, repel, at ESD's mismatched levels of 2023; its masks mark the weights with
            the *smallest* gradients; and it takes the empty prompt's predictions without gradient, so that nothing
            keeps them.
        **options: see `RolloutEraser` and `Eraser`. The model in training runs, as officially.

    Raises:
        ValueError: if a number is out of range, or, in training, the masks have nothing in common.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "full",
        before: int = 7,
        attract_weight: float = 1.0,
        empty_weight: float = 0.5,
        mask_ratio: float = 0.5,
        mask_seeds: int = 5,
        mask_batches: int = 10,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=train, **options)
        if not 0 < before < self.num_inference_steps:
            raise ValueError(
                f"before ({before}) must be at least 1 and less than num_inference_steps ({self.num_inference_steps})"
            )
        if min(attract_weight, empty_weight, mask_seeds) < 0 or mask_batches < 1 or not 0 < mask_ratio < 1:
            raise ValueError(
                f"attract_weight ({attract_weight}), empty_weight ({empty_weight}) and mask_seeds ({mask_seeds}) "
                f"cannot be negative, mask_batches ({mask_batches}) below 1, mask_ratio ({mask_ratio}) not in (0, 1)"
            )
        self.before, self.attract_weight, self.empty_weight = before, attract_weight, empty_weight
        self.mask_ratio, self.mask_seeds, self.mask_batches = mask_ratio, mask_seeds, mask_batches
        self.faithful = faithful

    def prepare(self, batch: Batch) -> None:
        """Make the mask, at the original weights."""
        if not self.mask_seeds:
            return
        full = torch.autocast(
            self.device.type, enabled=False
        )  # what is next to the threshold would be marked by chance
        with self.teacher(), full, torch.enable_grad():
            masks = [self._mask(number) for number in range(self.mask_seeds)]
        self.mask = common(masks)
        if not any(bool(mask.any()) for mask in self.mask.values()):
            raise ValueError(
                f"ANT's {self.mask_seeds} masks have no weight in common: choose a larger mask_ratio, or fewer masks"
            )

    def _mask(self, number: int) -> dict[str, Tensor]:
        gradients = summed_gradients(self._mask_losses(number), self.selected)
        marked = smallest if self.faithful else largest
        masks: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            masks |= marked({name: gradient.abs()}, self.mask_ratio)
        return masks

    def _mask_losses(self, number: int) -> Iterator[Tensor]:
        prompts = [self.concept.phrase] * self.batch_size
        for step in range(self.mask_batches):
            yield self.objective(prompts, seeded(f"{self.seed}/mask/{number}/{step}"))

    def erase_loss(self, batch: Batch) -> Tensor:
        """The objective at one early and one later step."""
        generator = self.generator()
        return self.objective(draw(batch["prompts"], self.batch_size, generator), generator)

    def objective(self, prompts: Sequence[str], generator: Generator) -> Tensor:
        """The method's loss for prompts, at steps and noise of the generator."""
        none = [""] * len(prompts)
        early, later = range(self.before), range(self.before, self.num_inference_steps)
        run = self.mismatched if self.faithful else self.stopped
        attract, repel = (run(prompts, generator, one_of(steps, generator)) for steps in (early, later))
        with self.teacher():
            goals = (attract, self.predict(*attract, prompts)), (repel, self.negated(*repel, prompts))
            kept = [self.predict(*place, none) for place, _ in goals]
        attraction, repulsion = (
            match(self.predict(*place, prompts), goal) + self.empty_weight * self._drift(*place, none, before)
            for (place, goal), before in zip(goals, kept, strict=True)
        )
        return repulsion + self.attract_weight * attraction

    def _drift(self, latents: Tensor, timestep: float, none: Sequence[str], before: Tensor) -> Tensor:
        """How far the empty prompt's predictions are from what they were."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.faithful):
            return match(self.predict(latents, timestep, none), before)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop the weights outside the mask: without decay and with moments of zero they stay to the bit."""
        for name, parameter in self.selected.items() if self.mask_seeds else ():
            if parameter.grad is not None:
                parameter.grad *= self.mask[name]


def one_of(steps: range, generator: Generator) -> int:
    """One of some steps, at random."""
    return steps[int(torch.randint(len(steps), (1,), generator=generator))]
