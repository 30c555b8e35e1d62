"""The noise levels that a model knows, on the path of `ops.path`; here those that are given by betas."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor

from lit_memories.ops.everywhere import Everywhere
from lit_memories.ops.path import DDIMStep, Frame, PredictionType, frame

TimestepSpacing = Literal["leading", "linspace", "trailing"]


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
    check_count(num_inference_steps, num_train_timesteps)
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


def check_count(num_inference_steps: int, most: int) -> None:
    """Refuse a number of steps that is not in 1..most."""
    if not 1 <= num_inference_steps <= most:
        raise ValueError(f"num_inference_steps must be in 1..{most}, got {num_inference_steps}")


class NoiseSchedule(ABC):
    """The levels that a model knows, as its scheduler's configuration states them.

    Attributes:
        prediction_type: what the network predicts.
    """

    prediction_type: PredictionType

    @property
    @abstractmethod
    def num_train_timesteps(self) -> int:
        """Length of the training schedule: timesteps lie below, or at it."""

    @property
    @abstractmethod
    def predicts(self) -> PredictionType:
        """What predictions are, everywhere above the network.

        Noise of models whose levels all hold some signal, whatever their networks give; of others what the network
        gives, as noise would say nothing at a level of noise alone.
        """

    @abstractmethod
    def alphas_at(self, timesteps: Tensor) -> Tensor:
        """Cumulative alphas (n,), float64, at timesteps (n,), where those are."""

    @abstractmethod
    def alpha(self, timestep: float) -> float:
        """The cumulative alpha at a timestep."""

    @abstractmethod
    def ddim_steps(self, num_inference_steps: int) -> list[DDIMStep]:
        """The transitions of a deterministic run, from noise to image, as the model's scheduler of diffusers has them.

        Raises:
            ValueError: if the model has no such number of steps.
        """

    @abstractmethod
    def ladder(self, count: int, whole: bool = False) -> list[DDIMStep]:
        r"""Levels that suit an integral over them: even in :math:`\log(\sigma / \alpha)`, noise first.

        What low-variance directions of the data contribute happens at low noise, over a range that is a ratio, not a
        difference. Of normal data with variance 0.01, 50 levels spaced as for sampling miss 0.025 nats an element of
        their likelihood, spaced like this 0.002.

        Args:
            count: levels, 2 or more; those that fall on one timestep are one.
            whole: begin with the level of noise alone, where the model knows it, besides.

        Raises:
            ValueError: if there are fewer than two levels, or the model knows one that is pure signal.
        """

    @abstractmethod
    def draw_timesteps(self, count: int, generator: Generator) -> Tensor:
        """Timesteps (count,) as training draws them, on the CPU."""

    def network_latents(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Latents (n, c, h, w) in the scale in which the network knows them at timesteps (n,)."""
        return latents

    def frames(self, timesteps: Tensor, like: Tensor, of: PredictionType | None = None) -> Frame:
        """What predictions are made of at timesteps (n,), for latents of a type.

        Args:
            timesteps: a sample's each.
            like: latents (n, c, h, w).
            of: which predictions; `predicts` if None.
        """
        found = frame(of or self.predicts, self.alphas_at(timesteps)[:, None, None, None])
        return Frame(*(x.to(like.dtype) if isinstance(x, Tensor) else x for x in vars(found).values()))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Diffuse latents (n, c, h, w) to `timesteps` (n,)."""
        here = self.frames(timesteps, latents)
        return here.cosine * latents + here.sine * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What is to be predicted of latents (n, c, h, w) that hold this noise at `timesteps` (n,)."""
        return noise if self.predicts == "epsilon" else self.frames(timesteps, latents).prediction(latents, noise)

    def noised(self, latents: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents diffused to random timesteps: the noisy latents, the timesteps (n,), and what is to be predicted."""
        timesteps = self.draw_timesteps(len(latents), generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return self.add_noise(latents, noise, timesteps), timesteps, self.target(latents, noise, timesteps)

    def from_network(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Whatever the network predicts for latents (n, c, h, w) at `timesteps` (n,), as `predicts` says."""
        if self.prediction_type == self.predicts:
            return prediction
        return self.frames(timesteps, latents, self.prediction_type).noise(prediction, latents)

    def to_noise(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The noise (n, c, h, w) that a prediction, as `predicts` says, finds in latents at `timesteps` (n,)."""
        return prediction if self.predicts == "epsilon" else self.frames(timesteps, latents).noise(prediction, latents)


@dataclass(frozen=True)
class BetaSchedule(NoiseSchedule):
    """Discrete levels given by betas: of DDPM, and of Stable Diffusion 1, 2 and XL.

    Args:
        alphas_cumprod: cumulative alphas (num_train_timesteps,), float64; the last may be 0 (zero terminal SNR).
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

    @property
    def num_train_timesteps(self) -> int:
        """Length of the training schedule."""
        return len(self.alphas_cumprod)

    @cached_property
    def predicts(self) -> PredictionType:
        """Noise, but for a model that knows noise alone (zero terminal SNR)."""
        return "epsilon" if float(self.alphas_cumprod[-1]) > 0 else self.prediction_type

    def alphas_at(self, timesteps: Tensor) -> Tensor:
        """Cumulative alphas (n,), float64, at integer timesteps (n,), where those are."""
        return self._alphas.on(timesteps.device)[timesteps]

    def alpha(self, timestep: float) -> float:
        """The cumulative alpha at a timestep; below 0 the final one."""
        return float(self.alphas_cumprod[int(timestep)]) if timestep >= 0 else self.final_alpha_cumprod

    def ddim_steps(self, num_inference_steps: int) -> list[DDIMStep]:
        """The transitions of a DDIM run, from noise to image, as `DDIMScheduler.step` takes them."""
        timesteps = ddim_timesteps(
            num_inference_steps, self.num_train_timesteps, self.timestep_spacing, self.steps_offset
        )
        stride = self.num_train_timesteps // num_inference_steps
        return [DDIMStep(t, self.alpha(t), self.alpha(t - stride), self.predicts) for t in timesteps]

    def ladder(self, count: int, whole: bool = False) -> list[DDIMStep]:
        """Of all levels that the model knows the nearest to evenly spaced ones; the last ends at the clean end.

        Example:
            >>> schedule = BetaSchedule(torch.linspace(0.9999, 0.001, 1000, dtype=torch.float64), 1.0)
            >>> [step.timestep for step in schedule.ladder(5)]
            [999, 947, 240, 6, 0]
        """
        check_ladder(count)
        alphas = self.alphas_cumprod.cpu().double()
        if not bool((alphas < 1).all()):
            raise ValueError("the schedule has a level without noise: no probability flow crosses it")
        known = int((alphas > 0).sum())
        log_noise = ((1 - alphas) / alphas).log()[:known] / 2
        wanted = torch.linspace(float(log_noise[-1]), float(log_noise[0]), count, dtype=torch.float64)
        nearest = (log_noise - wanted[:, None]).abs().argmin(1)
        timesteps = sorted(set(nearest.tolist()), reverse=True)
        if whole and known < len(alphas):
            timesteps = [len(alphas) - 1, *timesteps]
        ends = [*(self.alpha(timestep) for timestep in timesteps[1:]), self.final_alpha_cumprod]
        return [DDIMStep(t, self.alpha(t), end, self.predicts) for t, end in zip(timesteps, ends, strict=True)]

    def draw_timesteps(self, count: int, generator: Generator) -> Tensor:
        """Uniform ones."""
        return torch.randint(self.num_train_timesteps, (count,), generator=generator)


def on_each(timestep: float | Tensor, latents: Tensor) -> Tensor:
    """Timesteps (n,) of latents (n, ...), of one for all or one each."""
    if isinstance(timestep, Tensor):
        return timestep.to(latents.device).expand(len(latents))
    # Made on the device: a copy would have the host wait for it at every call.
    return torch.full((len(latents),), timestep, device=latents.device)


def check_ladder(count: int) -> None:
    """Refuse fewer than two levels."""
    if count < 2:
        raise ValueError(f"a ladder has 2 levels or more, got {count}")
