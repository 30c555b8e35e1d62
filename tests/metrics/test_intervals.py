"""Intervals in closed form: what they are, and by simulation what they hold."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from lit_memories.metrics import mean_interval, paired_rate_interval, rate_difference_interval, ratio_interval
from lit_memories.metrics.intervals import HIDDEN, quantile

DRAWS = 1500
"""Data sets a cell: a share of 0.95 is known to 0.006, and 0.02 below is more than three of that."""


def normal(rng, shape):
    return rng.normal(size=shape)


def t3(rng, shape):
    return rng.standard_t(3, size=shape)


def exponential(rng, shape):
    return rng.exponential(size=shape) - 1


def lognormal(rng, shape):
    return rng.lognormal(size=shape) - math.exp(0.5)


def outliers(rng, shape):
    return rng.normal(size=shape) * np.where(rng.random(shape) < 0.05, 10, 1)


LAWS = normal, t3, exponential, lognormal, outliers


def held(law, n, m, ratio, draws=DRAWS):
    """Share of data sets of one mean in which the interval of the difference holds 0."""
    rng = np.random.default_rng([n, m, ratio])
    x, y = (torch.from_numpy(table) for table in (ratio * law(rng, (draws, n)), law(rng, (draws, m))))
    found = [mean_interval(a, b) for a, b in zip(x, y, strict=True)]
    return sum(estimate.low <= 0 <= estimate.high for estimate in found) / draws


@pytest.mark.parametrize("n", [8, 64])
@pytest.mark.parametrize(("law", "ratio"), [(normal, 1), (lognormal, 3), (outliers, 1)])
def test_a_difference_of_means_is_held(law, ratio, n):
    """The hardest law, the plain one and one of heavy tails; the slow test has all of them."""
    assert held(law, n, n, ratio) >= 0.93 - 0.012, "four standard errors of the simulation where the share is 0.93"


@pytest.mark.slow
@pytest.mark.parametrize(("law", "ratio", "n"), product(LAWS, (1, 3), (8, 16, 32, 64)))
def test_five_laws_are_held_at_every_size(law, ratio, n):
    assert held(law, n, n, ratio, 6000) >= 0.93 - 0.007


def test_without_skewness_it_is_welchs_at_a_higher_level():
    rng = np.random.default_rng(0)
    half_x, half_y = rng.normal(size=9), 3 * rng.normal(size=5)
    x, y = np.concatenate([half_x, -half_x]) + 2, np.concatenate([half_y, -half_y])
    level = 1 - 0.05 * 10 / (10 + HIDDEN)
    welch = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(level)
    estimate = mean_interval(torch.from_numpy(x), torch.from_numpy(y))
    assert (estimate.value, estimate.count) == (pytest.approx(2), 28)
    assert (estimate.low, estimate.high) == (pytest.approx(welch.low), pytest.approx(welch.high))


def test_one_mean_is_students_and_johnsons():
    x = np.random.default_rng(1).exponential(size=20)
    t = scipy.stats.t.ppf(1 - 0.025 * 20 / 36, 19)
    error = scipy.stats.sem(x)
    third = scipy.stats.skew(x, bias=False) * x.std(ddof=1) ** 3  # the unbiased third moment, up to the spread's own
    third = 20 * ((x - x.mean()) ** 3).sum() / (19 * 18) if third else 0
    shift = (1 + 2 * t**2) * third / (6 * error**2 * 400)
    estimate = mean_interval(torch.from_numpy(x))
    assert shift > 0
    assert estimate.low == pytest.approx(x.mean() - t * error)
    assert estimate.high == pytest.approx(x.mean() + t * error + shift)


def test_a_mean_is_the_same_however_its_cases_arrive_and_turns_with_them():
    x = torch.from_numpy(np.random.default_rng(2).lognormal(size=17))
    y = torch.from_numpy(np.random.default_rng(3).lognormal(size=9))
    estimate, mirrored = mean_interval(x, y), mean_interval(y, x)
    assert mean_interval(x.flip(0), y[torch.randperm(9)]) == estimate
    assert (mirrored.low, mirrored.high) == (pytest.approx(-estimate.high), pytest.approx(-estimate.low))
    scaled = mean_interval(3 * x + 5, 3 * y)
    assert (scaled.low, scaled.high) == (pytest.approx(3 * estimate.low + 5), pytest.approx(3 * estimate.high + 5))


def test_what_means_cannot_say():
    one = mean_interval(torch.ones(1), torch.arange(9.0))
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert one.value == -3
    same = mean_interval(torch.full((5,), 2.0))
    assert (same.low, same.high) == (2, 2), "no case differs from any other"
    for bad, message in ((torch.zeros(0), "empty"), (torch.tensor([math.nan]), "non-finite"), (torch.ones(2, 2), "n,")):
        with pytest.raises(ValueError, match=message):
            mean_interval(bad)
    with pytest.raises(ValueError, match="level must be"):
        mean_interval(torch.arange(3.0), level=1)


def test_large_sets_have_students_quantile():
    assert quantile(0.95, 10**6, 10**6) == pytest.approx(scipy.stats.norm.ppf(0.975), rel=1e-4)


# a fraction


@pytest.mark.parametrize(("mean", "n"), [(90, 16), (12, 16), (6, 32)])
def test_a_fraction_is_held_whether_or_not_its_unit_is_told_from_nothing(mean, n):
    rng, found = np.random.default_rng(n), []
    for _ in range(60):
        e, r = (rng.normal(size=(2, n)) for _ in range(2))
        concept, reference = ((0.3 * mean, mean), (0, 0))
        tables = [
            torch.from_numpy(np.stack([at[0] + 12 * noise[0], at[1] + 25 * noise[1]], 1))
            for at, noise in ((concept, e), (reference, r))
        ]
        found.append(ratio_interval(*tables))
    held = [not (estimate.low > 0.3 or estimate.high < 0.3) for estimate in found]
    assert sum(held) / len(held) >= 0.92
    if mean == 90:
        assert all(estimate.high < 1 for estimate in found)
    else:
        assert any(math.isnan(estimate.low) for estimate in found), "some data set no scale"


def test_a_fraction_is_where_the_difference_may_be_nothing():
    """Fieller by its definition: at each end the interval of x less theta y ends at 0."""
    rng = np.random.default_rng(5)
    e, r = (torch.from_numpy(rng.normal(size=(20, 2)) * [10, 20] + at) for at in ([40, 90], [3, -2]))
    estimate = ratio_interval(e, r)
    assert estimate.value == pytest.approx(float((e[:, 0].mean() - r[:, 0].mean()) / (e[:, 1].mean() - r[:, 1].mean())))

    def ends(theta):
        found = mean_interval(e[:, 0] - theta * e[:, 1], r[:, 0] - theta * r[:, 1])
        return found.low, found.high

    assert ends(estimate.low)[0] == pytest.approx(0, abs=1e-9)
    assert ends(estimate.high)[1] == pytest.approx(0, abs=1e-9)
    assert not math.isnan(estimate.low + estimate.high)
    turned = ratio_interval(torch.stack([e[:, 0], -e[:, 1]], 1), torch.stack([r[:, 0], -r[:, 1]], 1))
    assert (turned.low, turned.high) == (pytest.approx(-estimate.high), pytest.approx(-estimate.low))


def test_the_unit_itself_is_one_and_nothing_is_none():
    rng = np.random.default_rng(6)
    y, z = (torch.from_numpy(rng.normal(size=12) + at) for at in (9, 0))
    unit = ratio_interval(torch.stack([y, y], 1), torch.stack([z, z], 1))
    assert (unit.value, unit.low, unit.high) == (1, pytest.approx(1), pytest.approx(1))
    none = ratio_interval(torch.stack([0 * y, y], 1), torch.stack([0 * z, z], 1))
    assert (none.value, none.low, none.high) == (0, pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


# rates


def score(gained, lost, total, change):
    """Tango's statistic with the constrained likelihood maximised by search."""

    def likelihood(share):
        parts = (gained, share + change), (lost, share), (total - gained - lost, 1 - 2 * share - change)
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    low, high = max(0.0, -change), (1 - change) / 2
    share = scipy.optimize.minimize_scalar(likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (gained - lost - total * change) / math.sqrt(total * (2 * share + change * (1 - change)))


@pytest.mark.parametrize(("gained", "lost", "total"), [(1, 7, 24), (3, 2, 16), (0, 5, 24), (9, 1, 30)])
def test_a_change_of_paired_rates_is_tangos(gained, lost, total):
    estimate = paired_rate_interval(gained, lost, total)
    z = scipy.stats.norm.ppf(0.975)
    assert score(gained, lost, total, estimate.low) == pytest.approx(z, rel=1e-4)
    assert score(gained, lost, total, estimate.high) == pytest.approx(-z, rel=1e-4)
    mirrored = paired_rate_interval(lost, gained, total)
    assert (mirrored.low, mirrored.high) == (pytest.approx(-estimate.high), pytest.approx(-estimate.low))


def test_no_change_in_any_case_has_a_width():
    estimate = paired_rate_interval(0, 0, 24)
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert (estimate.value, estimate.low, estimate.high) == (
        0,
        pytest.approx(-z2 / (24 + z2)),
        pytest.approx(z2 / (24 + z2)),
    )
    everything = paired_rate_interval(0, 24, 24)
    assert everything.value == everything.low == -1
    assert -1 < everything.high < -0.7


@pytest.mark.parametrize("total", [8, 24, 50])
@pytest.mark.parametrize(("gain", "loss"), [(0, 0), (0, 0.02), (0, 0.1), (0.05, 0.1), (0.02, 0.3)])
def test_changes_of_paired_rates_are_held(total, gain, loss):
    """Exact: over all that can happen."""
    share = 0.0
    for lost in range(total + 1):
        for gained in range(total - lost + 1):
            p = scipy.stats.multinomial.pmf([gained, lost, total - gained - lost], total, [gain, loss, 1 - gain - loss])
            if p > 1e-9:
                estimate = paired_rate_interval(gained, lost, total)
                share += p * (estimate.low <= gain - loss <= estimate.high)
    assert share >= 0.93


def test_a_difference_of_rates_is_newcombes():
    """His examples (1998, table II): 56 of 70 against 48 of 80, and 9 of 10 against 3 of 10."""
    for counts, low, high in (((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090)):
        estimate = rate_difference_interval(*counts)
        assert (estimate.low, estimate.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(("gained", "lost", "total"), [(0, 0, 0), (-1, 0, 3), (2, 2, 3)])
def test_numbers_that_do_not_fit_are_refused(gained, lost, total):
    with pytest.raises(ValueError, match="are not among"):
        paired_rate_interval(gained, lost, total)
