r"""Confidence intervals in closed form: of means, of ratios of means, of a change in paired rates.

`bootstrap` serves every other statistic. Its intervals of means cover as little as 0.85 instead of 0.95 where sets are
small, skewed or of unequal spread; these hold 0.93 from 8 cases a set on (``benchmarks/intervals.py``).
"""

import math
from collections.abc import Callable

from scipy.special import nctdtr, stdtrit
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate, wilson_interval, z_of
from lit_memories.metrics.checks import as_set

HIDDEN = 16
r"""Makes up for the tail that a small sample of a skewed law has not seen: with n cases in the smaller set, an interval
of level :math:`1 - \alpha` is made with :math:`\alpha\, n / (n + 16)`. Simulation asks for it, see
docs/results/intervals.md."""
EDGE = 60
"""Halvings that find an end of an interval: to the last bit."""


def mean_interval(values: Tensor, others: Tensor | None = None, level: float = 0.95) -> Estimate:
    r"""A mean, or the difference of the means of two independent sets, with its interval.

    .. math:: \left[\hat d - t s + \min(j, 0),\ \hat d + t s + \max(j, 0)\right], \quad
        s^2 = \sum_k \frac{s_k^2}{n_k}, \quad j = \frac{1 + 2 t^2}{6 s^2} \sum_k \pm \frac{\hat\mu_{3,k}}{n_k^2}

    is Welch's interval (1947), t of Student's law with Satterthwaite's degrees of freedom, joined with Johnson's
    (1978), which a skewed law shifts by j. The level that t is taken at is raised for small sets, see `HIDDEN`.

    A set of one case says nothing about its spread, and the interval is NaN. If no case differs from any other of its
    set, the interval is the value itself.

    Args:
        values: one number a case (n,).
        others: the same of the set whose mean is taken off (m,); None for a single set.
        level: confidence of the interval.

    Raises:
        ValueError: if a set is empty, not finite or not (n,), or the level out of range.

    Example:
        >>> import torch
        >>> estimate = mean_interval(torch.arange(10.0))
        >>> print(f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]")
        4.5 [1.8, 7.2]
    """
    sets = [_as_cases(values, "set")] + ([] if others is None else [_as_cases(others, "other set")])
    _check_level(level)
    signs = (1, -1)[: len(sets)]
    value = sum(sign * float(cases.mean()) for sign, cases in zip(signs, sets, strict=True))
    count, smallest = sum(map(len, sets)), min(map(len, sets))
    if smallest == 1:
        return Estimate(value, math.nan, math.nan, level, count)
    variances = [float(cases.var()) / len(cases) for cases in sets]
    square = sum(variances)
    if square == 0:
        return Estimate(value, value, value, level, count)
    freedom = square**2 / sum(v**2 / (len(cases) - 1) for v, cases in zip(variances, sets, strict=True))
    third = sum(sign * _third_moment(cases) / len(cases) ** 2 for sign, cases in zip(signs, sets, strict=True))
    t = quantile(level, smallest, freedom)
    half, shift = t * math.sqrt(square), (1 + 2 * t**2) * third / (6 * square)
    return Estimate(value, value - half + min(shift, 0), value + half + max(shift, 0), level, count)


def quantile(level: float, smallest: int, freedom: float) -> float:
    """How many standard errors an interval of a mean reaches to either side, but for skewness.

    Args:
        level: confidence of the interval.
        smallest: cases of the smaller set.
        freedom: degrees of freedom.

    Example:
        >>> [round(quantile(0.95, count, 2 * count - 2), 2) for count in (8, 24, 1000)]
        [2.72, 2.24, 1.97]
    """
    return float(stdtrit(freedom, 1 - (1 - level) / 2 * smallest / (smallest + HIDDEN)))


def power(effect: float, error: float, smallest: int, freedom: float, level: float = 0.95) -> float:
    """How often the interval of a difference excludes 0, if the sets are normal.

    Args:
        effect: the true difference, 0 or more.
        error: the standard error of its estimate, above 0.
        smallest: cases of the smaller set.
        freedom: degrees of freedom.
        level: confidence of the interval.

    Example:
        >>> [round(power(effect, 1.0, 24, 46.0), 2) for effect in (0.0, 2.0, 4.0)]
        [0.03, 0.41, 0.96]
    """
    t, shift = quantile(level, smallest, freedom), effect / error
    return float(1 - nctdtr(freedom, shift, t) + nctdtr(freedom, shift, -t))


def least_effect(error: float, smallest: int, freedom: float, reach: float = 0.8, level: float = 0.95) -> float:
    """The least true difference that `power` finds this often.

    Args:
        error: the standard error of its estimate, above 0.
        smallest: cases of the smaller set.
        freedom: degrees of freedom.
        reach: how often it is to be found.
        level: confidence of the interval.

    Example:
        >>> effect = least_effect(1.0, 24, 46.0)
        >>> round(effect, 2), round(power(effect, 1.0, 24, 46.0), 2)
        (3.09, 0.8)
    """
    low, high = 0.0, error
    while power(high, error, smallest, freedom, level) < reach:
        low, high = high, 2 * high
    for _ in range(EDGE):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, error, smallest, freedom, level) >= reach else (middle, high)
    return high


