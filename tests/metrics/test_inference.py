"""Tests between sets against scipy, full enumeration and simulation; all seeded."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch

from lit_memories.metrics import (
    auc,
    holm,
    images_to_resolve,
    mean_interval,
    permutation,
    permutation_test,
    permutation_tests,
    rates_differ,
    resolvable,
)
from lit_memories.metrics.boschloo import GUARD, _edge


def normal(seed, *shape, mean=0.0, sd=1.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, sd, shape))


# permutation test


def welch(x, y):
    return abs(scipy.stats.ttest_ind(x, y, equal_var=False).statistic)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 6), (7, 3)])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_few_cases_are_enumerated(n, m, shift):
    x, y = normal(1, n, mean=shift, sd=2), normal(2, m)
    pooled = np.concatenate([x.numpy(), y.numpy()])
    statistics = []
    for chosen in combinations(range(n + m), n):
        rest = [k for k in range(n + m) if k not in chosen]
        statistics.append(welch(pooled[list(chosen)], pooled[rest]))
    test = permutation_test(x, y)
    assert test.exact
    assert test.relabellings == math.comb(n + m, n)
    assert test.p_value == pytest.approx(np.mean(np.array(statistics) >= welch(x, y) * (1 - 1e-9)))
    assert test.difference == pytest.approx(float(x.mean() - y.mean()))


def test_a_set_of_one_is_ranked_by_its_distance():
    """Its p-value is the share of cases at least as extreme as it is; there is no spread to divide by on its side."""
    others = torch.arange(9.0)
    assert permutation_test(torch.tensor([100.0]), others).p_value == pytest.approx(0.1)
    assert permutation_test(others, torch.tensor([4.0])).p_value == pytest.approx(1)


def test_drawn_relabellings_agree_with_all_of_them():
    x, y = normal(3, 8, mean=0.9), normal(4, 9)
    every, some = permutation_test(x, y, draws=30_000), permutation_test(x, y, draws=20_000)
    assert every.exact
    assert every.relabellings == 24_310
    assert not some.exact
    error = math.sqrt(every.p_value * (1 - every.p_value) / 20_000)
    assert some.p_value == pytest.approx(every.p_value, abs=4 * error)


def test_drawn_relabellings_agree_with_scipy():
    x, y = normal(5, 20, mean=0.6, sd=1.5).numpy(), normal(6, 30).numpy()
    expected = scipy.stats.permutation_test(
        (x, y),
        lambda a, b, axis: np.abs(scipy.stats.ttest_ind(a, b, axis=axis, equal_var=False).statistic),
        n_resamples=9999,
        vectorized=True,
        alternative="greater",
        rng=np.random.default_rng(0),
    ).pvalue
    ours = permutation_test(torch.from_numpy(x), torch.from_numpy(y)).p_value
    assert ours == pytest.approx(expected, abs=4 * math.sqrt(2 * expected / 10_000))


def test_the_data_count_as_a_relabelling():
    """Apart as they are, no relabelling reaches them: p is the least there is, and never zero."""
    test = permutation_test(normal(7, 40, mean=50), normal(8, 40), draws=99)
    assert test.p_value == pytest.approx(0.01)


@pytest.mark.parametrize("values", [0.0, 7.3])
def test_equal_data_are_no_evidence(values):
    assert permutation_test(torch.full((4,), values), torch.full((5,), values)).p_value == 1
    assert permutation_test(torch.full((40,), values), torch.full((50,), values), draws=99).p_value == 1


def test_constant_but_different_sets_are_as_apart_as_can_be():
    assert permutation_test(torch.ones(4), torch.zeros(5)).p_value == pytest.approx(1 / 126)


def test_neither_order_nor_unit_nor_origin_matters():
    x, y = normal(9, 20), normal(10, 15, mean=0.7)
    test = permutation_test(x, y, draws=500)
    assert permutation_test(x.flip(0), y.roll(3), draws=500) == test
    assert permutation_test(1e-6 * x + 3, 1e-6 * y + 3, draws=500).p_value == test.p_value
    assert permutation_test(1e6 * x, 1e6 * y, draws=500).p_value == test.p_value
    assert permutation_test(x, y, draws=500, seed=1).p_value != test.p_value


def test_swapping_the_sets_turns_the_sign_only():
    x, y = normal(11, 6), normal(12, 7, mean=0.7)
    one, other = permutation_test(x, y), permutation_test(y, x)
    assert one.p_value == other.p_value
    assert one.difference == pytest.approx(-other.difference)


def one_by_one(x, y, draws, seed):
    """A test as its definition says, in plain numbers: relabelled values are those with the smallest random keys."""
    x, y = x.sort().values.numpy(), y.sort().values.numpy()
    pooled, observed = np.concatenate([x, y]), welch(x, y)
    keys = torch.rand(draws, len(pooled), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    orders = keys.argsort(1).numpy()
    extreme = sum(welch(pooled[order[: len(x)]], pooled[order[len(x) :]]) >= observed * (1 - 1e-9) for order in orders)
    return (extreme + 1) / (draws + 1)


@pytest.mark.parametrize("room", [2**21, 100])
def test_many_tests_at_once_are_each_what_it_is_alone(monkeypatch, room):
    """Of equal sizes, of equal sums of sizes, enumerated, swapped, without any spread, in chunks of any size."""
    monkeypatch.setattr(permutation, "MAX_ELEMENTS", room)
    sizes = [(20, 15), (20, 15), (15, 20), (12, 23), (4, 5), (30, 31)]
    pairs = [(normal((1, k), n, mean=0.5), normal((2, k), m, sd=3)) for k, (n, m) in enumerate(sizes)]
    found = permutation_tests([*pairs, (torch.zeros(20), torch.zeros(15))], draws=200, seed=3)
    assert [test.exact for test in found] == [False] * 4 + [True] + [False] * 2
    assert found[:-1] == [permutation_test(*pair, draws=200, seed=3) for pair in pairs]
    assert found[-1].p_value == 1
    for pair, test in zip(pairs, found[:-1], strict=True):
        assert test.exact or test.p_value == one_by_one(*pair, 200, 3)
    assert permutation_tests([]) == []


def rejections(n, m, sd_x, sd_y, shift=0.0, repeats=400):
    """Share of simulated data sets on which the test says 0.05 or less, each with relabellings of its own."""
    found = 0
    for k in range(repeats):
        x, y = normal((1, k), n, mean=shift, sd=sd_x), normal((2, k), m, sd=sd_y)
        found += permutation_test(x, y, draws=199, seed=k).p_value <= 0.05
    return found / repeats


@pytest.mark.parametrize(("n", "m", "sd_x", "sd_y"), [(12, 12, 1, 1), (24, 24, 20, 8), (12, 48, 30, 8)])
def test_level_is_kept_even_where_only_the_means_are_equal(n, m, sd_x, sd_y):
    """With the plain difference of means the last case rejects 27 % of the time."""
    assert 0.02 <= rejections(n, m, sd_x, sd_y) <= 0.09


@pytest.mark.parametrize(
    ("x", "y", "draws", "message"),
    [
        (torch.zeros(0), torch.ones(2), 9, "the concept set is empty"),
        (torch.ones(2), torch.tensor([math.nan]), 9, "the reference set has 1 non-finite of 1 values"),
        (torch.ones(2, 2), torch.ones(2), 9, r"sets must be \(n,\), got \(2, 2\) and \(2,\)"),
        (torch.ones(2), torch.ones(2), 0, "draws must be positive, got 0"),
    ],
)
def test_sets_that_cannot_be_permuted_are_refused(x, y, draws, message):
    with pytest.raises(ValueError, match=message):
        permutation_test(x, y, draws)


# many tests


def test_holm_is_the_textbook_procedure():
    """Step down: reject while the k-th smallest of m is at most level / (m - k + 1)."""
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(0, 0.15, 7).round(2)  # rounded: with ties
        adjusted = holm(torch.from_numpy(p)).numpy()
        for level in (0.0503, 0.2101, 0.4003):  # no multiple of a p-value
            order, rejected = np.argsort(p, kind="stable"), np.zeros(7, dtype=bool)
            for k, index in enumerate(order):
                if p[index] > level / (7 - k):
                    break
                rejected[index] = True
            assert ((adjusted <= level) == rejected).all()


def test_holm_takes_families_apart_and_keeps_their_order():
    families = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    apart = torch.stack([holm(family) for family in families.reshape(12, 5)]).reshape(3, 4, 5)
    assert torch.equal(holm(families), apart)
    assert torch.equal(holm(families.flip(-1)), apart.flip(-1))
    assert holm(torch.tensor([0.3])).item() == pytest.approx(0.3)
    assert holm(torch.zeros(2, 0)).shape == (2, 0)


def test_holm_lies_between_the_raw_and_bonferronis():
    p = torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 20
    assert (holm(p) >= p).all()
    assert (holm(p) <= (9 * p).clamp(max=1) + 1e-15).all()
    assert holm(p).min() == pytest.approx(9 * float(p.min()))


@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan])
def test_holm_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match=r"p-values must be in \[0, 1\]"):
        holm(torch.tensor([0.5, bad]))


# what can be resolved


@pytest.mark.parametrize(
    ("n", "m", "sd_x", "sd_y", "power"), [(8, 8, 1, 1, 0.73), (24, 24, 15, 10, 0.78), (64, 64, 20, 10, 0.79)]
)
def test_what_is_called_resolvable_is_found_nearly_as_often_as_it_says(n, m, sd_x, sd_y, power):
    """By the interval that reports give; in small sets Johnson's correction takes a little of the power."""
    effect = resolvable(sd_x, n, sd_y, m)
    generator = torch.Generator().manual_seed(0)
    x = sd_x * torch.randn(1500, n, generator=generator, dtype=torch.float64) + effect
    y = sd_y * torch.randn(1500, m, generator=generator, dtype=torch.float64)
    found = sum(mean_interval(a, b).low > 0 for a, b in zip(x, y, strict=True)) / 1500
    assert found == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize("nats", [0.7, 5, 10.567, 80])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.95), (0.95, 0.99)])
