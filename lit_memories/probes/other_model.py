"""What probes and attacks share that also have the model from before the erasure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lit_memories.inverters.base import PromptedPredictor
from lit_memories.probes.base import Group

if TYPE_CHECKING:
    from lit_memories.diffusion import Diffusion


def check_alike(who: str, diffusion: "Diffusion", vanilla: "Diffusion", num_inference_steps: int) -> None:
    """Refuse another model whose latents or noise levels are not the audited one's.

    Args:
        who: asks, for the message.
        diffusion: the audited model.
        vanilla: the other.
        num_inference_steps: of the audit.

    Raises:
        ValueError: saying what differs.
    """
    from lit_memories.identity import autoencoder_of  # reports, which know probes by name, load no networks

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
                f"{who} cannot go from {vanilla.base} to {diffusion.base}, as its {what}: give the audited model's "
                "base as vanilla"
            )


def other_predictor(
    group: Group, vanilla: "Diffusion", guidance_scale: float, prompts: Sequence[str] | None = None
) -> PromptedPredictor:
    """Another model's predictions under prompts, its evaluations counted with the group's.

    Args:
        group: the samples; the model goes to where they are.
        vanilla: the other model.
        guidance_scale: of the predictions.
        prompts: one a row; the samples' own if None.
    """
    with torch.inference_mode(False):  # else its weights, moved, could bear no gradient of what it is given
        vanilla = vanilla.to(group.rows.device)
    asked = group.prompts if prompts is None else prompts
    embeds = torch.cat([vanilla.encode_prompts([prompt]) for prompt in asked])  # each alone
    return group.predictor_of(embeds.float(), guidance_scale, vanilla)
