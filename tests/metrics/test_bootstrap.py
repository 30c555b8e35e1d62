"""The bootstrap against scipy's, by simulation, and where there is nothing to resample."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from lit_memories.metrics import (
    Estimate,
    Null,
    bootstrap,
    earth_movers_distance,
    gaussian_w2_squared,
    relative_distance,
    wilson_interval,
)
from lit_memories.metrics.bootstrap import bootstrap_counts, sort_rows
from lit_memories.metrics.resampled import ResampledNLL

DRAWS = 20_000


def skewed(seed, *shape):
    return np.random.default_rng(seed).exponential(size=shape)


def mean(x):
    return x.mean(-1)


def variance(x):
    return x.var(-1, correction=0)


def difference(x, y):
    return x.mean(-1) - y.mean(-1)


def ratio(x, y):
    return x.mean(-1) / y.mean(-1)


STATISTICS = [
    (mean, lambda x, axis: x.mean(axis), (15,)),
    (variance, lambda x, axis: x.var(axis), (40,)),
    (difference, lambda x, y, axis: x.mean(axis) - y.mean(axis), (12, 30)),
    (ratio, lambda x, y, axis: x.mean(axis) / y.mean(axis), (25, 10)),
]


@pytest.mark.parametrize(("ours", "theirs", "sizes"), STATISTICS)
@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_interval_is_that_of_scipy_up_to_monte_carlo_error(ours, theirs, sizes, method):
    samples = [skewed(k, n) for k, n in enumerate(sizes)]
    estimate = bootstrap(ours, [torch.from_numpy(x) for x in samples], DRAWS, method=method)
    expected = scipy.stats.bootstrap(
        samples, theirs, n_resamples=DRAWS, method=method, rng=np.random.default_rng(0), vectorized=True, batch=1000
    )
    # An end of the interval has a Monte-Carlo error of about 0.02 standard errors, up to 0.11 in BCa's skewed tail.
    tolerance = 0.3 * expected.standard_error
    assert estimate.value == pytest.approx(float(theirs(*samples, axis=-1)))
    assert estimate.low == pytest.approx(expected.confidence_interval.low, abs=tolerance)
    assert estimate.high == pytest.approx(expected.confidence_interval.high, abs=tolerance)
    assert estimate.count == sum(sizes)


def textbook_bca(values, value, left_out, level):
    """Efron and Tibshirani (1993), equations 14.10, 14.14 and 14.15, for one sample."""
    normal = scipy.stats.norm
    bias = normal.ppf(((values < value).mean() + (values <= value).mean()) / 2)
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = bias + normal.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(values, normal.cdf(bias + z / (1 - acceleration * z)))


def test_bca_is_the_textbook_formula_on_the_same_resamples():
    """The mean's distance from the truth is skewed and biased: every term of the formula counts."""
    sample, seen = torch.from_numpy(skewed(8, 12)), []

    def statistic(x):
        seen.append((x.mean(-1) - 1).abs())
        return seen[-1]

    estimate = bootstrap(statistic, [sample], 800, level=0.9)
    value, *blocks = (block.numpy() for block in seen)
    resampled = np.concatenate(blocks)[:800]
    left_out = np.array([abs(np.delete(sample.numpy(), k).mean() - 1) for k in range(12)])
    expected = textbook_bca(resampled, value[0], left_out, 0.9)
    np.testing.assert_allclose([estimate.low, estimate.high], expected, rtol=1e-10)


def test_correction_matters_where_the_statistic_is_skewed():
    """The comparison with scipy could tell one method from the other."""
    sample = [torch.from_numpy(skewed(1, 40))]
    bca, percentile = (bootstrap(variance, sample, DRAWS, method=method) for method in ("bca", "percentile"))
    assert bca.high - percentile.high > 0.6 * (percentile.high - percentile.low) / 3.92


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_interval_covers_the_truth_as_often_as_it_says(method):
    samples = torch.from_numpy(skewed(2, 300, 40))
    intervals = [bootstrap(mean, [sample], 500, level=0.9, method=method) for sample in samples]
    covered = sum(interval.low <= 1 <= interval.high for interval in intervals) / len(intervals)
    assert 0.83 < covered < 0.95