def test_images_to_resolve_is_the_smallest_number_that_does(nats, power, level):
    count = images_to_resolve(nats, 15, 10, power, level)
    assert resolvable(15, count, 10, count, power, level) <= nats
    assert count == 2 or resolvable(15, count - 1, 10, count - 1, power, level) > nats


def test_data_without_spread_resolve_anything():
    assert resolvable(0, 2, 0, 2) == 0
    assert images_to_resolve(1e-9, 0, 0) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolvable(1, 1, 1, 9), "two images or more"),
        (lambda: resolvable(-1, 9, 1, 9), "is not negative"),
        (lambda: resolvable(1, 9, 1, 9, power=1), "power in"),
        (lambda: resolvable(1, 9, 1, 9, power=0.01), "power in"),
        (lambda: resolvable(1, 9, 1, 9, level=5), r"level must be in \(0, 1\)"),
        (lambda: images_to_resolve(0, 1, 1), "must be above 0 nats, got 0"),
    ],
)
def test_questions_without_an_answer_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# area under the curve


def test_auc_is_the_share_of_ordered_pairs():
    x, y = normal(20, 14, mean=1).round(decimals=1), normal(21, 9).round(decimals=1)  # rounded: with ties
    wins = (x[:, None] > y).double() + (x[:, None] == y).double() / 2
    estimate = auc(x, y)
    assert estimate.value == pytest.approx(float(wins.mean()))
    assert estimate.value == pytest.approx(scipy.stats.mannwhitneyu(x, y).statistic / (14 * 9))
    assert estimate.count == 23
    assert auc(y, x).value == pytest.approx(1 - estimate.value)
    assert auc(y, x).low == pytest.approx(1 - estimate.high)


