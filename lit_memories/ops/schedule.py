r"""DDIM's algebra as pure functions; agrees with diffusers' `DDIMScheduler` for every spacing option.

With :math:`\bar\alpha_t` the cumulative alphas, one deterministic DDIM step (Song et al. 2021, eq. 12, :math:`\eta=0`)
from level :math:`t` to level :math:`t'` is

.. math:: z_{t'} = \sqrt{\bar\alpha_{t'}/\bar\alpha_t}\, z_t
    + \left(\sqrt{1-\bar\alpha_{t'}} - \sqrt{\bar\alpha_{t'}/\bar\alpha_t}\sqrt{1-\bar\alpha_t}\right) \epsilon

and its inverse, linear in :math:`z_{t'}` once :math:`\epsilon` is known, has the same form with the levels exchanged.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor

from lit_memories.ops.everywhere import Everywhere

TimestepSpacing = Literal["leading", "linspace", "trailing"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]


def ddim_timesteps(
    num_inference_steps: int,
    num_train_timesteps: int = 1000,
    timestep_spacing: TimestepSpacing = "leading",
    steps_offset: int = 0,
) -> list[int]:
    """Timesteps of a DDIM run, from noise to image.

    Args:
        num_inference_steps: number of steps, 1 to `num_train_timesteps`.
        num_train_timesteps: length of the training schedule.
        timestep_spacing: as diffusers names it (Lin et al. 2024, table 2).
        steps_offset: added to every timestep of ``"leading"``.

    Raises:
        ValueError: if the number of steps is out of range, with the offset too, or the spacing unknown.

    Example:
        >>> ddim_timesteps(4, 1000, "leading", 1)
        [751, 501, 251, 1]
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise ValueError(f"num_inference_steps must be in 1..{num_train_timesteps}, got {num_inference_steps}")
    if timestep_spacing == "leading":
        whole = num_train_timesteps // num_inference_steps
        if (first := (num_inference_steps - 1) * whole + steps_offset) >= num_train_timesteps:
            raise ValueError(
                f"{num_inference_steps} inference steps would begin at timestep {first}, and the model knows "
                f"0..{num_train_timesteps - 1}: choose fewer"
            )
        return [i * whole + steps_offset for i in reversed(range(num_inference_steps))]
    if timestep_spacing == "linspace":
        stride = (num_train_timesteps - 1) / max(1, num_inference_steps - 1)
        return [round(i * stride) for i in reversed(range(num_inference_steps))]
    if timestep_spacing == "trailing":
        # numpy's arange takes the rounded difference of the first two values as its stride; halves depend on that.
        stride = (num_train_timesteps - num_train_timesteps / num_inference_steps) - num_train_timesteps
        return [round(num_train_timesteps + i * stride) - 1 for i in range(num_inference_steps)]
    raise ValueError(f"unknown timestep_spacing {timestep_spacing!r}: choose leading, linspace or trailing")


@dataclass(frozen=True)
class DDIMStep:
    """One transition of a DDIM run: from `alpha` (at `timestep`) down to `alpha_prev`; both cumulative."""

    timestep: int
    alpha: float
    alpha_prev: float


