"""What attacks share that also have the model from before the erasure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lit_memories.attacks.base import Attack
from lit_memories.inverters.base import PromptedPredictor
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


class VanillaAttack(Attack):
    """An attack with a second model, usually the base that the audited one was erased from.

    Args:
        vanilla: the other model; in a recipe ``vanilla: {base: FOLDER}``. There is no attack without.
        **options: see `Attack`.
    """

    def __init__(self, vanilla: "Diffusion | None" = None, **options: Any) -> None:
        super().__init__(**options)
        self.vanilla = vanilla

    def check(self, diffusion: "Diffusion", num_inference_steps: int) -> None:
        """Refuse another model whose latents or noise levels are not the audited one's.

        Args:
            diffusion: the audited model.
            num_inference_steps: of the audit.

        Raises:
            ValueError: saying what differs, or that there is no other model, or what the budget lacks.
        """
        from lit_memories.identity import autoencoder_of  # reports, which know attacks by name, load no networks

        super().check(diffusion, num_inference_steps)
        vanilla = self._given()
        steps = diffusion.schedule.ddim_steps(num_inference_steps)
        differ = {
            f"latents are {vanilla.latent_shape}, not {diffusion.latent_shape}": (
                vanilla.latent_shape != diffusion.latent_shape
            ),
            "timesteps mean other noise levels": vanilla.schedule.num_train_timesteps
            != diffusion.schedule.num_train_timesteps
            or any(vanilla.schedule.alpha(step.timestep) != step.alpha for step in steps),
            "autoencoder is another": autoencoder_of(vanilla) != autoencoder_of(diffusion),
        }
        for what, differs in differ.items():
            if differs:
                raise ValueError(
                    f"the attack {self.name} cannot go from {vanilla.base} to {diffusion.base}, as its {what}: give "
                    "the audited model's base as vanilla"
                )

    def vanilla_predictor(
        self, group: Group, guidance_scale: float, prompts: Sequence[str] | None = None
    ) -> PromptedPredictor:
        """The other model's predictions under prompts, its evaluations counted with the attack's.

        Args:
            group: the samples; the model goes to where they are.
            guidance_scale: of the predictions.
            prompts: one a row; the samples' own if None.
        """
        with torch.inference_mode(False):  # else its weights, moved, could bear no gradient of what it is given
            vanilla = self._given().to(group.rows.device)
        asked = group.prompts if prompts is None else prompts
        embeds = torch.cat([vanilla.encode_prompts([prompt]) for prompt in asked])  # each alone
        return group.predictor_of(embeds.float(), guidance_scale, vanilla)

    def _given(self) -> "Diffusion":
        if self.vanilla is None:
            raise ValueError(
                f"the attack {self.name} needs the model from before the erasure: give it as vanilla, such as "
                "{base: FOLDER}"
            )
        return self.vanilla
