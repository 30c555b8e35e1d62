"""Whether two rates are the same: Boschloo's exact test, in a time that grows with the cases and not with their square.

``scipy.stats.boschloo_exact`` looks at every pair of counts: a minute for two thousand cases, and all of the memory for
ten thousand. Here pairs of one sum are taken together. Their probabilities add up to a hypergeometric law, and which of
them are as extreme as what was found is told by a single limit, since Fisher's p-value grows along them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

GUARD = 1 + 1e-13
"""Times this, p-values that are equal are found so, however they were rounded."""
POINTS = 32
"""Rates from which the search for the largest p-value starts."""
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def rates_differ(hits: int, total: int, others: int, total_others: int) -> float:
    """Two-sided p-value that two rates of independent cases are the same: Boschloo's exact test (1970).

    It keeps its level at any number of cases, and finds more than Fisher's.

    Args:
        hits: cases that are met in the first set.
        total: of its cases.
        others: cases that are met in the second set.
        total_others: of its cases.

    Raises:
        ValueError: if a set is empty, or more cases are met than there are.

    Example:
        >>> round(rates_differ(18, 24, 24, 24), 3)
        0.013
    """
    if min(total, total_others) < 1 or not (0 <= hits <= total and 0 <= others <= total_others):
        raise ValueError(f"{hits} of {total} and {others} of {total_others} are no two rates")
    if hits + others in (0, total + total_others):
        return 1.0  # all cases alike
    less = _less(hits, total, others, total_others)
    greater = _less(others, total_others, hits, total)
    return min(1.0, 2 * min(less, greater))


def _less(hits: int, total: int, others: int, total_others: int) -> float:
    """One-sided p-value: the first rate is not below the second; at the common rate that makes it largest."""
    from scipy.optimize import shgo  # takes a second, which only reports need

    law = _law(hits, total, others, total_others)
    if law is None:
        return 0.0
    found = shgo(law, bounds=((0, 1),), n=POINTS, sampling_method="sobol")
    return float(np.clip(np.exp(-found.fun), 0, 1))


def _law(hits: int, total: int, others: int, total_others: int) -> Callable[[Floats], Floats] | None:
    """Minus the logarithm of the probability of counts as extreme as these, as a function of the common rate.

    None where a float has no number small enough for it.
    """
    from scipy.special import gammaln
    from scipy.stats import hypergeom

    cases = total + total_others

    def fisher(first: Whole, sums: Whole) -> Floats:
        return np.asarray(hypergeom.cdf(first, cases, sums, total))

    limit = hypergeom.cdf(hits, cases, hits + others, total) * GUARD
    edge = _edge(lambda first, sums: fisher(first, sums) <= limit, total, total_others)
    sums = np.arange(cases + 1)
    shares = fisher(edge, sums)
    kept = shares > 0
    if not kept.any():
        return None
    sums, rest = sums[kept], (cases - sums)[kept]
    ways = gammaln(cases + 1) - gammaln(sums + 1) - gammaln(rest + 1) + np.log(shares[kept])

    def negative(rate: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = ways + np.where(sums, sums * np.log(rate), 0) + np.where(rest, rest * np.log(1 - rate), 0)
            largest = logs.max()
            return np.asarray(-(largest + np.log(np.exp(logs - largest).sum())))

    return negative


def _edge(extreme: Callable[[Whole, Whole], NDArray[np.bool_]], total: int, total_others: int) -> Whole:
    """The largest first count that is extreme, for each sum of both; one below the least possible where none is.

    From one sum to the next it stays or grows by one, as a pair with less in the first set, or more in the second, than
    an extreme one is extreme too (Barnard's condition). Between sums that are known there is therefore little to try.

    Args:
        extreme: whether pairs are, by their first counts and their sums.
        total: cases of the first set.
        total_others: of the second.
    """
    cases = total + total_others
    every = np.arange(cases + 1)
    inside, outside = np.maximum(0, every - total_others) - 1, np.minimum(every, total) + 1
    for power in range(cases.bit_length(), -1, -1):
        stride = 1 << power
        new = every[stride :: 2 * stride]
        inside[new] = np.maximum(inside[new], inside[new - stride])
        outside[new] = np.minimum(outside[new], outside[new - stride] + stride)
        new = new[new + stride <= cases]
        inside[new] = np.maximum(inside[new], inside[new + stride] - stride)
        outside[new] = np.minimum(outside[new], outside[new + stride])
        left = every[::stride]
        while len(left := left[outside[left] - inside[left] > 1]):
            middle = (inside[left] + outside[left]) // 2
            met = extreme(middle, left)
            inside[left[met]], outside[left[~met]] = middle[met], middle[~met]
    return inside
