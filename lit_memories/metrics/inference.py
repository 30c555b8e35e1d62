"""Tests between sets: is a difference real, which of many are, what could be seen at all, and how well sets part."""

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.checks import as_float64, as_set
from lit_memories.metrics.intervals import least_effect


def holm(p_values: Tensor) -> Tensor:
    """p-values adjusted for their number: reject those at or below the level, and no true null falls more often.

    Holm's step-down (1979) controls the probability of one or more false rejections under any dependence, and never
    rejects less than Bonferroni's correction.

    Args:
        p_values: one family along the last dimension (..., m).

    Returns:
        Adjusted p-values (..., m), float64, at most 1.

    Raises:
        ValueError: if one is not in [0, 1].

    Example:
        >>> holm(torch.tensor([0.04, 0.01, 0.03]))
        tensor([0.0600, 0.0300, 0.0600], dtype=torch.float64)
    """
    values = as_float64(p_values)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError("p-values must be in [0, 1]: leave out those that are not known")
    ordered, order = values.sort(-1)
    remaining = torch.arange(values.shape[-1], 0, -1, dtype=torch.float64, device=values.device)
    adjusted = (ordered * remaining).cummax(-1).values.clamp(max=1)
    return torch.empty_like(adjusted).scatter(-1, order, adjusted)


def resolvable(
    sd_concept: float, n_concept: int, sd_reference: float, n_reference: int, power: float = 0.8, level: float = 0.95
) -> float:
    """The smallest forgetting, in nats, whose interval would exclude 0: say it where nothing was found.

    The power is that of `mean_interval` for normal shifts, by the noncentral law of Student's statistic with Welch's
    degrees of freedom, but for Johnson's correction, which takes some of it in small sets: of 0.80, 0.73 are left with
    8 images a set and 0.78 with 24 (docs/results/intervals.md).

    Args:
        sd_concept: standard deviation of the paired shifts of E, nats.
        n_concept: number of them, 2 or more.
        sd_reference: standard deviation of the paired shifts of R, nats.
        n_reference: number of them, 2 or more.
        power: probability of finding it.
        level: of the interval.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> round(resolvable(15, 24, 10, 24), 1)
        11.4
    """
    if min(n_concept, n_reference) < 2 or min(sd_concept, sd_reference) < 0:
        raise ValueError("a spread needs two images or more in each set, and is not negative")
    if not (0 < level < 1 and 1 - level < power < 1):
        raise ValueError(f"level must be in (0, 1) and power in (1 - level, 1), got {level} and {power}")
    parts = sd_concept**2 / n_concept, sd_reference**2 / n_reference
    if sum(parts) == 0:
        return 0.0
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n_concept - 1) + parts[1] ** 2 / (n_reference - 1))
    return least_effect(math.sqrt(sum(parts)), min(n_concept, n_reference), freedom, power, level)


def images_to_resolve(
    nats: float, sd_concept: float, sd_reference: float, power: float = 0.8, level: float = 0.95
) -> int:
    """How many images each of E and R needs for a forgetting to be found: the inverse of `resolvable`.

    Args:
        nats: the forgetting, above 0.
        sd_concept: standard deviation of the paired shifts of E, nats.
        sd_reference: standard deviation of the paired shifts of R, nats.
        power: probability of finding it.
        level: of the interval.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> images_to_resolve(5, 15, 10)
        108
    """
    if nats <= 0:
        raise ValueError(f"a forgetting to resolve must be above 0 nats, got {nats}")

    def enough(count: int) -> bool:
        return resolvable(sd_concept, count, sd_reference, count, power, level) <= nats

    high = 2
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def auc(positives: Tensor, negatives: Tensor, level: float = 0.95) -> Estimate:
    r"""Probability that a positive exceeds a negative, ties half: 0.5 cannot tell them, 1 tells them always.

    The interval holds all :math:`\theta` with :math:`\lvert \hat\theta - \theta \rvert \le z \sqrt{r V(\theta)}`, where

    .. math:: V(\theta) = \frac{\theta (1 - \theta)}{mn} \left(1 + \left(\frac{m + n}{2} - 1\right)
        \left(\frac{1 - \theta}{2 - \theta} + \frac{\theta}{1 + \theta}\right)\right)

    is Hanley and McNeil's variance as Newcombe (2006, part 2, method 5) takes it: unlike a bootstrap or DeLong's
    interval it keeps a width where the sets part completely, as Wilson's does for rates. It assumes equal spreads;
    where DeLong's variance (1988), which assumes nothing, is the larger at :math:`\hat\theta`, r is their ratio, else
    1. Simulated coverage of the 95 % interval for normal sets of 12 to 60, spreads up to 1 : 3 and AUC 0.5 to 0.99 is
    0.93 to 0.99; that of DeLong's, on the logit scale, falls to 0.84.

    Args:
        positives: scores (n,).
        negatives: scores (m,).
        level: confidence of the interval.

    Raises:
        ValueError: if a set is empty, not finite or not (n,), or the level out of range.

    Example:
        >>> estimate = auc(torch.tensor([3.0, 4.0, 5.0, 6.0]), torch.tensor([1.0, 2.0, 3.0, 0.0]))
        >>> print(f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]")
        0.97 [0.55, 1.00]
    """
    above, below = as_set(positives, "positive set").cpu(), as_set(negatives, "negative set").cpu()
    if above.ndim != 1 or below.ndim != 1:
        raise ValueError(f"sets must be (n,), got {tuple(positives.shape)} and {tuple(negatives.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    above, below = above.sort().values, below.sort().values  # sums round alike, however the cases arrived
    wins, losses = _share_below(above, below), 1 - _share_below(below, above)
    value = float(wins.mean())
    z, variance = NormalDist().inv_cdf((1 + level) / 2), _hanley_mcneil(len(above), len(below))
    ratio = 1.0
    if 0 < value < 1 and min(len(above), len(below)) > 1:
        delong = float(wins.var()) / len(above) + float(losses.var()) / len(below)
        ratio = max(1.0, delong / variance(value))

    def compatible(theta: float) -> bool:
        return abs(value - theta) <= z * math.sqrt(ratio * variance(theta))

    low, high = (_edge(compatible, value, end) for end in (0.0, 1.0))
    return Estimate(value, low, high, level, len(above) + len(below))


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Which share of `others`, in order, each value exceeds, ties half."""
    left, right = (torch.searchsorted(others, values, right=side) for side in (False, True))
    return (left + right).double() / (2 * len(others))


def _hanley_mcneil(m: int, n: int) -> Callable[[float], float]:
    def variance(theta: float) -> float:
        inner = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return theta * (1 - theta) * (1 + ((m + n) / 2 - 1) * inner) / (m * n)

    return variance


def _edge(compatible: Callable[[float], bool], inside: float, end: float) -> float:
    """Where compatibility ends between a value that has it and an end of the range, by bisection."""
    outside = end
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if compatible(middle) else (inside, middle)
    return inside
