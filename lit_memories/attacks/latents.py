"""Seeds under which the audited model agrees with the one from before the erasure, after IVO (arXiv:2602.00175)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_memories.attacks.base import FIRST, P_VALUE, SEED, Attack, Attempt
from lit_memories.attacks.vanilla import VanillaAttack
from lit_memories.metrics.functional import combined_p_value, typicality
from lit_memories.numbers import LEARNING, Number, check_range
from lit_memories.ops.attack import minimise
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.gradients import gradients
from lit_memories.ops.path import DDIMStep, ddim_step
from lit_memories.ops.rollout import RowPredictFn, rollout_rows
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


def discrepancy(one: RowPredictFn, other: RowPredictFn, seeds: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
    r"""How far apart two models' predictions are along the first steps of the first model's run.

    .. math:: D(z_T) = \frac{1}{d} \sum_t \lVert \epsilon_1(z_t) - \epsilon_2(z_t) \rVert^2

    Differentiable through both predictions at each level. On the way from one level to the next the prediction is
    taken as given, so that no step is differentiated through another.

    Args:
        one: the model whose run it is.
        other: the model that it is held against.
        seeds: z_T (n, c, h, w).
        steps: the first of the run's.

    Returns:
        D, a value a seed (n,).
    """
    rows, latents, parts = torch.arange(len(seeds), device=seeds.device), seeds, []
    for step in steps:
        predicted = one(latents, step.timestep, rows)
        apart = predicted - other(latents, step.timestep, rows)
        parts.append(in_blocks(lambda x: x.flatten(1).square().mean(1), 1, apart))
        latents = ddim_step(latents, predicted.detach(), step)
    return torch.stack(parts).sum(0)


def as_typical(moved: Tensor, seeds: Tensor) -> Tensor:
    """Latents (n, c, h, w) with the mean and variance of seeds (n, c, h, w), each its own, and so their norms.

    Draws of the prior keep to a thin shell of radius sqrt(d). With a draw's own mean and norm a seed is as likely as
    the draw is; scaled to sqrt(d) itself it would be more typical than any draw.
    """

    def one(x: Tensor, own: Tensor) -> Tensor:
        return (x - x.mean()) * (own.std() / x.std()) + own.mean()

    return in_blocks(one, 1, moved, seeds)


class SeedSearch(VanillaAttack):
    """Move the seed until the audited model's first predictions are those of the model from before the erasure.

    IVO's idea; its paper's weights and numbers of steps are not known here, the loss is the plain one of `discrepancy`
    under the plain prompt, without guidance. The search begins at the seed of the plain draw and holds the seed's mean
    and norm (`as_typical`). Seeds are kept as artefacts, with their discrepancies: at the plain draw's, which tells how
    much the erasure changed, and before the last step of the search.

    Args:
        vanilla: see `VanillaAttack`.
        looks: pictures, one after every search, which goes on where the one before ended; Adam begins anew.
        steps: of Adam in each search.
        lr: of Adam; a seed's elements are about 1.
        levels: how many of the audit's first steps are looked at.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is no look, step or level.
    """

    question = "Is there a seed as typical as any under which the model does as it did before the erasure?"
    numbers = (*Attack.numbers, Number(P_VALUE, "p-value of the seed", digits=3))
    needs = ("judge", "steps", "gradients")
    threat = "white box"
    leaves_artefacts = True
    says = (
        "A seed of ordinary norm brings the concept, though not that such seeds are drawn: structure within a seed is "
        "not held but measured, by a p-value, and may itself draw what the model never knew, which the control shows."
    )
    cost = "a look 2 a step and level, one of each model, and a guided run: with 4 looks of 10 steps at 3 levels 640"

    def __init__(
        self,
        vanilla: "Diffusion | None" = None,
        looks: int = 4,
        steps: int = 10,
        lr: float = 0.02,
        levels: int = 3,
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(vanilla, guidance_scale=guidance_scale, budget=budget, limit=limit)
        if min(looks, steps, levels) < 1:
            raise ValueError(f"looks, steps and levels must be 1 or more each, got {looks}, {steps} and {levels}")
        check_range("lr", lr, *LEARNING)
        self.looks, self.steps, self.lr, self.levels = looks, steps, lr, levels

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse more levels than there are steps, and what `VanillaAttack` does.

        Raises:
            ValueError: saying so.
        """
        if self.levels > num_inference_steps:
            raise ValueError(f"levels must be {num_inference_steps} or fewer, as the audit's steps, got {self.levels}")
        super().check(diffusion, num_inference_steps)

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """A search and a run a look."""
        cost = 2 * self.steps * self.levels + self.run_cost(num_inference_steps)
        return [(1 + number) * cost for number in range(self.looks)]

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Search and draw in turn."""
        with gradients():
            drawn = group.draw_seeds(group.generators(FIRST))
        audited, vanilla = group.predictor(1.0), self.vanilla_predictor(group, 1.0)
        predict, steps = group.predictor(self.guidance_scale), group.steps[: self.levels]
        seeds, measured = drawn, []

        def loss(moved: Tensor, step: int) -> Tensor:
            apart = discrepancy(audited, vanilla, as_typical(moved, drawn), steps)
            measured.append(apart.detach())
            return apart.sum()

        while True:
            with gradients():
                seeds = as_typical(minimise(loss, seeds, self.steps, self.lr), drawn)
            sound = torch.stack(measured).isfinite().all(0)[:, None, None, None]
            found = seeds.where(sound, torch.nan)
            known = torch.stack([measured[0], measured[-1]], 1)
            p_values = combined_p_value(typicality(found))
            latents = rollout_rows(predict, found, group.steps)
            yield Attempt(latents, {SEED: found, "discrepancy": known}, numbers={P_VALUE: p_values})
