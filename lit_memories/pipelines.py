"""Where models come from: pipelines in a folder or on the hub, and what their configuration says."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import nn

from lit_memories.ops.schedule import NoiseSchedule


def noise_schedule(config: dict[str, Any]) -> NoiseSchedule:
    """DDIM's schedule with a scheduler's settings: whatever sampler a model was released with, audits use DDIM."""
    ddim = DDIMScheduler.from_config(config)
    return NoiseSchedule(
        alphas_cumprod=ddim.alphas_cumprod.double(),
        final_alpha_cumprod=float(ddim.final_alpha_cumprod),
        timestep_spacing=ddim.config.timestep_spacing,
        steps_offset=ddim.config.steps_offset,
        prediction_type=ddim.config.prediction_type,
    )


def load_pipeline(base: str, revision: str | None, dtype: torch.dtype) -> StableDiffusionPipeline:
    """A pipeline from a folder or the hub, from safetensors only.

    Raises:
        FileNotFoundError: if `base` is neither a pipeline folder nor a reachable hub id.
    """
    if Path(base).exists() and not (Path(base) / "model_index.json").is_file():
        kind = "a pickle or single file" if Path(base).is_file() else "a folder without model_index.json"
        raise FileNotFoundError(
            f"{base} is {kind}, not a diffusers pipeline: pass the folder that `save_pretrained` wrote"
        )
    try:
        return StableDiffusionPipeline.from_pretrained(
            base,
            revision=revision,
            low_cpu_mem_usage=False,
            dtype=dtype,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"cannot load a pipeline from {base!r}: {first}") from error


def check_finite(module: nn.Module, where: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"weights of the {where} are not finite: {name} holds NaN or infinity; the file is damaged"
            )


def randomise(unet: Any) -> None:
    """Draw a U-Net's weights anew from its configuration, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = type(unet).from_config(unet.config)
    unet.load_state_dict(fresh.state_dict())
