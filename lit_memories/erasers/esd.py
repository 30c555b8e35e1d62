"""ESD, Erased Stable Diffusion (Gandikota et al. 2023, arXiv:2303.07345)."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.targets import match


class ESD(RolloutEraser):
    r"""Pulls the prediction for the concept to the original model's negatively guided one (eq. 7).

    .. math:: \lVert \epsilon_\theta(x_t, c) - (\epsilon_0(x_t, \emptyset)
        - \eta [\epsilon_0(x_t, c) - \epsilon_0(x_t, \emptyset)]) \rVert^2

    with :math:`x_t` from a DDIM run on a prompt :math:`c`, stopped at a random step. With ``direction: phrase`` it is
    erased *from* wider prompts (the official ``erase_from``): the target becomes :math:`\epsilon_0(c) -
    \eta[\epsilon_0(d) - \epsilon_0(\emptyset)]`, so that only what :math:`d` adds is taken off.

    Of a flow :math:`\epsilon` stands for the velocity, noise less picture: the target keeps its form, as velocity is
    affine in noise where latents are given.

    ``train``: esd-x is ``attn2``, esd-x-strict ``attn2-kv``, esd-u ``not-attn2``, selfattn ``attn1``, notime
    ``not-time``, esd-all ``full``; xlayer and selflayer as called there.
    Of a transformer ``attn`` is what ESD's code for FLUX trains as esd-x; see `lit_memories.ops.select`.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        rollout_with: who runs: the frozen original (official code of 2025) or the model in training (paper, 2023).
        faithful: reproduce the 2023 code's level mismatch: the run drops its first step, so latents are 39 to 58 levels
            cleaner than the timestep given to the networks says.
        **options: see `RolloutEraser` and `Eraser`.

    Raises:
        ValueError: if the code of 2023 is to be followed on a flow, which has none of its levels.
    """

    several = True

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        rollout_with: Literal["teacher", "student"] = "teacher",
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, **options)
        if faithful and diffusion.schedule.prediction_type == "flow_prediction":
            raise ValueError(
                f"faithful is ESD's code of 2023 with DDIM's levels, and {diffusion.base} is a flow: leave it out"
            )
        self.rollout_with, self.faithful = rollout_with, faithful

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equation 7 at one random level."""
        generator = self.generator()
        prompts = draw(batch["prompts"], self.batch_size, generator)
        latents, timestep = self.noisy_latents(prompts, generator)
        with self.teacher():
            target = self.negated(latents, timestep, prompts)
        return match(self.predict(latents, timestep, prompts), target)

    def noisy_latents(self, prompts: Sequence[str], generator: Generator) -> tuple[Tensor, float]:
        """Latents (n, c, h, w) on the way to an image of `prompts`, and the timestep they are said to be at."""
        run = self.mismatched if self.faithful else self.stopped
        if self.rollout_with == "student":
            return run(prompts, generator)
        with self.teacher():
            return run(prompts, generator)
