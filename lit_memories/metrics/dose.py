r"""How a number falls or rises with the pictures that a model has seen, and back: which number of pictures reads so.

The curve is isotonic (Barlow et al. 1972): readings may not rise with the dose, and where they do they are averaged.
Between doses it is linear in :math:`\log(1 + n)`. The inverse is a test turned round: a dose belongs to a reading's
interval if a model that learnt from so many pictures, one training of many, might well have read the same,

.. math:: |y - \hat y(n)| \le t \sqrt{s_y^2 + s^2(n)}

s of the reading and of one training at that dose. Where the curve is flat such doses reach to its end, and "fewer than"
or "more than" is all that can be said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import isotonic_regression
from scipy.special import stdtrit
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate

LARGEST = 1e9
"""No dose, reading or scatter is larger."""
GRID = 400
"""Doses between the least and the most at which readings are compared, even in log(1 + n)."""


@dataclass(frozen=True)
class Curve:
    """Readings by dose.

    Args:
        doses: pictures seen, rising (k,), 2 or more.
        readings: what models that saw so many read on average, never rising (k,).
        raw: the same before they were made to fall (k,).
        scatter: standard deviation of what one more model of that dose reads (k,).
        freedom: degrees of freedom of `scatter`.
    """

    doses: Tensor
    readings: Tensor
    raw: Tensor
    scatter: Tensor
    freedom: float

    @property
    def rises(self) -> list[float]:
        """Doses at which the raw readings rise beyond their scatter: there the curve is no curve."""
        jump = self.raw[1:] - self.raw[:-1]
        width = (self.scatter[1:].square() + self.scatter[:-1].square()).sqrt()
        return self.doses[1:][jump > width * float(stdtrit(self.freedom, 0.975))].tolist()

    def at(self, doses: Tensor) -> tuple[Tensor, Tensor]:
        """Readings and scatter at other doses, which lie between the least and the most."""
        known, asked = self.doses.log1p(), doses.log1p()
        above = torch.searchsorted(known, asked.contiguous()).clamp(1, len(known) - 1)
        share = (asked - known[above - 1]) / (known[above] - known[above - 1])
        readings, scatter = (torch.lerp(x[above - 1], x[above], share) for x in (self.readings, self.scatter))
        return readings, scatter


def dose_response(doses: Sequence[float], readings: Sequence[float], scatter: Sequence[float], freedom: float) -> Curve:
    """A curve that never rises, nearest to the readings in the least-squares sense.

    Args:
        doses: pictures seen, 0 or more and rising.
        readings: on average over trainings, by dose.
        scatter: standard deviation of one training's reading, by dose.
        freedom: degrees of freedom of `scatter`.

    Raises:
        ValueError: if there are fewer than two doses, they do not rise or lie between none and one picture, counts
            differ, the degrees of freedom are below 1, or a number is not finite or huge.

    Example:
        >>> dose_response([0, 1, 4, 16], [10, 11, 6, 0], [1, 1, 1, 1], 8).readings.tolist()
        [10.5, 10.5, 6.0, 0.0]
    """
    if len({len(doses), len(readings), len(scatter)}) != 1:
        raise ValueError(f"{len(doses)} doses have {len(readings)} readings and {len(scatter)} scatters")
    table = torch.tensor([list(doses), list(readings), list(scatter)], dtype=torch.float64)
    if table.shape[1] < 2 or not bool((table[0][1:] > table[0][:-1]).all()) or table[0, 0] < 0:
        raise ValueError(f"a curve needs two doses or more, rising from 0 or above: got {list(doses)}")
    if not bool(table.isfinite().all()) or bool((table[2] < 0).any()):
        raise ValueError("readings and their scatter must be finite, and no scatter below 0")
    if bool((table.abs() > LARGEST).any()) or bool(((table[0] > 0) & (table[0] < 1)).any()):
        raise ValueError(f"doses are numbers of pictures, and no number may be larger than {LARGEST:g}")
    if not 1 <= freedom <= LARGEST:
        raise ValueError(f"the scatter's degrees of freedom must be 1 or more, got {freedom:g}")
    fitted = torch.tensor(isotonic_regression(table[1].numpy(), increasing=False).x.tolist(), dtype=torch.float64)
    return Curve(table[0], fitted, table[1], table[2], freedom)


def equivalent(curve: Curve, reading: float, error: float, level: float = 0.95) -> Estimate:
    """The number of pictures at which a model that learnt reads the same.

    Args:
        curve: of the number that was read.
        reading: of the model in question.
        error: its standard error.
        level: confidence of the interval.

    Returns:
        The dose, its interval's ends, and the number of doses behind it. An end is 0 or infinity where the curve says
        no more than "fewer than" or "more than"; the dose itself is the middle of those that read alike.

    Example:
        >>> curve = dose_response([0, 1, 4, 16], [10, 8, 6, 0], [0.5] * 4, 8)
        >>> found = equivalent(curve, 6.0, 0.5)
        >>> round(found.value, 1), round(found.low, 1), round(found.high, 1)
        (4.0, 1.4, 5.9)
    """
    first, *_, last = curve.doses.tolist()
    grid = torch.linspace(math.log1p(first), math.log1p(last), GRID, dtype=torch.float64).expm1().clamp(first, last)
    readings, scatter = curve.at(grid)
    t = float(stdtrit(curve.freedom, (1 + level) / 2))
    distance = (readings - reading).abs()
    inside = grid[distance <= t * (scatter.square() + error**2).sqrt()]
    nearest = grid[distance <= distance.min() + 1e-9 * (1 + abs(reading))].log1p()
    value = float(((nearest[0] + nearest[-1]) / 2).expm1())
    if len(inside) == 0:  # beyond all doses on one side, or so sure of both that no grid point is near enough
        inside = grid[distance <= distance.min()]
    low = 0.0 if inside[0] == grid[0] else float(inside[0])
    high = math.inf if inside[-1] == grid[-1] else float(inside[-1])
    return Estimate(value, low, high, level, len(curve.doses))
