"""What ESD, SPM and AdvUnlearn share: latents on the way to an image of the concept, and the negated target."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.ops.rollout import rollout
from lit_memories.ops.targets import negate


class RolloutEraser(Eraser):
    """An eraser that needs prompts only: it works where a run, DDIM's or a flow's, stopped at a random step.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        eta: strength of the negated target, in ESD's form; the official 2025 code's default of 2 without
            ``erase_from`` is 1 here.
        direction: what is taken off: all that the ``prompt`` says (the papers' form), or only what the concept's own
            ``phrase`` adds to it (ESD's official ``erase_from``).
        num_inference_steps: length of the run.
        start_guidance: guidance scale of the run; of a guidance-distilled model (FLUX-dev) the input that it takes.
            The network's predictions in the loss are without guidance, with an input of 1, as in ESD's code for FLUX.
        **options: see `Eraser`.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        eta: float = 1.0,
        direction: Literal["prompt", "phrase"] = "prompt",
        num_inference_steps: int = 50,
        start_guidance: float = 3.0,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, **options)
        if eta < 0:
            raise ValueError(f"eta cannot be negative, got {eta}")
        diffusion.schedule.ddim_steps(num_inference_steps)  # refuses an impossible number
        if start_guidance != 1 and not diffusion.denoiser.guidable:
            raise ValueError(
                f"start_guidance must be 1 for {diffusion.base}, got {start_guidance:g}: it was distilled to few steps "
                "without guidance"
            )
        self.eta, self.direction = eta, direction
        self.num_inference_steps, self.start_guidance = num_inference_steps, start_guidance

    def probe_target(self, latents: Tensor, timestep: float, prompts: Sequence[str]) -> Tensor:
        """The negatively guided prediction."""
        return self.negated(latents, timestep, prompts)

    def negated(self, latents: Tensor, timesteps: float | Tensor, prompts: Sequence[str]) -> Tensor:
        r"""ESD's target :math:`\epsilon(\emptyset) - \eta[\epsilon(c) - \epsilon(\emptyset)]` for prompts c.

        With ``direction: phrase`` it is :math:`\epsilon(c) - \eta[\epsilon(d) - \epsilon(\emptyset)]`, d the phrase.
        Call it inside `teacher`.
        """
        none = [""] * len(latents)
        if self.direction == "prompt":
            empty, concept = self.predict_all(latents, timesteps, none, prompts)
            return negate(empty, concept, empty, self.eta)
        phrase = [self.concept.of(prompt).phrase for prompt in prompts]
        empty, concept, wide = self.predict_all(latents, timesteps, none, phrase, prompts)
        return negate(wide, concept, empty, self.eta)

    def predict_all(self, latents: Tensor, timesteps: float | Tensor, *prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """Predictions at the same latents under several lists of prompts, in one call."""
        many = len(prompts)
        if isinstance(timesteps, Tensor):
            timesteps = timesteps.repeat(many)
        flat = [prompt for group in prompts for prompt in group]
        return self.predict(latents.repeat(many, 1, 1, 1), timesteps, flat).chunk(many)

    @torch.no_grad()
    def stopped(
        self, prompts: Sequence[str] | Tensor, generator: Generator, k: int | None = None
    ) -> tuple[Tensor, float]:
        """Latents (n, c, h, w) after `k` steps towards images of `prompts`, and their timestep.

        Args:
            prompts: n of them, or their embeddings (n, rows, width).
            generator: of the noise.
            k: how many steps; at random if None.
        """
        steps = self.diffusion.schedule.ddim_steps(self.num_inference_steps)
        seeds = torch.randn(len(prompts), *self.diffusion.latent_shape, generator=generator).to(self.device)
        if k is None:
            k = int(torch.randint(len(steps), (1,), generator=generator))
        embeds = prompts if isinstance(prompts, Tensor) else self.diffusion.encode_prompts(prompts)
        predict = self.diffusion.predict_fn(embeds, self.start_guidance)
        return rollout(predict, seeds, steps[:k]), steps[k].timestep

    @torch.no_grad()
    def mismatched(
        self, prompts: Sequence[str] | Tensor, generator: Generator, k: int | None = None
    ) -> tuple[Tensor, float]:
        """As ESD's code of 2023 has it: the run drops its first step, so latents are cleaner than the timestep says.

        Args:
            prompts: n of them, or their embeddings (n, rows, width).
            generator: of the noise and the timestep.
            k: how many of the run's steps are left, counted from the clean end; at random if None.
        """
        steps = self.diffusion.schedule.ddim_steps(self.num_inference_steps)
        seeds = torch.randn(len(prompts), *self.diffusion.latent_shape, generator=generator).to(self.device)
        if k is None:
            k = int(torch.randint(len(steps), (1,), generator=generator))
        width = self.diffusion.schedule.num_train_timesteps // len(steps)
        timestep = width * k + int(torch.randint(width, (1,), generator=generator))
        embeds = prompts if isinstance(prompts, Tensor) else self.diffusion.encode_prompts(prompts)
        predict = self.diffusion.predict_fn(embeds, self.start_guidance)
        return rollout(predict, seeds, steps[1:][: len(steps) - k]), timestep
