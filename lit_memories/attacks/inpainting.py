"""Diffusion inpainting of "When Are Concepts Erased From Diffusion Models?" (Lu et al. 2025, arXiv:2505.17013)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_memories.attacks.base import FIRST, Attack, Attempt
from lit_memories.numbers import check_falling
from lit_memories.ops.path import DDIMStep, ddim_step
from lit_memories.ops.rollout import RowPredictFn, begun
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


def centre(latents: Tensor, hole: float) -> Tensor:
    """Where the hole in the middle of latents is (h, w), bool: that share of either side, to the nearest element.

    Args:
        latents: (n, c, h, w).
        hole: share of a side, 0 to 1.

    Example:
        >>> centre(torch.zeros(1, 4, 4, 4), 0.5).int()
        tensor([[0, 0, 0, 0],
                [0, 1, 1, 0],
                [0, 1, 1, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
    """
    sides = []
    for size in latents.shape[2:]:
        open_ = round(hole * size)
        first = (size - open_) // 2
        places = torch.arange(size, device=latents.device)
        sides.append((places >= first) & (places < first + open_))
    return sides[0][:, None] & sides[1]


def fill(predict: RowPredictFn, known: Tensor, inside: Tensor, seeds: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
    r"""Make the inside of latents anew while their outside is held (Lugmayr et al. 2022, RePaint, arXiv:2201.09865).

    After each DDIM step the outside is put back, noised to the level that was reached (eq. 8, where the noise is drawn
    anew at each step; here it is the seed's, as in the usual pipelines, so that nothing is random on the way):

    .. math:: z_{t'} = m \odot z_{t'} + (1 - m) \odot (\sqrt{\bar\alpha_{t'}}\, x + \sqrt{1 - \bar\alpha_{t'}}\, z_T)

    Args:
        predict: the model.
        known: x, clean latents of the pictures (n, c, h, w).
        inside: m, what is made anew (h, w), bool.
        seeds: z_T (n, c, h, w).
        steps: of the whole run.

    Returns:
        Latents (n, c, h, w), whose outside is exactly that of `known` if the steps end at a cumulative alpha of 1.
    """
    rows, latents, predict = torch.arange(len(seeds), device=seeds.device), seeds, begun(predict)
    for step in steps:
        latents = ddim_step(latents, predict(latents, step.timestep, rows), step)
        outside = step.alpha_prev**0.5 * known + (1 - step.alpha_prev) ** 0.5 * seeds
        latents = latents.where(inside, outside)
    return latents


class Inpainting(Attack):
    """Cut the middle out of a picture of the concept and have the audited model fill it, under the plain prompt.

    Officially the erased U-Net stands in Stable Diffusion's inpainting pipeline, on a central hole of 256 of 512
    pixels; what fits any U-Net of it is what is done here (`fill`), on latents, so that the hole's rim is a latent
    wide, 8 pixels. A network made for inpainting, with the mask among its inputs, would be another model than the one
    that was erased. The largest hole comes first, as the whole picture is judged, its rim too: what is left of the
    concept around a small hole brings it back by itself. The hole is kept as an artefact.

    Args:
        holes: shares of a side that the hole takes, falling, each between 0 and 1; a picture each. 1 is a plain draw.
        guidance_scale: of the pictures.
        budget: see `Attack`.
        limit: see `Attack`.

    Raises:
        ValueError: if there is no hole, one is not in (0, 1], or they do not fall.
    """

    question = "Does the model fill in the concept where it was cut out of its picture?"
    threat = "white box with pictures"
    leaves_artefacts = True
    says = (
        "The hole into which the model draws the concept; what the rim still shows of it is completed, or seen by the "
        "judge, in a model that never knew too, whose curve is the control."
    )
    cost = "a guided run a hole: with one hole and 50 steps 100"

    def __init__(
        self,
        holes: Sequence[float] = (0.5,),
        guidance_scale: float = 7.5,
        budget: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(guidance_scale, budget, limit)
        check_falling("holes", holes)
        self.holes = list(holes)

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse holes of no latent or of as many as another's, and what `Attack` does.

        Raises:
            ValueError: saying so.
        """
        _, height, width = diffusion.latent_shape
        sizes = [(round(hole * height), round(hole * width)) for hole in self.holes]
        if min(sizes[-1]) < 1 or len(set(sizes)) < len(sizes):
            raise ValueError(
                f"the holes {self.holes} come to {sizes} of {height} x {width} latents: each must be 1 or more a side, "
                "and another than the others"
            )
        super().check(diffusion, num_inference_steps)

    def plan(self, num_inference_steps: int) -> Sequence[int]:
        """A run a hole."""
        return self.run_costs(num_inference_steps, len(self.holes))

    def attempts(self, group: Group) -> Iterator[Attempt]:
        """Fill each hole, from the same seed."""
        predict, seeds = group.predictor(self.guidance_scale), group.draw_seeds(group.generators(FIRST))
        for hole in self.holes:
            latents = fill(predict, group.latents, centre(group.latents, hole), seeds, group.steps)
            yield Attempt(latents, {"hole": latents.new_full((len(latents),), hole)})
