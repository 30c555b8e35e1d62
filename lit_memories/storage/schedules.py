"""Noise levels as a scheduler's configuration states them: audits sample by DDIM, or by Euler's steps of a flow."""

import math
from typing import Any, get_args

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from lit_memories.ops.flow import FlowSchedule
from lit_memories.ops.path import PredictionType
from lit_memories.ops.schedule import BetaSchedule, NoiseSchedule, TimestepSpacing

SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling")
"""What a flow's scheduler may be told besides its shift, none of which a model of text to images was released with."""


def noise_schedule(config: dict[str, Any], places: int = 4096, even: bool = False) -> NoiseSchedule:
    """The levels that a scheduler's settings give, whatever sampler a model was released with.

    Args:
        config: of the scheduler.
        places: tokens of a picture of the model's size, on which a flow's shift may depend.
        even: whether the pipeline gives a flow's levels itself, from 1 to 1 over the number of steps, as FLUX's does.

    Raises:
        ValueError: if it has neither betas nor a flow's shift, its betas are no noise that grows, it ends in noise
            alone of which the network predicts the noise, or spacing, prediction or shift are unknown.
    """
    name = config.get("_class_name", "")
    if "beta_schedule" in config:
        return _of_betas(config, name)
    if "shift" in config:
        return _of_flow(config, name, places, even)
    raise ValueError(
        f"noise levels of the scheduler {name} are neither DDIM's nor a flow's: supported are schedules given by "
        "betas, and FlowMatchEulerDiscreteScheduler"
    )


def _of_betas(config: dict[str, Any], name: str) -> BetaSchedule:
    ddim = DDIMScheduler.from_config(config)
    betas, alphas = ddim.betas.double(), ddim.alphas_cumprod.double()
    zero = bool(config.get("rescale_betas_zero_snr"))
    sound = len(betas) and bool(((betas[:-1] > 0) & (betas[:-1] < 1)).all()) and 0 < float(betas[-1]) <= 1
    if not sound or (float(alphas[-1]) <= 0) is not zero or not bool((alphas[:-1] > 0).all()):
        raise ValueError(
            f"the betas of the scheduler {name} must lie between 0 and 1 and leave some signal, but for the last of a "
            "schedule with rescale_betas_zero_snr"
        )
    for entry, kind in (("timestep_spacing", TimestepSpacing), ("prediction_type", PredictionType)):
        known = [value for value in get_args(kind) if value != "flow_prediction"]
        if ddim.config[entry] not in known:
            raise ValueError(
                f"{entry} of the scheduler {name} is {ddim.config[entry]!r}: supported are {', '.join(known)}"
            )
    if zero and ddim.config.prediction_type == "epsilon":
        raise ValueError(
            f"the scheduler {name} begins at noise alone (rescale_betas_zero_snr), where predicted noise says nothing: "
            "its prediction_type must be v_prediction or sample"
        )
    return BetaSchedule(
        alphas_cumprod=alphas,
        final_alpha_cumprod=float(ddim.final_alpha_cumprod),
        timestep_spacing=ddim.config.timestep_spacing,
        steps_offset=ddim.config.steps_offset,
        prediction_type=ddim.config.prediction_type,
    )


def _of_flow(config: dict[str, Any], name: str, places: int, even: bool) -> FlowSchedule:
    if odd := [entry for entry in SPACINGS if config.get(entry)]:
        raise ValueError(f"the scheduler {name} has {odd[0]}, which is not supported: set it to false")
    count = config.get("num_train_timesteps", 1000)
    if config.get("use_dynamic_shifting"):
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        kind = config.get("time_shift_type", "exponential")
        if high <= low or kind not in {"exponential", "linear"}:
            raise ValueError(
                f"the scheduler {name} has an unknown shift: time_shift_type {kind!r} between {low} and {high} tokens; "
                "supported are exponential and linear, and sizes that grow"
            )
        mu = base + (most - base) * (places - low) / (high - low)
        shift, lowest = math.exp(mu) if kind == "exponential" else mu, 1 / count
    else:
        shift = float(config["shift"])
        lowest = shift / count / (1 + (shift - 1) / count)  # the lowest of its own levels, which are shifted
    terminal = config.get("shift_terminal") or None
    if not 0 < shift < math.inf or (terminal is not None and not 0 < terminal < 1):
        raise ValueError(
            f"the scheduler {name} has an unknown shift: {shift:g}, ending at {terminal or 0:g}; it must be above 0, "
            "and end in [0, 1)"
        )
    return FlowSchedule(count, shift, None if even else lowest, terminal)


def scheduler_of(config: dict[str, Any]) -> Any:
    """The scheduler of diffusers that samples as audits do, with a model's settings: DDIM's, or a flow's own."""
    if "beta_schedule" not in config:
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    # Latents have no range to be cut to, whatever a scheduler of another class leaves to DDIM's default.
    return DDIMScheduler.from_config(config, clip_sample=False)
