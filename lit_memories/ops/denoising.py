r"""How surprised a model is by latents: the variational bound of -log p(latents | prompt), up to the data's constant.

With :math:`\lambda = \log(\bar\alpha / (1 - \bar\alpha))`, the logarithm of the signal-to-noise ratio (Kingma et al.
2021, arXiv:2107.00630, eq. 17 and 18), it is

.. math:: \text{surprise}(z, c) = \frac12 \int \mathbb{E}_{e \sim N(0, I)}
    \big\| e - \epsilon(\sqrt{\bar\alpha}\, z + \sqrt{1 - \bar\alpha}\, e,\, t,\, c) \big\|^2 d\lambda

nats, over the levels the model was trained on. What is left out beyond them, and the entropy of the noise, depend on
the latents alone: between two models the difference of surprises is that of their bounds. Nothing is inverted, nothing
has to converge, no gradient is taken: a level costs one evaluation a noise.

The expectation is estimated with few noises, and the integral by the trapezoidal rule. Models that get equal generators
share their noises, of which a difference of surprises then hardly depends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lit_memories.ops.path import DDIMStep
from lit_memories.ops.rollout import RowPredictFn


@dataclass(frozen=True)
class Denoising:
    """How well noise was found in noised latents, by level; numbers in float64 on the CPU.

    Args:
        log_snr: of the levels, noise first, so that they grow (levels,).
        errors: half the squared error of the noise, a noise, a sample and a level (noises, n, levels): nats by unit of
            `log_snr`.
    """

    log_snr: Tensor
    errors: Tensor

    @property
    def profile(self) -> Tensor:
        """Errors averaged over the noises (n, levels)."""
        return self.errors.mean(0)

    @property
    def surprise(self) -> Tensor:
        """The integral over the levels, nats (n,)."""
        return torch.trapezoid(self.profile, self.log_snr)


def log_snr(alpha: float) -> float:
    """Logarithm of the signal-to-noise ratio of a level with this cumulative alpha.

    Example:
        >>> log_snr(0.5)
        0.0
    """
    return float(torch.logit(torch.tensor(alpha, dtype=torch.float64)))


def denoise(
    predict: RowPredictFn,
    latents: Tensor,
    steps: Sequence[DDIMStep],
    generators: Sequence[Generator],
    noises: int = 1,
    antithetic: bool = False,
) -> Denoising:
    """Noise latents to every level, ask the model for the noise, and compare.

    Args:
        predict: the model.
        latents: at the clean end (n, c, h, w).
        steps: whose levels to ask at, noise first, from `ladder`; where they end does not matter.
        generators: one a sample; they draw on the CPU, level by level.
        noises: a level and sample, 1 or more.
        antithetic: take every second noise as the negative of the one before, which takes off the part of the error
            that is odd in the noise.

    Raises:
        ValueError: if there are fewer than two levels, or counts do not fit.
    """
    if len(steps) < 2:
        raise ValueError(f"a surprise is an integral over noise levels, of which it takes 2 or more, got {len(steps)}")
    if len(generators) != len(latents) or len(latents) == 0 or noises < 1 or (antithetic and noises % 2):
        raise ValueError(
            f"give {len(latents)} generators, at least one of each, and a noise or more, an even number if they are "
            f"antithetic: got {len(generators)} and {noises}"
        )
    drawn = torch.stack([_draw(generators, latents.shape[1:], noises, antithetic) for _ in steps]).to(latents)
    rows = torch.arange(len(latents), device=latents.device).repeat(noises)
    errors = []
    for step, noise in zip(steps, drawn, strict=True):
        here = step.frame
        mixed = here.cosine * latents + here.sine * noise
        found = predict(mixed.flatten(0, 1), step.timestep, rows).view_as(noise)
        # An error of the prediction is one of the noise times this; of predicted noise, exactly 1.
        weight = (here.cosine / here.determinant) ** 2
        errors.append(weight * (found - here.prediction(latents, noise)).flatten(2).square().sum(2) / 2)
    levels = torch.tensor([log_snr(step.alpha) for step in steps], dtype=torch.float64)
    return Denoising(levels, torch.stack(errors, -1).cpu().double())


def _draw(generators: Sequence[Generator], shape: Sequence[int], noises: int, antithetic: bool) -> Tensor:
    """Noises of a level (noises, n, c, h, w)."""
    count = noises // 2 if antithetic else noises
    drawn = torch.stack([torch.randn((count, *shape), generator=generator) for generator in generators], 1)
    return torch.stack([drawn, -drawn], 1).flatten(0, 1) if antithetic else drawn
