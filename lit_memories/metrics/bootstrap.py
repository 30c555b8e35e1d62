"""Confidence intervals: the bootstrap for any statistic of sets, Wilson's interval for rates."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from lit_memories.metrics.checks import as_float64

Statistic = Callable[..., Tensor]
Method = Literal["bca", "percentile"]

MAX_CHUNK = 250  # resamples evaluated at once
MAX_ELEMENTS = 2**22  # numbers resampled at once: 32 MiB


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Args:
        value: the estimate.
        low: lower end of the interval; NaN if the data cannot tell.
        high: upper end.
        level: confidence the interval is made for.
        count: number of cases behind it.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    count: int = 0


def bootstrap(
    statistic: Statistic,
    samples: Sequence[Tensor],
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    method: Method = "bca",
) -> Estimate:
    """Bootstrap interval of a statistic of one or more independent samples.

    Each sample is resampled on its own, whole rows at a time: what is paired within a case (an image under two models)
    goes into the columns of one sample. Rows are sorted first, so the order in which cases arrive does not matter.
    ``"bca"`` is bias-corrected and accelerated (Efron 1987; for several samples, Davison and Hinkley 1997, section
    5.3), ``"percentile"`` takes the quantiles as they are.

    A sample of one case says nothing about its spread, and the interval is NaN; so it is if a resample's statistic is
    not finite. If all resamples agree, the interval is the value itself. Statistics that cannot go below zero, such as
    distances, have intervals that are too high when the truth is near zero.

    Args:
        statistic: called with the samples, each with draws in front (draws, n) or (draws, n, columns); returns
            (draws,).
        samples: cases first, (n,) or (n, columns).
        draws: number of resamples.
        level: confidence of the interval.
        seed: of the resampling.
        method: how resamples become an interval.

    Raises:
        ValueError: if there is no sample, one is empty or has another shape, or an option is out of range.

    Example:
        >>> estimate = bootstrap(lambda x: x.mean(-1), [torch.arange(10.0)], draws=2000)
        >>> print(f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]")
        4.5 [2.7, 6.2]
    """
    _check_options(draws, level, method)
    cases = _as_cases(samples)
    value = _evaluate(statistic, [[sample[None] for sample in cases]])[0]
    count = sum(len(sample) for sample in cases)
    if any(len(sample) == 1 for sample in cases):
        return Estimate(float(value), math.nan, math.nan, level, count)
    generator = torch.Generator().manual_seed(seed)
    resampled = _evaluate(statistic, _resamples(cases, draws, generator))
    low, high = _interval(statistic, cases, value, resampled, level, method)
    return Estimate(float(value), low, high, level, count)


def wilson_interval(successes: float, total: int, level: float = 0.95) -> Estimate:
    """Wilson's score interval of a rate (1927): sensible at 0 and 1, where a bootstrap has no width.

    Args:
        successes: how many of the cases; the sum of numbers in [0, 1] does too, as none scatter more than a rate's.
        total: number of cases.
        level: confidence of the interval.

    Raises:
        ValueError: if there are no cases, or successes are not among them.

    Example:
        >>> estimate = wilson_interval(0, 24)
        >>> print(f"{estimate.value} [{estimate.low:.2f}, {estimate.high:.2f}]")
        0.0 [0.00, 0.14]
    """
    if total < 1:
        raise ValueError("the set is empty: a rate needs one case or more")
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be in 0..{total}, got {successes}")
    z2 = z_of(level) ** 2
    rate = successes / total
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * total)) / total) / (1 + z2 / total)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return Estimate(rate, low, high, level, total)


def z_of(level: float) -> float:
    """Standard deviations to either side between which a normal law has a share of `level`."""
    return NormalDist().inv_cdf((1 + level) / 2)


def sort_rows(rows: Tensor) -> Tensor:
    """Rows in lexicographic order: one order for one set of cases, however they arrived.

    Args:
        rows: (n,) or (n, columns).

    Example:
        >>> sort_rows(torch.tensor([[2, 0], [1, 5], [1, 3]]))
        tensor([[1, 3],
                [1, 5],
                [2, 0]])
    """
    table = rows.reshape(len(rows), -1)
    for column in reversed(range(table.shape[1])):
        table = table[table[:, column].argsort(stable=True)]  # stable: ties keep the order of later columns
    return table.reshape(rows.shape)


def _check_options(draws: int, level: float, method: str) -> None:
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if method not in ("bca", "percentile"):
        raise ValueError(f"unknown bootstrap method {method!r}: choose bca or percentile")


def _as_cases(samples: Sequence[Tensor]) -> list[Tensor]:
    if not samples:
        raise ValueError("the bootstrap needs one sample or more, got none")
    cases = [as_float64(sample.detach()).cpu() for sample in samples]
    for sample in cases:
        if sample.ndim not in (1, 2) or len(sample) == 0:
            raise ValueError(f"a sample must be (n,) or (n, columns) with n > 0, got {tuple(sample.shape)}")
    return [sort_rows(sample) for sample in cases]


def _evaluate(statistic: Statistic, blocks: Iterable[Sequence[Tensor]]) -> Tensor:
    """The statistic of every draw in every block."""
    results = []
    for block in blocks:
        result = statistic(*block)
        if result.shape != block[0].shape[:1]:
            raise ValueError(f"the statistic must keep the draws, {len(block[0])}: it returned {tuple(result.shape)}")
        results.append(result)
    return torch.cat(results)


def _chunks(count: int, samples: Sequence[Tensor]) -> Iterator[Tensor]:
    """Indices 0..count in chunks that bound memory whatever the number of cases."""
    elements = sum(sample.numel() for sample in samples)
    size = min(MAX_CHUNK, max(1, MAX_ELEMENTS // elements))
    return (torch.arange(start, min(start + size, count)) for start in range(0, count, size))


def _resamples(samples: Sequence[Tensor], draws: int, generator: torch.Generator) -> Iterator[list[Tensor]]:
    for chunk in _chunks(draws, samples):
        yield [s[torch.randint(len(s), (len(chunk), len(s)), generator=generator)] for s in samples]


def _leave_one_out(samples: Sequence[Tensor], which: int) -> Iterator[list[Tensor]]:
    """All samples, with each case of one of them left out in turn."""
    others = torch.arange(len(samples[which]) - 1)
    for left_out in _chunks(len(samples[which]), samples):
        block = [sample.expand(len(left_out), *sample.shape) for sample in samples]
        block[which] = samples[which][others + (others >= left_out[:, None])]
        yield block


def _interval(
    statistic: Statistic, samples: Sequence[Tensor], value: Tensor, resampled: Tensor, level: float, method: str
) -> tuple[float, float]:
    if bool((resampled == resampled[0]).all()):
        return float(value), float(value)
    quantiles = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    if method == "bca":
        quantiles = _bca_quantiles(quantiles, value, resampled, _acceleration(statistic, samples))
    if not bool(resampled.isfinite().all() and quantiles.isfinite().all()):
        return math.nan, math.nan
    low, high = torch.quantile(resampled, quantiles).tolist()
    return low, high


def _bca_quantiles(quantiles: Tensor, value: Tensor, resampled: Tensor, acceleration: Tensor) -> Tensor:
    below = ((resampled < value).double() + (resampled <= value).double()).mean() / 2
    limit = 0.5 / len(resampled)  # a bias beyond all draws counts as half a draw; infinity would lose the interval
    bias = torch.special.ndtri(below.clamp(limit, 1 - limit))
    z = bias + torch.special.ndtri(quantiles)
    corrected: Tensor = torch.special.ndtr(bias + z / (1 - acceleration * z))
    return corrected


def _acceleration(statistic: Statistic, samples: Sequence[Tensor]) -> Tensor:
    """Skewness of the statistic's influence, from the jackknife of each sample."""
    cubes, squares = torch.zeros(2, dtype=torch.float64)
    for which, sample in enumerate(samples):
        left_out = _evaluate(statistic, _leave_one_out(samples, which))
        influence = (len(sample) - 1) / len(sample) * (left_out.mean() - left_out)
        cubes = cubes + influence.pow(3).sum()
        squares = squares + influence.square().sum()
    return torch.where(squares == 0, 0.0, cubes / (6 * squares.pow(1.5)))