def test_auc_feels_the_order_only():
    x, y = normal(22, 14, mean=1), normal(23, 9)
    assert auc(x.exp().flip(0), y.exp()) == auc(x, y)


def test_the_interval_is_newcombes_for_equal_spreads():
    """Its ends solve the equation they are defined by."""
    x, y = torch.arange(20.0), torch.arange(20.0) - 5.5
    estimate, z = auc(x, y, level=0.9), scipy.stats.norm.ppf(0.95)
    for end in (estimate.low, estimate.high):
        spread = end * (1 - end) * (1 + 19 * ((1 - end) / (2 - end) + end / (1 + end))) / 400
        assert abs(end - estimate.value) == pytest.approx(z * math.sqrt(spread), rel=1e-6)


def test_where_delongs_variance_is_larger_it_sets_the_width():
    """Few positives with a wide spread about the negatives: Hanley and McNeil's variance is far too small."""
    x, y = torch.linspace(-9, 9, 10), torch.linspace(-1, 1, 60)
    wins = (x[:, None] > y).double()
    spread = float(wins.mean(1).var() / 10 + wins.mean(0).var() / 60)
    estimate = auc(x, y)
    assert estimate.value == pytest.approx(0.5)
    half = estimate.high - 0.5
    assert 0.75 < half / (1.96 * math.sqrt(spread)) < 1.0
    assert half > 1.3 * (auc(torch.linspace(-1, 1, 10), y).high - 0.5)


@pytest.mark.parametrize("count", [5, 24, 200])
def test_sets_that_part_completely_keep_a_width(count):
    """A bootstrap or DeLong's interval would have none."""
    estimate = auc(torch.arange(count) + 1000.0, torch.arange(count))
    assert estimate.value == estimate.high == 1
    assert 1 / count < 1 - estimate.low < 3 / count
    reverse = auc(torch.arange(count), torch.arange(count) + 1000.0)
    assert reverse.value == reverse.low == 0
    assert reverse.high == pytest.approx(1 - estimate.low)


@pytest.mark.parametrize(
    ("n", "m", "sd", "truth"), [(24, 24, 1, 0.8), (24, 24, 3, 0.95), (48, 48, 3, 0.99), (20, 60, 3, 0.8)]
)
def test_the_interval_covers_the_truth(n, m, sd, truth):
    mean = scipy.stats.norm.ppf(truth) * math.sqrt(1 + sd**2)
    intervals = [auc(normal((3, k), n, mean=mean, sd=sd), normal((4, k), m)) for k in range(400)]
    assert 0.92 <= np.mean([interval.low <= truth <= interval.high for interval in intervals]) <= 0.99


