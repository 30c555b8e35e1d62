"""O-BELM: another sampler than DDIM, which can be run backwards exactly."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_memories.inverters.base import Calls, Inversion, Inverter
from lit_memories.inverters.fixed_point import FixedPoint
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.rollout import RowPredictFn


class BELM(Inverter):
    r"""O-BELM (Wang et al. 2024, arXiv:2410.07273): a two-step sampler, each step solvable for its oldest state.

    With :math:`y = x/\alpha`, :math:`s = \sigma/\alpha`, :math:`h = s_{i-1} - s_i` and :math:`k = s_i - s_{i+1}`, i
    falling towards the image,

    .. math:: y_{i-1} = (h/k)^2 y_{i+1} + (1 - (h/k)^2)\, y_i + h (h + k)/k\; \epsilon(y_i, i).

    One evaluation a step, both ways, and the image comes back to float rounding in any model. Its state is the pair of
    the two noisiest latents, `Inversion.state` (n, 2, c, h, w), kept in double precision as y. Its seeds belong to this
    sampler and not to DDIM, and `settings` says so; from the seeds alone only `sample` starts, not the same image.

    Run backwards the recursion has a second, alternating solution that grows by :math:`(k/h)^2` a step, about 200 times
    from end to end on the pictogram model's schedule, and whatever the first two states lack in accuracy excites it.
    Here the last, ten times shorter interval is a DDIM step, solved by `FixedPoint` to rounding, so that it stays
    invertible, and the one before is a trapezoidal step; `sample` begins with one, too. Even so the seeds' NLL is only
    an estimate: docs/audit.md has the figures. EDICT (Wallace et al. 2022, arXiv:2211.12446) costs twice as much, and
    in a trial that is not kept its two states drifted apart.

    Args:
        max_evaluations: network evaluations that each of the two steps of the start may take.
        tolerance: their relative residual, and with it how exactly the image comes back.
    """

    def __init__(self, max_evaluations: int = 20, tolerance: float = 1e-7) -> None:
        self.max_evaluations, self.tolerance = max_evaluations, tolerance

    def settings(self) -> dict[str, Any]:
        """Name, hyper-parameters, and the sampler whose seeds these are."""
        return super().settings() | {"sampler": "belm"}

    def check(self, steps: Sequence[DDIMStep]) -> None:
        """Refuse a single step, and a path that begins without signal, by which its states are divided."""
        if len(steps) < 2:
            raise ValueError(f"BELM needs at least 2 steps, got {len(steps)}")
        if any(step.predicts != "epsilon" for step in steps):
            raise ValueError(
                "BELM divides by the share of signal, which is 0 where this model begins (rectified flow, zero "
                "terminal SNR): use FixedPoint"
            )

    def __call__(self, predict: RowPredictFn, latents: Tensor, steps: Sequence[DDIMStep]) -> Inversion:
        """Invert latents through `steps`, at least two."""
        self.check(steps)
        grid = _Grid(predict, steps)
        end = self._solver()(predict, latents.double(), steps[-1:])
        start = self._trapezoid(grid, end.seeds, len(steps) - 1, len(steps) - 2)
        low, high = grid.scaled(end.seeds, len(steps) - 1), grid.scaled(start.seeds, len(steps) - 2)
        for i in range(len(steps) - 2, 0, -1):
            low, high = high, grid.up(low, high, i)
        seeds = (high * grid.signal[0]).to(latents.dtype)
        sound = seeds.flatten(1).isfinite().all(1)
        return Inversion(
            seeds=seeds,
            residual=torch.maximum(end.residual, start.residual).where(sound, torch.nan),
            evaluations=end.evaluations + start.evaluations + len(steps) - 1,
            converged=end.converged & start.converged & sound,
            state=torch.stack([high, low], 1),
        )

    def sample(self, predict: RowPredictFn, seeds: Tensor, steps: Sequence[DDIMStep]) -> Tensor:
        """Latents that the two-step sampler makes of seeds alone."""
        self.check(steps)
        grid, high = _Grid(predict, steps), seeds.double()
        low = self._trapezoid(grid, high, 0, 1).seeds
        return grid.down(grid.scaled(high, 0), grid.scaled(low, 1)).to(seeds.dtype)

    def regenerate(self, predict: RowPredictFn, inversion: Inversion, steps: Sequence[DDIMStep]) -> Tensor:
        """Latents that the two-step sampler makes of the two noisiest states."""
        if inversion.state is None:
            raise ValueError("the inversion has no pair of states: it is not one of BELM")
        high, low = inversion.state.unbind(1)
        return _Grid(predict, steps).down(high, low).to(inversion.seeds.dtype)

    def inverting(self, steps: Sequence[DDIMStep]) -> Calls:
        """Two solved steps, the noise where the second begins, and a prediction a step between."""
        return len(steps) + 1, len(steps) - 1 + 2 * self.max_evaluations

    def sampling(self, steps: Sequence[DDIMStep]) -> Calls:
        """A solved step, the noise where it begins, and a prediction a step after it."""
        return len(steps) + 1, len(steps) + self.max_evaluations

    def regenerating(self, steps: Sequence[DDIMStep]) -> Calls:
        """A prediction a step but the first, whose state is kept."""
        return len(steps) - 1, len(steps) - 1

    def _solver(self) -> FixedPoint:
        return FixedPoint(self.max_evaluations, self.tolerance)

    def _trapezoid(self, grid: "_Grid", latents: Tensor, here: int, there: int) -> Inversion:
        """From latents at one node to those at the next, of either side, with the mean of both ends' noises."""
        noise = grid.noise(latents, here)

        def mean(x: Tensor, timestep: float, rows: Tensor) -> Tensor:
            return (noise[rows] + grid.predict(x, timestep, rows)) / 2

        ends = grid.steps[there].alpha, grid.steps[here].alpha
        return self._solver()(mean, latents, [DDIMStep(grid.steps[there].timestep, *ends)])


