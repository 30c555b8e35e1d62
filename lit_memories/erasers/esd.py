"""ESD, Erased Stable Diffusion (Gandikota et al. 2023, arXiv:2303.07345)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Batch, Eraser, draw
from lit_memories.ops.rollout import rollout
from lit_memories.ops.select import Selection
from lit_memories.ops.targets import match, negate


class ESD(Eraser):
    r"""Pulls the prediction for the concept to the original model's negatively guided one (eq. 7).

    .. math:: \lVert \epsilon_\theta(x_t, c) - (\epsilon_0(x_t, \emptyset)
        - \eta [\epsilon_0(x_t, c) - \epsilon_0(x_t, \emptyset)]) \rVert^2

    with :math:`x_t` from a DDIM run on a prompt :math:`c`, stopped at a random step. With ``direction: phrase`` it is
    erased *from* wider prompts (the official ``erase_from``): the target becomes :math:`\epsilon_0(c) -
    \eta[\epsilon_0(d) - \epsilon_0(\emptyset)]`, so that only what :math:`d` adds is taken off.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: esd-x is ``attn2``, esd-x-strict ``attn2-kv``, esd-u ``not-attn2``, selfattn ``attn1``, notime
            ``not-time``, esd-all ``full``; xlayer and selflayer as called there.
        eta: strength, in the paper's form; the official 2025 code's default of 2 without ``erase_from`` is 1 here.
        direction: what is taken off: all that the ``prompt`` says (the paper's form), or only what the concept's own
            ``phrase`` adds.
        lr: learning rate of Adam.
        batch_size: latents a step; the official code has 1.
        num_inference_steps: length of the DDIM run.
        start_guidance: guidance scale of the run.
        rollout_with: who runs: the frozen original (official code of 2025) or the model in training (paper, 2023).
        faithful: reproduce the 2023 code's level mismatch: the run drops its first step, so latents are 39 to 58 levels
            cleaner than the timestep given to the networks says.
        **options: see `Eraser`.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "attn2",
        eta: float = 1.0,
        direction: Literal["prompt", "phrase"] = "prompt",
        lr: float = 1e-5,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        start_guidance: float = 3.0,
        rollout_with: Literal["teacher", "student"] = "teacher",
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train, lr, **options)
        if eta < 0 or batch_size < 1:
            raise ValueError(f"eta ({eta}) cannot be negative, batch_size ({batch_size}) at least 1")
        self.eta, self.direction, self.batch_size = eta, direction, batch_size
        self.num_inference_steps, self.start_guidance = num_inference_steps, start_guidance
        self.rollout_with, self.faithful = rollout_with, faithful

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equation 7 at one random level."""
        generator = self.generator()
        prompts = draw(batch["prompts"], self.batch_size, generator)
        latents, timestep = self.noisy_latents(prompts, generator)
        with self.teacher():
            target = self.probe_target(latents, timestep, prompts)
        predicted = self.diffusion.predict_noise(latents, timestep, self.diffusion.encode_prompts(prompts))
        return match(predicted, target)

    def probe_target(self, latents: Tensor, timestep: int, prompts: Sequence[str]) -> Tensor:
        """The negatively guided prediction."""
        none = [""] * len(latents)
        if self.direction == "prompt":
            empty, concept = self._predict_all(latents, timestep, none, prompts)
            return negate(empty, concept, empty, self.eta)
        phrase = [self.concept.phrase] * len(latents)
        empty, concept, wide = self._predict_all(latents, timestep, none, phrase, prompts)
        return negate(wide, concept, empty, self.eta)

    def _predict_all(self, latents: Tensor, timestep: int, *prompts: Sequence[str]) -> tuple[Tensor, ...]:
        embeds = self.diffusion.encode_prompts([prompt for group in prompts for prompt in group])
        return self.diffusion.predict_noise(latents.repeat(len(prompts), 1, 1, 1), timestep, embeds).chunk(len(prompts))

    @torch.no_grad()
    def noisy_latents(self, prompts: Sequence[str], generator: Generator) -> tuple[Tensor, int]:
        """Latents (n, c, h, w) on the way to an image of `prompts`, and the timestep they are at."""
        seeds = torch.randn(len(prompts), *self.diffusion.latent_shape, generator=generator).to(self.device)
        predict_noise = self.diffusion.noise_fn(self.diffusion.encode_prompts(prompts), self.start_guidance)
        steps = self.diffusion.schedule.ddim_steps(self.num_inference_steps)
        k = int(torch.randint(len(steps), (1,), generator=generator))
        timestep, path = steps[k].timestep, steps[:k]
        if self.faithful:
            width = self.diffusion.schedule.num_train_timesteps // len(steps)
            timestep = width * k + int(torch.randint(width, (1,), generator=generator))
            path = steps[1:][: len(steps) - k]
        if self.rollout_with == "student":
            return rollout(predict_noise, seeds, path), timestep
        with self.teacher():
            return rollout(predict_noise, seeds, path), timestep

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters for the artefact's provenance."""
        names = ("eta", "direction", "batch_size", "num_inference_steps", "start_guidance", "rollout_with", "faithful")
        return super().settings() | {name: getattr(self, name) for name in names}