def test_level_widens_the_interval():
    sample = [torch.from_numpy(skewed(3, 30))]
    narrow, wide = bootstrap(mean, sample, 2000, level=0.5), bootstrap(mean, sample, 2000, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_rows_stay_together():
    """Paired by columns the images' own spread cancels; as two samples it would not."""
    base = torch.from_numpy(np.random.default_rng(4).normal(0, 30, 40))
    noise = torch.from_numpy(np.random.default_rng(5).normal(5, 1, 40))
    paired = bootstrap(lambda x: (x[..., 0] - x[..., 1]).mean(-1), [torch.stack([base + noise, base], 1)], 2000)
    apart = bootstrap(difference, [base + noise, base], 2000)
    assert paired.value == pytest.approx(apart.value)
    assert paired.high - paired.low < 1 < 10 < apart.high - apart.low


def test_same_seed_same_interval_whatever_the_order_of_cases():
    rows = torch.from_numpy(skewed(6, 20, 2)).repeat(2, 1)
    shuffled = rows[torch.randperm(40, generator=torch.Generator().manual_seed(0))]

    def statistic(x):
        return (x[..., 0] / x[..., 1]).mean(-1)

    estimate = bootstrap(statistic, [rows], 1000)
    assert bootstrap(statistic, [rows], 1000) == estimate
    assert bootstrap(statistic, [shuffled], 1000) == estimate
    assert bootstrap(statistic, [rows], 1000, seed=1) != estimate


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = bootstrap(mean, [torch.arange(9.0)], 500)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert bootstrap(mean, [torch.arange(9.0)], 500) == first


def test_statistics_come_in_float64_and_bounded_chunks():
    seen = []

    def spy(x):
        seen.append((x.shape[0], x.dtype))
        return x.mean(-1)

    bootstrap(spy, [torch.arange(300, dtype=torch.float32)], draws=1001)
    assert max(size for size, _ in seen) == 250
    assert sum(size for size, _ in seen) == 1 + 1001 + 300  # the sample, its resamples, its jackknife
    assert {dtype for _, dtype in seen} == {torch.float64}


def test_large_samples_come_in_smaller_chunks():
    sizes = []

    def spy(x):
        sizes.append(x.shape[0])
        return x.mean(-1)

    bootstrap(spy, [torch.arange(2.0**20)], draws=9, method="percentile")
    assert max(sizes) == 4


def test_interval_of_a_distance_from_the_null():
    null = Null(1024)
    nll = null.mean + torch.from_numpy(np.random.default_rng(7).normal(-50, 20, 48))
    estimate = bootstrap(lambda x: earth_movers_distance(x, null), [nll], 2000)
    half = 1.96 * float(nll.std()) / math.sqrt(48)
    assert estimate.value == pytest.approx(float(earth_movers_distance(nll, null)))
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.3 * half)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.3 * half)


def test_constant_data_have_no_width():
    estimate = bootstrap(mean, [torch.full((7,), 0.1, dtype=torch.float64)])
    assert estimate.low == estimate.high == estimate.value == pytest.approx(0.1)


@pytest.mark.parametrize("sizes", [(1,), (5, 1)])
def test_one_case_says_nothing_about_spread(sizes):
    statistic = mean if len(sizes) == 1 else difference
    estimate = bootstrap(statistic, [torch.arange(n, dtype=torch.float64) for n in sizes])
    assert math.isfinite(estimate.value)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_resamples_without_a_number_leave_no_interval(method):
    estimate = bootstrap(ratio, [torch.arange(4.0), torch.tensor([0.0, 0.0, 1.0])], 200, method=method)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_an_extreme_statistic_keeps_a_finite_interval():
    """No resample exceeds the maximum: the bias correction is at its limit."""
    estimate = bootstrap(lambda x: x.amax(-1), [torch.arange(10.0)], 500)
    assert estimate.low <= estimate.high <= estimate.value == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": []}, "needs one sample or more"),
        ({"samples": [torch.zeros(0)]}, r"with n > 0, got \(0,\)"),
        ({"samples": [torch.zeros(2, 2, 2)]}, r"got \(2, 2, 2\)"),
        ({"draws": 0}, "draws must be positive, got 0"),
        ({"level": 95}, "level must be between 0 and 1, got 95"),
        ({"method": "basic"}, "unknown bootstrap method 'basic': choose bca or percentile"),
        ({"statistic": torch.mean}, r"must keep the draws, 1: it returned \(\)"),
    ],
)
def test_misuse_is_refused(change, message):
    arguments = {"statistic": mean, "samples": [torch.arange(5.0)]} | change
    with pytest.raises(ValueError, match=message):
        bootstrap(**arguments)


