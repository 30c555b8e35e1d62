r"""The continuous levels of a rectified flow: of Stable Diffusion 3 and FLUX.

A flow's latents are :math:`(1-s)\, x + s\, \epsilon`, s from 1, noise alone, to 0. Above the network they are in the
scale of `ops.path` like all others'.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lit_memories.ops.path import DDIMStep, PredictionType
from lit_memories.ops.schedule import NoiseSchedule, check_count, check_ladder

LEVELS = (0.95, 0.03)
"""Between which levels s an integral over levels runs: log SNR from -6 to 7, as in Stable Diffusion. Beyond, networks
are hardly trained, and models hardly differ."""


@dataclass(frozen=True)
class FlowSchedule(NoiseSchedule):
    r"""Levels s of (0, 1], of which the network is told s times `scale`.

    Sampling goes through evenly spaced levels, shifted towards noise, :math:`s' = m s / (1 + (m - 1) s)` (Esser et al.
    2024, arXiv:2403.03206, eq. 23), and agrees with diffusers' `FlowMatchEulerDiscreteScheduler`.

    Args:
        scale: the scheduler's ``num_train_timesteps``.
        shift: m, above 0; of a shift that depends on the picture's size its value at the model's.
        lowest: the last level before it is shifted, in (0, 1); None for 1 over the number of steps (FLUX's pipeline).
        shift_terminal: the last level after it is shifted, to which all are stretched; None leaves them.
        prediction_type: noise less picture; there is no other.
    """

    scale: int = 1000
    shift: float = 1.0
    lowest: float | None = None
    shift_terminal: float | None = None
    prediction_type: PredictionType = "flow_prediction"

    @property
    def num_train_timesteps(self) -> int:
        """The timestep of noise alone."""
        return self.scale

    @property
    def predicts(self) -> PredictionType:
        """What the network does: noise less picture."""
        return "flow_prediction"

    def alphas_at(self, timesteps: Tensor) -> Tensor:
        """Cumulative alphas (n,), float64, at timesteps (n,), where those are."""
        s = timesteps.double() / self.scale
        return (1 - s).square() / ((1 - s).square() + s.square())

    def alpha(self, timestep: float) -> float:
        """The cumulative alpha at a timestep."""
        s = timestep / self.scale
        return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)

    def shifted(self, s: float) -> float:
        """A level s, shifted.

        Example:
            >>> FlowSchedule(shift=3.0).shifted(0.5)
            0.75
        """
        return self.shift * s / (1 + (self.shift - 1) * s)

    def levels(self, num_inference_steps: int) -> list[float]:
        """Levels at which a run asks the network, from 1 on.

        Raises:
            ValueError: if there is no such number of steps.
        """
        check_count(num_inference_steps, self.scale)
        lowest = 1 / num_inference_steps if self.lowest is None else self.lowest
        even = torch.linspace(1, lowest, num_inference_steps, dtype=torch.float64).tolist()
        found = [self.shifted(s) for s in even]
        if self.shift_terminal is not None and num_inference_steps > 1:
            stretch = (1 - self.shift_terminal) / (1 - found[-1])
            found = [1 - (1 - s) * stretch for s in found]
        return found

    def ddim_steps(self, num_inference_steps: int) -> list[DDIMStep]:
        """The transitions of a run, as `FlowMatchEulerDiscreteScheduler.step` takes them."""
        return self._steps(self.levels(num_inference_steps))

    def ladder(self, count: int, whole: bool = False) -> list[DDIMStep]:
        """Levels between `LEVELS`; the last step ends in the picture.

        Example:
            >>> [round(step.timestep) for step in FlowSchedule().ladder(3)]
            [950, 434, 30]
        """
        check_ladder(count)
        high, low = (math.log(s / (1 - s)) for s in LEVELS)
        between = torch.linspace(high, low, count, dtype=torch.float64).sigmoid().tolist()
        return self._steps([1.0, *between] if whole else between)

    def _steps(self, levels: list[float]) -> list[DDIMStep]:
        timesteps = [s * self.scale for s in levels]
        alphas = [*map(self.alpha, timesteps), 1.0]
        return [DDIMStep(t, alphas[i], alphas[i + 1], self.predicts) for i, t in enumerate(timesteps)]

    def draw_timesteps(self, count: int, generator: Generator) -> Tensor:
        """Logit-normal ones (Esser et al. 2024, section 3.1), shifted as in sampling."""
        drawn = torch.randn(count, generator=generator).sigmoid().tolist()
        return torch.tensor([self.shifted(s) * self.scale for s in drawn])

    def network_latents(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Latents (n, c, h, w) as the flow has them, smaller in the middle of the path."""
        here = self.frames(timesteps, latents)
        return latents / (here.cosine + here.sine)