class _Grid:
    """The recursion on a run's timesteps, numbered from noise to image; states are y = x / alpha."""

    def __init__(self, predict: RowPredictFn, steps: Sequence[DDIMStep]) -> None:
        self.predict, self.steps = predict, steps
        self.signal = [alpha**0.5 for alpha in (*(step.alpha for step in steps), steps[-1].alpha_prev)]
        self.ratio = [(1 - signal**2) ** 0.5 / signal for signal in self.signal]

    def noise(self, latents: Tensor, i: int) -> Tensor:
        """Noise predicted for latents at node i."""
        return self.predict(latents, self.steps[i].timestep, torch.arange(len(latents), device=latents.device))

    def scaled(self, latents: Tensor, i: int) -> Tensor:
        """Latents at node i as a state."""
        return latents / self.signal[i]

    def up(self, low: Tensor, middle: Tensor, i: int) -> Tensor:
        """The state at node i - 1 from those at i + 1 and i."""
        square, weight = self._weights(i)
        return (low - (1 - square) * middle - weight * self.noise(middle * self.signal[i], i)) / square

    def down(self, high: Tensor, low: Tensor) -> Tensor:
        """Latents from the states at nodes 0 and 1."""
        for i in range(1, len(self.steps) - 1):
            square, weight = self._weights(i)
            noise = self.noise(low * self.signal[i], i)
            high, low = low, square * high + (1 - square) * low + weight * noise
        last = len(self.steps) - 1
        return self.signal[-1] * (low + (self.ratio[-1] - self.ratio[last]) * self.noise(low * self.signal[last], last))

    def _weights(self, i: int) -> tuple[float, float]:
        """(h / k)^2 and h (h + k) / k at node i."""
        h, k = self.ratio[i + 1] - self.ratio[i], self.ratio[i] - self.ratio[i - 1]
        return (h / k) ** 2, h * (h + k) / k