def test_rows_sort_lexicographically():
    rows = torch.randint(0, 3, (50, 3), generator=torch.Generator().manual_seed(0))
    assert sort_rows(rows).tolist() == sorted(rows.tolist())
    assert sort_rows(rows[:, 0]).tolist() == sorted(rows[:, 0].tolist())


@pytest.mark.parametrize(("successes", "total"), [(0, 24), (24, 24), (1, 1), (3, 10), (500, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_interval_is_that_of_scipy(successes, total, level):
    estimate = wilson_interval(successes, total, level)
    expected = scipy.stats.binomtest(successes, total).proportion_ci(level, method="wilson")
    assert estimate == Estimate(
        successes / total, pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12), level, total
    )


def test_wilson_keeps_its_width_at_the_ends_where_the_bootstrap_loses_it():
    assert wilson_interval(0, 24).high > 0.1
    assert bootstrap(mean, [torch.zeros(24)]).high == 0


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(successes, total):
    with pytest.raises(ValueError, match=r"set is empty|must be in 0..3"):
        wilson_interval(successes, total)


def test_counts_say_what_resamples_say() -> None:
    """The same draws, told by how often each case is among them: the same intervals, but for rounding."""
    null = Null(1024)
    samples = [null.mean + 20 * torch.randn(n, generator=torch.Generator().manual_seed(n)).double() for n in (23, 40)]
    samples[0][3] = samples[0][4]  # ties too
    e, r = (ResampledNLL(sample, null) for sample in samples)

    def alone(counts: Tensor) -> Tensor:
        return torch.stack([e.sd(counts), e.distance(counts), e.distance(counts, "w2_squared")], 1)

    def relative(counts: Tensor, others: Tensor) -> Tensor:
        return (e.distance(counts) / r.distance(others))[:, None]

    found = [*bootstrap_counts(alone, [23], 2000), *bootstrap_counts(relative, [23, 40], 2000)]
    plain = [
        bootstrap(lambda x: x.std(-1, correction=0), samples[:1], 2000),
        bootstrap(lambda x: earth_movers_distance(x, null), samples[:1], 2000),
        bootstrap(lambda x: gaussian_w2_squared(x, null), samples[:1], 2000),
        bootstrap(lambda x, y: relative_distance(x, y, null), samples, 2000),
    ]
    for one, other in zip(found, plain, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-12)
        assert (one.level, one.count) == (other.level, other.count)


@pytest.mark.parametrize("shift", [-300.0, -40.0, 0.0, 5.0, 200.0])
def test_the_distance_of_counts_is_that_of_the_set_they_make(shift: float) -> None:
    """Far below and above the null, where nothing crosses, and within it, where distribution functions do."""
    null, generator = Null(256), torch.Generator().manual_seed(0)
    values = (null.quantiles(60) + shift).round(decimals=0)  # many are equal
    found = ResampledNLL(values[torch.randperm(60, generator=generator)], null)
    counts = torch.stack([torch.randint(60, (60,), generator=generator).bincount(minlength=60) for _ in range(40)])
    sets = torch.stack([values.repeat_interleave(row) for row in counts])
    torch.testing.assert_close(
        found.distance(counts.double()), earth_movers_distance(sets, null), rtol=1e-11, atol=1e-9
    )
    assert found.distance(torch.ones(1, 60).double()).item() == pytest.approx(
        float(earth_movers_distance(values, null))
    )


def test_counts_of_one_case_or_none() -> None:
    alone = bootstrap_counts(lambda counts: counts, [1])
    assert (alone[0].value, alone[0].count) == (1, 1)
    assert math.isnan(alone[0].low)
    with pytest.raises(ValueError, match=r"cases in each, got sizes \[3, 0\]"):
        bootstrap_counts(lambda counts, _: counts, [3, 0])