def ratio_interval(concept: Tensor, reference: Tensor | None = None, level: float = 0.95) -> Estimate:
    r"""A difference of means in units of another one, with Fieller's interval (1954).

    The ratio is that of :math:`\bar x_E - \bar x_R` to :math:`\bar y_E - \bar y_R`, x and y measured on the same cases.
    The interval holds the :math:`\theta` for which :math:`x - \theta y` may differ by nothing between the sets, by
    `mean_interval`: whatever the unit's own uncertainty. Where the unit is not told from 0 such :math:`\theta` reach to
    infinity, and the interval is NaN: the data set no scale.

    Args:
        concept: columns x and y of one set (n, 2).
        reference: of the other (m, 2); None if nothing is taken off.
        level: confidence of the interval.

    Raises:
        ValueError: if a set is empty or not finite, or the level out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([40.0, 52.0, 45.0, 48.0, 39.0, 50.0, 44.0, 47.0])
        >>> estimate = ratio_interval(torch.stack([x, 2 * x], 1), torch.stack([x * 0, x * 0], 1))
        >>> print(f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]")
        0.50 [0.50, 0.50]
    """

    def difference(theta: float) -> Estimate:
        taken_off = None if reference is None else reference[:, 0] - theta * reference[:, 1]
        return mean_interval(concept[:, 0] - theta * concept[:, 1], taken_off, level)

    unit = mean_interval(concept[:, 1], None if reference is None else reference[:, 1], level)
    value = difference(0).value / unit.value if unit.value else math.nan
    if not (unit.low > 0 or unit.high < 0):
        return Estimate(value, math.nan, math.nan, level, unit.count)

    def inside(theta: float) -> bool:
        estimate = difference(theta)
        return theta == value or estimate.low <= 0 <= estimate.high

    low, high = (_edge(inside, value, step) for step in (-1.0, 1.0))
    return Estimate(value, low, high, level, unit.count)


def paired_rate_interval(gained: int, lost: int, total: int, level: float = 0.95) -> Estimate:
    r"""Change of a rate between two looks at the same cases, with Tango's score interval (1998).

    The interval holds the changes :math:`\Delta` with

    .. math:: \lvert b - c - n \Delta \rvert \le z \sqrt{n \left(2 \tilde q + \Delta (1 - \Delta)\right)}

    where :math:`\tilde q` is the most likely share of lost cases if the change is :math:`\Delta`. It has a width where
    nothing changed in any case, which a bootstrap does not.

    Args:
        gained: cases that were met the second time only, b.
        lost: cases that were met the first time only, c.
        total: all cases, n.
        level: confidence of the interval.

    Raises:
        ValueError: if there is no case, the numbers do not fit, or the level is out of range.

    Example:
        >>> estimate = paired_rate_interval(0, 0, 24)
        >>> print(f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]")
        0.00 [-0.14, 0.14]
    """
    if total < 1 or min(gained, lost) < 0 or gained + lost > total:
        raise ValueError(f"{gained} gained and {lost} lost cases are not among {total}")
    _check_level(level)
    z, value = z_of(level), (gained - lost) / total

    def inside(change: float) -> bool:
        a, b = 2 * total, -gained - lost + (2 * total - gained + lost) * change
        share = (math.sqrt(max(0.0, b * b + 4 * a * lost * change * (1 - change))) - b) / (2 * a)
        spread = total * (2 * share + change * (1 - change))
        return abs(gained - lost - total * change) <= z * math.sqrt(max(0.0, spread)) + 1e-12

    low, high = (_bisect(inside, value, end) for end in (-1.0, 1.0))
    return Estimate(value, low, high, level, total)


def rate_difference_interval(hits: int, total: int, others: int, total_others: int, level: float = 0.95) -> Estimate:
    """Difference of two rates of independent cases, with Newcombe's interval from two of Wilson's (1998, method 10).

    Args:
        hits: cases that are met in the first set.
        total: of its cases.
        others: cases that are met in the second set, whose rate is taken off.
        total_others: of its cases.
        level: confidence of the interval.

    Raises:
        ValueError: if a set is empty, or more cases are met than there are.

    Example:
        >>> estimate = rate_difference_interval(56, 70, 48, 80)
        >>> print(f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]")
        0.2000 [0.0524, 0.3339]
    """
    one, two = wilson_interval(hits, total, level), wilson_interval(others, total_others, level)
    value = one.value - two.value
    low = value - math.hypot(one.value - one.low, two.high - two.value)
    high = value + math.hypot(one.high - one.value, two.value - two.low)
    return Estimate(value, low, high, level, total + total_others)


def _as_cases(values: Tensor, name: str) -> Tensor:
    cases = as_set(values, name).cpu()
    if cases.ndim != 1:
        raise ValueError(f"a {name} must be (n,), got {tuple(values.shape)}")
    return cases.sort().values  # sums round alike, however the cases arrived


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def _third_moment(cases: Tensor) -> float:
    """Unbiased third central moment (Johnson's estimate); 0 for two cases, which cannot be skewed."""
    n = len(cases)
    return 0.0 if n < 3 else float((cases - cases.mean()).pow(3).sum()) * n / ((n - 1) * (n - 2))


def _edge(inside: Callable[[float], bool], value: float, step: float) -> float:
    """Where an interval around a value ends in the direction of a step; infinity if nowhere."""
    for _ in range(EDGE):
        if not inside(value + step):
            return _bisect(inside, value, value + step)
        step *= 2
    return math.copysign(math.inf, step)


def _bisect(inside: Callable[[float], bool], value: float, outside: float) -> float:
    if inside(outside):
        return outside
    for _ in range(EDGE):
        middle = (value + outside) / 2
        value, outside = (middle, outside) if inside(middle) else (value, middle)
    return value
