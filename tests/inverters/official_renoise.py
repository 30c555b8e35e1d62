"""The audit's official ReNoise, written out from its description: one image, loops, and every pass it throws away."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from lit_memories.ops.path import DDIMStep


def roll_loss(noise: Tensor, rolls: Callable[[int], int]) -> Tensor:
    """Squared mean of the map times itself rolled, along both axes, at every level; a roll a channel and level."""
    total = torch.zeros((), dtype=noise.dtype)
    for channel in noise[0]:
        level = channel
        while True:
            by = rolls(level.shape[0] // 2)
            for axis in (0, 1):
                total = total + (level * torch.roll(level, by, axis)).mean() ** 2
            if level.shape[0] <= 8:
                break
            level = torch.nn.functional.avg_pool2d(level[None, None], 2)[0, 0]
    return total


def patch_loss(noise: Tensor, reference: Tensor) -> Tensor:
    """Absolute Kullback-Leibler divergence, doubled, between Gaussians fitted to 4 x 4 patches of each channel."""
    total = torch.zeros((), dtype=noise.dtype)
    _, channels, height, width = noise.shape
    for c in range(channels):
        for i in range(0, height - 3, 4):
            for j in range(0, width - 3, 4):
                x, y = noise[0, c, i : i + 4, j : j + 4], reference[0, c, i : i + 4, j : j + 4]
                m0, m1, v0, v1 = x.mean(), y.mean(), x.var(), y.var()
                divergence = torch.log((v1 + 1e-6) / (v0 + 1e-6)) + (v0 + (m0 - m1) ** 2) / (v1 + 1e-6) - 1
                total = total + divergence.abs()
    return total


def gradient(loss: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    with torch.enable_grad():
        variable = noise.detach().clone().requires_grad_()
        loss(variable).backward()
    return variable.grad


class OfficialReNoise:
    """Keeps count of network evaluations in `calls`.

    Args:
        draws: latents the generator has drawn before the first roll.
        lowest: smallest roll.
        noised: whether the reference is noised.
    """

    def __init__(self, draws: int = 3, lowest: int = 0, noised: bool = False) -> None:
        self.draws, self.lowest, self.noised, self.calls = draws, lowest, noised, 0

    def __call__(self, model: Callable[[Tensor, int], Tensor], z: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
        assert len(z) == 1
        self.generator, image = Generator().manual_seed(42), z
        drawn = [torch.randn(z.shape, generator=self.generator) for _ in range(self.draws)]
        for step in reversed(steps):
            at = step.alpha**0.5 * image + (1 - step.alpha) ** 0.5 * drawn[-1] if self.noised else image
            z = self.step(model, z, at, step)
        return z

    def step(self, model: Callable[[Tensor, int], Tensor], z: Tensor, at: Tensor, step: DDIMStep) -> Tensor:
        first, end = (0, 5) if step.timestep < 250 else (8, 10)
        guess, average, reference = z, None, None
        for i in range(6):
            if i == 0:
                reference, noise = model(torch.cat([at, guess]), step.timestep).chunk(2)
                self.calls += 2
            else:
                noise = model(guess, step.timestep)
                self.calls += 1
            if first <= i < end:
                j = i - first
                average = noise if average is None else j * average / (j + 1) + noise / (j + 1)
            if i >= first:
                noise = self.regularised(noise, reference)
            guess = inverse(z, noise, step)
        return guess if average is None else inverse(z, self.regularised(average, reference), step)

    def regularised(self, noise: Tensor, reference: Tensor) -> Tensor:
        for _ in range(4):
            noise = noise - 0.065 * gradient(lambda x: patch_loss(x, reference), noise).clip(-100, 100)
            for _ in range(5):
                noise = noise - 20 * gradient(lambda x: roll_loss(x, self.roll), noise) / 5
        return noise

    def roll(self, end: int) -> int:
        return int(torch.randint(self.lowest, end, (1,), generator=self.generator))


def inverse(z: Tensor, noise: Tensor, step: DDIMStep) -> Tensor:
    original = (z - (1 - step.alpha_prev) ** 0.5 * noise) / step.alpha_prev**0.5
    return step.alpha**0.5 * original + (1 - step.alpha) ** 0.5 * noise
