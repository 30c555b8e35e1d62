"""ReNoise inversion, corrected, or as the audit's official code runs it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor

from lit_memories.inverters.base import Calls, Inversion, Inverter, relative_norm
from lit_memories.ops.path import DDIMStep, ddim_inverse_coefficients
from lit_memories.ops.rollout import RowPredictFn

FIRST_TIMESTEPS = 250
"""Below this timestep `average_first` holds, from it on `average`."""
PATCH = 4
COARSEST = 8
KL_EPSILON = 1e-6
KL_CLIP = 100.0


class ReNoise(Inverter):
    r"""ReNoise (Garibi et al. 2024, arXiv:2403.14602): every implicit DDIM step is iterated, its noise made noisier.

    Each step :math:`x = a z + b\,\epsilon(x, t)` is substituted into itself `num_renoise_steps` times from :math:`x =
    z` on. The noises of some iterates may be averaged. Noise may be regularised by gradient descent (after Parmar et
    al. 2023): the statistics of 4 x 4 patches are drawn to those of a reference, by the Kullback-Leibler divergence of
    Gaussians, and correlations between the map and its rolled self vanish, on a pyramid of average-pooled maps down to
    8 pixels. All of it acts on every sample alone, and all share one sequence of rolls.

    The corrected form averages the last two noises of a step where that helps: where the iterates lie on either side of
    the solution, a change of the noise undoing more than a third of the one before. Unless ranges are given it
    regularises the final noise only, against the prediction at properly noised latents, and it never rolls by 0. By
    default it does not regularise at all, as on the pictogram model every weight tried took the seeds further from the
    true ones: docs/audit.md has the figures.

    With `faithful`, options left at None become those of the audit's official code, which are SDXL-Turbo's, and these
    quirks are kept:

    - Below timestep 250 every noise is regularised, the raw noises of iterates 0 to 4 are averaged, and the average is
      regularised again. From 250 on the range (8, 10) is never reached, so that nothing is averaged or regularised.
    - The reference is the prediction at the image's own latents, without noise, with the step's timestep.
    - A roll may be 0, and so punish the variance. Rolls come from a CPU generator that begins with `seed` for every
      image and has by then drawn three latents: the posterior's sample and two that nothing uses.

    What the official code computes and throws away is not computed here, 50 of its 350 evaluations at 50 steps. It
    draws its latents from the encoder's posterior; that is the audit's business.

    Args:
        num_renoise_steps: substitutions after the first.
        average_first: iterates [first, end) averaged below timestep 250, and regularised from the first on; None: the
            last two averaged where that helps, faithful (0, 5).
        average: the same from 250 on, faithful (8, 10).
        lambda_ac: step size against autocorrelation; None is 0, faithful 20.
        lambda_kl: step size towards the reference's statistics; None is 0, faithful 0.065.
        regularization_steps: rounds of regularisation, each a step of the one and `rolls` of the other.
        rolls: steps against autocorrelation a round.
        seed: of the rolls and of the reference's noise.
        measure_residual: spend one more evaluation a step to report how well it is solved. Without it an audit cannot
            tell which samples diverged, and flags only those that are not finite.
        tolerance: relative residual below which a step counts as converged.
        faithful: see above.

    Raises:
        ValueError: if a number of steps or a range is impossible.
    """

    def __init__(
        self,
        num_renoise_steps: int = 5,
        average_first: tuple[int, int] | None = None,
        average: tuple[int, int] | None = None,
        lambda_ac: float | None = None,
        lambda_kl: float | None = None,
        regularization_steps: int = 4,
        rolls: int = 5,
        seed: int = 42,
        measure_residual: bool = True,
        tolerance: float = 1e-3,
        faithful: bool = False,
    ) -> None:
        if faithful:
            average_first, average = average_first or (0, 5), average or (8, 10)
        for name, value in {"average_first": average_first, "average": average}.items():
            if value is not None and not 0 <= value[0] < value[1]:
                raise ValueError(f"{name} must be a range (first, end) with 0 <= first < end, got {value}")
        if num_renoise_steps < 0 or regularization_steps < 0 or rolls < 1:
            raise ValueError(
                f"num_renoise_steps ({num_renoise_steps}) and regularization_steps ({regularization_steps}) cannot be "
                f"negative, rolls ({rolls}) not below 1"
            )
        self.num_renoise_steps, self.average_first, self.average = num_renoise_steps, average_first, average
        self.lambda_ac = lambda_ac if lambda_ac is not None else 20.0 if faithful else 0.0
        self.lambda_kl = lambda_kl if lambda_kl is not None else 0.065 if faithful else 0.0
        self.regularization_steps, self.rolls, self.seed = regularization_steps, rolls, seed
        self.measure_residual, self.tolerance, self.faithful = measure_residual, tolerance, faithful

    def check(self, steps: Sequence[DDIMStep]) -> None:
        """Refuse to regularise as noise what is none."""
        super().check(steps)
        if any(step.predicts != "epsilon" for step in steps) and (self.faithful or self.lambda_ac or self.lambda_kl):
            raise ValueError(
                "ReNoise regularises predicted noise, and this model predicts a velocity (rectified flow, zero "
                "terminal SNR): leave faithful, lambda_ac and lambda_kl out, or use FixedPoint"
            )

    def __call__(self, predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents through `steps`."""
        rows, image = torch.arange(len(latents), device=latents.device), latents
        generator = Generator().manual_seed(self.seed)
        # One noise for all samples, so that none depends on its neighbours.
        noise = [torch.randn((1, *latents.shape[1:]), generator=generator) for _ in range(3)][-1].to(latents)
        residual = torch.full((len(latents),), 0.0 if self.measure_residual else torch.nan, device=latents.device)
        evaluations = 0
        for step in reversed(steps):
            a, b = ddim_inverse_coefficients(step)
            reference = None
            if self._refers(step):
                noised = image if self.faithful else step.alpha**0.5 * image + (1 - step.alpha) ** 0.5 * noise
                reference = predict(noised, step.timestep, rows)
            found, passes = self._solve(predict, latents, step, reference, generator)
            moved = a * latents + b * found
            evaluations += passes + (reference is not None) + self.measure_residual
            if self.measure_residual:
                again = a * latents + b * predict(moved, step.timestep, rows)
                residual = torch.maximum(residual, relative_norm(again - moved, again))
            latents = moved
        used = torch.full_like(rows, evaluations)
        return Inversion(latents, residual, used, residual < self.tolerance, measured=self.measure_residual)

    def inverting(self, steps: Sequence[DDIMStep]) -> Calls:
        """As many predictions a step as its range of averages leaves, and those of the reference and the residual."""
        calls = sum(self._passes(step) + self._refers(step) + self.measure_residual for step in steps)
        return calls, calls

    def _refers(self, step: DDIMStep) -> bool:
        """Whether a step's noise is drawn to that of a reference."""
        return self.lambda_kl > 0 and (self._span(step) or (0, 1))[0] <= self.num_renoise_steps

    def _passes(self, step: DDIMStep) -> int:
        """Predictions of a step's own."""
        count = self.num_renoise_steps + 1
        first, end = self._span(step) or (count - 1, count)
        return min(end, count) if first < count else count

    def _span(self, step: DDIMStep) -> tuple[int, int] | None:
        return self.average_first if step.timestep < FIRST_TIMESTEPS else self.average

    def _solve(
        self,
        predict: RowPredictFn,
        latents: Tensor,
        step: DDIMStep,
        reference: Tensor | None,
        generator: Generator,
    ) -> tuple[Tensor, int]:
        """A step's noise, and how many evaluations it took."""
        a, b = ddim_inverse_coefficients(step)
        rows, count, span = (
            torch.arange(len(latents), device=latents.device),
            self.num_renoise_steps + 1,
            self._span(step),
        )
        first, passes = (span or (count - 1, count))[0], self._passes(step)
        moved, noises = latents, list[Tensor]()
        for i in range(count):
            shifts = self._draw(generator, latents) if i >= first else []
            if i >= passes:
                continue  # the average is complete: the pass would be thrown away, but draws its rolls all the same
            noises.append(predict(moved, step.timestep, rows))
            noise = self._regularised(noises[-1], reference, shifts) if i >= first else noises[-1]
            moved = a * latents + b * noise
        if first >= count:
            return noises[-1], passes
        found = _settled(noises) if span is None else sum(noises[first:], torch.zeros_like(latents)) / (passes - first)
        return self._regularised(found, reference, self._draw(generator, latents)), passes

    def _draw(self, generator: Generator, latents: Tensor) -> list[list[int]]:
        """Rolls of one regularisation: a list a step against autocorrelation, a roll a channel and level of it."""
        if self.lambda_ac == 0:
            return []
        _, channels, height, _ = latents.shape
        lowest = 0 if self.faithful else 1
        heights = [h for _ in range(channels) for h in _heights(height)]
        return [
            [int(torch.randint(lowest, max(h // 2, lowest + 1), (1,), generator=generator)) for h in heights]
            for _ in range(self.regularization_steps * self.rolls)
        ]

    def _regularised(self, noise: Tensor, reference: Tensor | None, shifts: list[list[int]]) -> Tensor:
        for number in range(self.regularization_steps):
            if reference is not None:
                noise = noise - self.lambda_kl * patch_gradient(noise, reference).clamp(-KL_CLIP, KL_CLIP)
            for rolls in shifts[number * self.rolls : (number + 1) * self.rolls]:
                noise = noise - self.lambda_ac / self.rolls * autocorrelation_gradient(noise, rolls)
        return noise


def _settled(noises: Sequence[Tensor]) -> Tensor:
    """The last noise, or the mean of the last two in rows where the iterates alternate.

    With iterates at :math:`(-m)^k e` from the solution, the mean of two is at :math:`(1-m)/2` of the first one's
    distance, and so nearer than the second, at m, if m is above a third.
    """
    if len(noises) < 3:
        return noises[-1]
    before, after = (noises[-2] - noises[-3]).flatten(1), (noises[-1] - noises[-2]).flatten(1)
    alternates = (before * after).sum(1) < -before.square().sum(1) / 3
    return torch.where(alternates[:, None, None, None], (noises[-2] + noises[-1]) / 2, noises[-1])


def _heights(height: int) -> list[int]:
    """Heights of the pyramid's levels, finest first."""
    return [height, *(_heights(height // 2) if height > COARSEST else [])]


def autocorrelation_gradient(noise: Tensor, rolls: Sequence[int]) -> Tensor:
    r"""Gradient of the sum over channels, levels and both axes of :math:`\overline{x \cdot \mathrm{roll}(x)}^2`.

    Args:
        noise: (n, c, h, w).
        rolls: a channel's rolls, finest level first, then the next channel's.
    """
    pyramid = [noise]
    for _ in _heights(noise.shape[2])[1:]:
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    gradient = torch.zeros_like(pyramid[-1])
    for level, maps in reversed(list(enumerate(pyramid))):
        if gradient.shape != maps.shape:  # back through the pooling, which leaves out an odd last row or column
            gradient = _padded(gradient.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4, maps)
        shifts = rolls[level :: len(pyramid)]
        gradient = gradient + torch.stack(
            [_correlation_gradient(x, shift) for x, shift in zip(maps.unbind(1), shifts, strict=True)], 1
        )
    return gradient


def _correlation_gradient(x: Tensor, shift: int) -> Tensor:
    """The same of one map (n, h, w) and one roll."""
    gradient = torch.zeros_like(x)
    for axis in (1, 2):
        there, back = x.roll(shift, axis), x.roll(-shift, axis)
        gradient = gradient + 2 * (x * there).mean((1, 2), keepdim=True) * (there + back) / x[0].numel()
    return gradient


def patch_gradient(noise: Tensor, reference: Tensor) -> Tensor:
    r"""Gradient of the sum over channels and patches of :math:`|\log(v_1/v_0) + (v_0 + (m_0 - m_1)^2)/v_1 - 1|`.

    Args:
        noise: (n, c, h, w), with patch means m0 and variances v0.
        reference: (n, c, h, w), with m1 and v1.
    """
    x, y = _patches(noise), _patches(reference)
    m0, m1 = x.mean(-1, keepdim=True), y.mean(-1, keepdim=True)
    v0, v1 = x.var(-1, keepdim=True) + KL_EPSILON, y.var(-1, keepdim=True) + KL_EPSILON
    sign = (torch.log(v1 / v0) + (v0 - KL_EPSILON + (m0 - m1).square()) / v1 - 1).sign()
    by_variance = (1 / v1 - 1 / v0) * 2 * (x - m0) / (PATCH**2 - 1)
    by_mean = 2 * (m0 - m1) / v1 / PATCH**2
    gradient = (sign * (by_variance + by_mean)).unflatten(4, (PATCH, PATCH)).transpose(3, 4)
    return _padded(gradient.flatten(4).flatten(2, 3), noise)


def _patches(maps: Tensor) -> Tensor:
    """Patches (n, c, rows, columns, 16) of maps (n, c, h, w), as many as fit."""
    height, width = (size // PATCH * PATCH for size in maps.shape[2:])
    rows = maps[:, :, :height, :width].unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return rows.transpose(3, 4).flatten(4)


def _padded(gradient: Tensor, maps: Tensor) -> Tensor:
    """A gradient filled up with zeros to the size of `maps`."""
    (height, width), (rows, columns) = maps.shape[2:], gradient.shape[2:]
    return F.pad(gradient, (0, width - columns, 0, height - rows))