def test_one_case_a_side_says_next_to_nothing():
    estimate = auc(torch.ones(1), torch.zeros(1))
    assert estimate.value == 1
    assert estimate.low < 0.25


@pytest.mark.parametrize(
    ("x", "y", "level", "message"),
    [
        (torch.zeros(0), torch.ones(2), 0.95, "the positive set is empty"),
        (torch.ones(2), torch.tensor([math.inf]), 0.95, "the negative set has 1 non-finite of 1 values"),
        (torch.ones(2, 2), torch.ones(2), 0.95, r"sets must be \(n,\), got \(2, 2\) and \(2,\)"),
        (torch.ones(2), torch.ones(2), 95, "level must be between 0 and 1, got 95"),
    ],
)
def test_sets_that_cannot_be_ordered_are_refused(x, y, level, message):
    with pytest.raises(ValueError, match=message):
        auc(x, y, level)


# two rates


@pytest.mark.parametrize("table", [(0, 3, 24, 24), (18, 24, 24, 24), (3, 8, 8, 8), (26, 30, 30, 30), (7, 11, 5, 13)])
def test_two_rates_by_the_definition_of_boschloos_test(table):
    """Fisher's p-value as the statistic, its law maximised over the common rate."""
    hits, total, others, total_others = table
    cells = [(i, j) for i in range(total + 1) for j in range(total_others + 1)]

    def fisher(i, j, side):
        return scipy.stats.fisher_exact([[i, j], [total - i, total_others - j]], alternative=side).pvalue

    found = []
    for side in ("less", "greater"):
        limit = fisher(hits, others, side) * (1 + 1e-9)
        extreme = [(i, j) for i, j in cells if fisher(i, j, side) <= limit]
        rates = np.linspace(0.001, 0.999, 999)
        law = sum(
            scipy.stats.binom.pmf(i, total, rates) * scipy.stats.binom.pmf(j, total_others, rates) for i, j in extreme
        )
        found.append(law.max())
    assert rates_differ(*table) == pytest.approx(min(1, 2 * min(found)), rel=2e-2)


def test_rates_of_all_or_nothing_do_not_differ():
    assert rates_differ(0, 3, 0, 24) == rates_differ(3, 3, 24, 24) == 1
    assert rates_differ(0, 3, 24, 24) < 0.001
    with pytest.raises(ValueError, match="4 of 3 and 1 of 2 are no two rates"):
        rates_differ(4, 3, 1, 2)


@pytest.mark.parametrize(
    "table",
    [
        (0, 1, 1, 1), (1, 1, 0, 24), (0, 3, 24, 24), (24, 24, 0, 3), (18, 24, 24, 24), (12, 24, 12, 24), (5, 13, 0, 3),
        (0, 11, 1, 14), (7, 31, 2, 30), (30, 50, 41, 47), (8, 67, 11, 122), (90, 120, 60, 90), (1, 150, 9, 150),
    ],
)  # fmt: skip
def test_two_rates_are_told_apart_by_the_same_numbers_as_scipy_takes_long_for(table):
    hits, total, others, total_others = table
    slow = scipy.stats.boschloo_exact([[hits, others], [total - hits, total_others - others]]).pvalue
    assert rates_differ(*table) == pytest.approx(slow, rel=0, abs=1e-12)


@pytest.mark.parametrize(("hits", "total", "others", "total_others"), [(3, 7, 5, 11), (0, 1, 1, 9), (9, 12, 10, 12)])
def test_the_edge_of_what_is_extreme_is_that_of_every_pair(hits, total, others, total_others):
    cases, tried = total + total_others, []

    def extreme(first, sums):
        tried.extend(zip(first.tolist(), sums.tolist(), strict=True))
        return fisher(first, sums) <= fisher(hits, hits + others) * GUARD

    def fisher(first, sums):
        return scipy.stats.hypergeom.cdf(first, cases, sums, total)

    edge = _edge(extreme, total, total_others).tolist()
    assert len(tried) <= 3 * cases
    for count in range(cases + 1):
        pairs = range(max(0, count - total_others), min(count, total) + 1)
        met = [first for first in pairs if extreme(np.array([first]), np.array([count]))[0]]
        assert edge[count] == max(met, default=pairs.start - 1)
        assert len(met) == edge[count] - pairs.start + 1, "they are the smallest"


def test_rates_of_thousands_of_cases_are_compared():
    assert rates_differ(1000, 2000, 1064, 2000) == pytest.approx(0.0429, abs=2e-3)  # the normal law's
    assert rates_differ(1600, 2000, 400, 2000) == pytest.approx(0, abs=1e-300)