@dataclass(frozen=True)
class NoiseSchedule:
    """A model's noise levels, as its scheduler configuration states them.

    Args:
        alphas_cumprod: cumulative alphas (num_train_timesteps,), float64.
        final_alpha_cumprod: level below timestep 0 (1, or the first alpha with ``set_alpha_to_one: false``).
        timestep_spacing: see `ddim_timesteps`.
        steps_offset: see `ddim_timesteps`.
        prediction_type: what the network predicts.
    """

    alphas_cumprod: Tensor
    final_alpha_cumprod: float
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: int = 1
    prediction_type: PredictionType = "epsilon"

    @cached_property
    def _alphas(self) -> Everywhere:
        return Everywhere(self.alphas_cumprod)

    def alphas_at(self, timesteps: Tensor) -> Tensor:
        """Cumulative alphas (n,), float64, at integer timesteps (n,), where those are."""
        return self._alphas.on(timesteps.device)[timesteps]

    @property
    def num_train_timesteps(self) -> int:
        """Length of the training schedule."""
        return len(self.alphas_cumprod)

    def alpha(self, timestep: int) -> float:
        """The cumulative alpha at a timestep; below 0 the final one."""
        return float(self.alphas_cumprod[timestep]) if timestep >= 0 else self.final_alpha_cumprod

    def ddim_steps(self, num_inference_steps: int) -> list[DDIMStep]:
        """The transitions of a DDIM run, from noise to image, as `DDIMScheduler.step` takes them."""
        timesteps = ddim_timesteps(
            num_inference_steps, self.num_train_timesteps, self.timestep_spacing, self.steps_offset
        )
        stride = self.num_train_timesteps // num_inference_steps
        return [DDIMStep(t, self.alpha(t), self.alpha(t - stride)) for t in timesteps]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Diffuse latents (n, c, h, w) to integer `timesteps` (n,)."""
        alpha = self.alphas_at(timesteps)[:, None, None, None]
        return alpha.sqrt().to(latents.dtype) * latents + (1 - alpha).sqrt().to(latents.dtype) * noise

    def noised(self, latents: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents diffused to uniform random timesteps: the noisy latents, the timesteps (n,), and the noise."""
        timesteps = torch.randint(self.num_train_timesteps, (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return self.add_noise(latents, noise, timesteps), timesteps, noise

    def to_epsilon(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Whatever the network predicts at `timesteps` (n,), as the noise epsilon (Salimans & Ho 2022, app. D)."""
        if self.prediction_type == "epsilon":
            return prediction
        alpha = self.alphas_at(timesteps)[:, None, None, None]
        signal, noise = alpha.sqrt().to(latents.dtype), (1 - alpha).sqrt().to(latents.dtype)
        if self.prediction_type == "v_prediction":
            return signal * prediction + noise * latents
        return (latents - signal * prediction) / noise


def ddim_coefficients(alpha_from: float, alpha_to: float) -> tuple[float, float]:
    """Coefficients (a, b) of ``a * latents + b * noise``, which moves latents between two noise levels.

    Args:
        alpha_from: cumulative alpha of the level the latents are at, in (0, 1].
        alpha_to: cumulative alpha of the level to reach, in (0, 1].

    Example:
        >>> ddim_coefficients(0.25, 1.0)
        (2.0, -1.7320508075688772)
    """
    a = (alpha_to / alpha_from) ** 0.5
    return a, (1 - alpha_to) ** 0.5 - a * (1 - alpha_from) ** 0.5


def ddim_step(latents: Tensor, noise: Tensor, step: DDIMStep) -> Tensor:
    """One DDIM step towards the image: latents (n, c, h, w) at ``step.alpha`` to ``step.alpha_prev``."""
    a, b = ddim_coefficients(step.alpha, step.alpha_prev)
    return a * latents + b * noise


def ddim_inverse_coefficients(step: DDIMStep) -> tuple[float, float]:
    """Coefficients (a, b) of the inverse step ``z_t = a * z_prev + b * epsilon(z_t)``: implicit, as z_t is unknown."""
    return ddim_coefficients(step.alpha_prev, step.alpha)


def ddim_eta_step(
    latents: Tensor, noise: Tensor, fresh: Tensor, step: DDIMStep, eta: float, scale: float = 1.0
) -> Tensor:
    r"""One DDIM step that adds fresh noise, more of it than the model was trained to take away if `eta` is above 1.

    .. math:: z_{t'} = \sqrt{\bar\alpha_{t'}}\, \hat z_0 + \sqrt{|1 - \bar\alpha_{t'} - \eta^2 \sigma^2|}\; \epsilon
        + s\, \eta\, \sigma\, z, \qquad
        \sigma^2 = \frac{1 - \bar\alpha_{t'}}{1 - \bar\alpha_t} \Big(1 - \frac{\bar\alpha_t}{\bar\alpha_{t'}}\Big)

    With a scale s of 1 and eta of at most 1 it is that of Song et al. 2021 (eq. 12 and 16): DDIM at 0, DDPM at 1.
    Beyond, what is left for the direction towards :math:`z_t` can be below zero, hence the absolute value: the
    noise-based probe of Lu et al. 2025, "When Are Concepts Erased From Diffusion Models?" (arXiv:2505.17013).

    Args:
        latents: z_t (n, c, h, w).
        noise: epsilon, predicted for them (n, c, h, w).
        fresh: z, of the prior (n, c, h, w).
        step: from which level to which.
        eta: share of DDPM's noise, 0 or more.
        scale: s, by which the fresh noise alone is raised.
    """
    kept, direction, added = ddim_eta_coefficients(step, eta)
    clean = (latents - (1 - step.alpha) ** 0.5 * noise) / step.alpha**0.5
    return kept * clean + direction * noise + scale * added * fresh


def ddim_eta_coefficients(step: DDIMStep, eta: float) -> tuple[float, float, float]:
    """Coefficients of the clean latents, the predicted and the fresh noise in `ddim_eta_step` with a scale of 1.

    Example:
        >>> ddim_eta_coefficients(DDIMStep(timestep=500, alpha=0.25, alpha_prev=1.0), 1.0)
        (1.0, 0.0, 0.0)
    """
    variance = eta**2 * (1 - step.alpha_prev) / (1 - step.alpha) * (1 - step.alpha / step.alpha_prev)
    return step.alpha_prev**0.5, abs(1 - step.alpha_prev - variance) ** 0.5, variance**0.5
