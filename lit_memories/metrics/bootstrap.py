"""Confidence intervals: the bootstrap for any statistic of sets, Wilson's interval for rates."""

import math
from collections.abc import Callable, Iterator, Sequence
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

    def evaluate(*drawn: Tensor) -> Tensor:
        result = statistic(*(sample[rows] for sample, rows in zip(cases, drawn, strict=True)))
        if result.shape != drawn[0].shape[:1]:
            raise ValueError(f"the statistic must keep the draws, {len(drawn[0])}: it returned {tuple(result.shape)}")
        return result[:, None]

    elements = sum(sample.numel() for sample in cases)
    return _estimates(evaluate, [len(sample) for sample in cases], elements, draws, level, seed, method)[0]


def bootstrap_counts(
    statistics: Statistic, sizes: Sequence[int], draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> list[Estimate]:
    """BCa intervals of several statistics that are told how often each case was drawn, and not the cases.

    The resamples are those of `bootstrap`, for samples that are sorted, and so is all else.

    Args:
        statistics: called with how often each case of each sample was drawn, (draws, n) each in float64; returns
            (draws, statistics).
        sizes: cases of each sample.
        draws: number of resamples.
        level: confidence of the intervals.
        seed: of the resampling.

    Raises:
        ValueError: if there is no sample, one is empty, or an option is out of range.

    Example:
        >>> x = torch.arange(10.0, dtype=torch.float64)
        >>> estimates = bootstrap_counts(lambda counts: (counts @ x / 10)[:, None], [10], draws=2000)
        >>> estimates == [bootstrap(lambda x: x.mean(-1), [x], draws=2000)]
        True
    """
    _check_options(draws, level, "bca")
    if not sizes or min(sizes) < 1:
        raise ValueError(f"the bootstrap needs one sample or more, and cases in each, got sizes {list(sizes)}")

    def evaluate(*drawn: Tensor) -> Tensor:
        return statistics(*(_counts(rows, size) for rows, size in zip(drawn, sizes, strict=True)))

    return _estimates(evaluate, sizes, sum(sizes), draws, level, seed, "bca")


def _counts(rows: Tensor, size: int) -> Tensor:
    counts = torch.zeros(len(rows), size, dtype=torch.float64)
    return counts.scatter_add_(1, rows, torch.ones((), dtype=torch.float64).expand(rows.shape))


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
    """Standard deviations to either side between which a normal law has a share of `level`.

    Example:
        >>> round(z_of(0.95), 2)
        1.96
    """
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


def _estimates(
    evaluate: Statistic, sizes: Sequence[int], elements: int, draws: int, level: float, seed: int, method: str
) -> list[Estimate]:
    """Estimates of statistics of drawn rows; `evaluate` takes (draws, n) of each sample, returns (draws, statistics).

    `elements` is how many numbers one draw has, so that chunks of draws bound memory whatever the number of cases.
    """
    chunk = min(MAX_CHUNK, max(1, MAX_ELEMENTS // elements))
    value = evaluate(*(torch.arange(size)[None] for size in sizes))[0]
    if min(sizes) == 1:
        return [Estimate(one, math.nan, math.nan, level, sum(sizes)) for one in value.tolist()]
    generator = torch.Generator().manual_seed(seed)
    resampled = torch.cat([evaluate(*rows) for rows in _resamples(sizes, draws, chunk, generator)])
    quantiles = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64).expand(len(value), 2)
    if method == "bca":
        quantiles = _bca_quantiles(quantiles, value, resampled, _acceleration(evaluate, sizes, chunk))
    ends = [_ends(*found) for found in zip(value, resampled.T, quantiles, strict=True)]
    return [Estimate(float(one), *interval, level, sum(sizes)) for one, interval in zip(value, ends, strict=True)]


def _resamples(sizes: Sequence[int], draws: int, chunk: int, generator: torch.Generator) -> Iterator[list[Tensor]]:
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        yield [torch.randint(size, (rows, size), generator=generator) for size in sizes]


def _leave_one_out(sizes: Sequence[int], which: int, chunk: int) -> Iterator[list[Tensor]]:
    """The rows of all samples, with each case of one of them left out in turn."""
    others = torch.arange(sizes[which] - 1)
    for left_out in torch.arange(sizes[which]).split(chunk):
        block = [torch.arange(size).expand(len(left_out), size) for size in sizes]
        block[which] = others + (others >= left_out[:, None])
        yield block


def _ends(value: Tensor, resampled: Tensor, quantiles: Tensor) -> tuple[float, float]:
    if bool((resampled == resampled[0]).all()):
        return float(value), float(value)
    if not bool(resampled.isfinite().all() and quantiles.isfinite().all()):
        return math.nan, math.nan
    low, high = torch.quantile(resampled, quantiles).tolist()
    return low, high


def _bca_quantiles(quantiles: Tensor, value: Tensor, resampled: Tensor, acceleration: Tensor) -> Tensor:
    below = ((resampled < value).double() + (resampled <= value).double()).mean(0) / 2
    limit = 0.5 / len(resampled)  # a bias beyond all draws counts as half a draw; infinity would lose the interval
    bias = torch.special.ndtri(below.clamp(limit, 1 - limit))[:, None]
    z = bias + torch.special.ndtri(quantiles)
    corrected: Tensor = torch.special.ndtr(bias + z / (1 - acceleration[:, None] * z))
    return corrected


def _acceleration(evaluate: Statistic, sizes: Sequence[int], chunk: int) -> Tensor:
    """Skewness of each statistic's influence, from the jackknife of each sample."""
    cubes, squares = torch.zeros(2, dtype=torch.float64)
    for which, size in enumerate(sizes):
        left_out = torch.cat([evaluate(*rows) for rows in _leave_one_out(sizes, which, chunk)])
        influence = (size - 1) / size * (left_out.mean(0) - left_out)
        cubes = cubes + influence.pow(3).sum(0)
        squares = squares + influence.square().sum(0)
    return torch.where(squares == 0, 0.0, cubes / (6 * squares.pow(1.5)))
