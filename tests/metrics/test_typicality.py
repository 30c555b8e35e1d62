"""Tests of seeds against scipy, under the prior, and against what they are there to find."""

import math

import numpy as np
import pytest
import scipy.stats
import scipy_typicality
import torch
from scipy_typicality import autocorrelation_tail, pairs

from lit_memories.metrics import TESTS, SeedTest, Typicality, combined_p_value, gaussian_nll, typicality
from lit_memories.metrics.functional import autocorrelation_test, ks_test, kurtosis_test

SMALL, LARGE = (4, 16, 16), (4, 64, 64)
RELATIVE = {"autocorrelation": 0.03, "ks": 0.01}
"""How far a p-value may be from scipy's, relative to it; the others are exact."""
every_test = pytest.mark.parametrize("name", TESTS)


def prior(count, shape=SMALL, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def p_values(seeds):
    """p-values (n,) by name, the combined one among them."""
    tests = typicality(seeds)
    return {name: test.p_value for name, test in tests.items()} | {"combined": combined_p_value(tests)}


@pytest.fixture(scope="module", params=[(SMALL, 40), (LARGE, 12)], ids=["16x16", "64x64"])
def under_the_prior(request):
    """p-values of 2000 seeds, or of 600 large ones, each batch drawn anew to keep memory small."""
    shape, count = request.param
    batches = [p_values(prior(50, shape, seed)) for seed in range(count)]
    return {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}


def binomial_range(count, rate):
    """Counts that a binomial law leaves with probability 1e-3."""
    return scipy.stats.binom(count, rate).interval(0.999)


@every_test
@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_false_alarms_are_as_many_as_stated(under_the_prior, name, level):
    found = under_the_prior[name]
    low, high = binomial_range(len(found), level)
    assert len(found) >= 600
    assert low <= (found <= level).sum() <= high


@every_test
def test_p_values_are_uniform_under_the_prior(under_the_prior, name):
    assert scipy.stats.kstest(under_the_prior[name], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("level", [0.01, 0.05])
def test_the_combined_test_keeps_its_level_without_giving_much_away(under_the_prior, level):
    values = under_the_prior["combined"]
    found = (values <= level).sum()
    assert binomial_range(len(values), 0.75 * level)[0] <= found <= binomial_range(len(values), level)[1]


@pytest.mark.parametrize("shape", [(4, 4, 5), SMALL, (1, 32, 32)])
def test_values_and_p_values_are_those_of_scipy(shape):
    """Seeds from the prior, and some a little off, so that small p-values are compared too."""
    seeds = torch.cat([prior(12, shape), 1.03 * prior(4, shape, 1) + 0.05])
    for name, (values, probabilities) in scipy_typicality.typicality(seeds.numpy()).items():
        test = typicality(seeds)[name]
        np.testing.assert_allclose(test.value, values, rtol=1e-9, atol=1e-12, err_msg=name)
        tolerance = RELATIVE.get(name, 1e-7) * (5 if shape == (4, 4, 5) else 1)  # the laws are limits in d
        np.testing.assert_allclose(test.p_value, probabilities, rtol=tolerance, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("shape", "tolerance"), [(SMALL, 0.025), ((2, 8, 16), 0.1), ((1, 32, 8), 0.1)])
@pytest.mark.parametrize("deviations", [0.5, 1.0, 1.96, 2.6, 3.9])
def test_the_normal_law_of_the_autocorrelation_is_close(shape, tolerance, deviations):
    """Its exact tail, by Imhof's integral, against the p-value of a seed that has just this autocorrelation."""
    size, count = math.prod(shape), pairs(shape)
    value = deviations * math.sqrt(size / count / (size + 2))
    p_value = 2 * scipy.stats.norm.sf(deviations)
    exact = 2 * autocorrelation_tail(shape, value)
    assert p_value == pytest.approx(exact, rel=tolerance)
    assert p_value == pytest.approx(exact, abs=5e-4)


def test_the_autocorrelation_has_the_moments_it_is_scaled_by():
    test = autocorrelation_test(prior(10_000, (3, 5, 7)))
    values, deviations = test.value, scipy.stats.norm.isf(test.p_value / 2)
    variance = 105 / pairs((3, 5, 7)) / 107
    np.testing.assert_allclose(values.abs(), variance**0.5 * deviations, rtol=1e-6, atol=1e-9)
    assert abs(float(values.mean())) < 4 * math.sqrt(variance / 10_000)
    assert float(values.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 10_000))
    assert abs(float(scipy.stats.skew(values))) < 4 * math.sqrt(6 / 10_000)


@pytest.mark.parametrize(("size", "p", "tolerance"), [(1024, 0.9, 1e-4), (1024, 0.01, 1e-3), (1024, 1e-5, 0.012)])
def test_the_ks_law_is_as_exact_as_documented(size, p, tolerance):
    """At a distance whose exact tail is known."""
    distance = scipy.stats.kstwo.isf(p, size)
    grid = (np.arange(size) + 1) / size
    seed = torch.from_numpy(scipy.stats.norm.ppf(np.clip(grid - distance, 1e-12, 1))).reshape(1, 1, 32, 32)
    test = ks_test(seed)
    assert float(test.value) == pytest.approx(distance, abs=1e-9)
    assert float(test.p_value) == pytest.approx(p, rel=tolerance)


@pytest.mark.parametrize("scale", [1e-9, 0.3, 1.0, 40.0])
def test_shape_is_tested_whatever_the_scale(scale):
    """Autocorrelation and kurtosis say something that norm and variance do not."""
    seeds = prior(5)
    for test in (autocorrelation_test, kurtosis_test):
        torch.testing.assert_close(test(scale * seeds).p_value, test(seeds).p_value)


def of_right_norm(seeds):
    """The same directions at exactly the root mean square norm of the prior: to `gaussian_nll` they are perfect."""
    return seeds / seeds.square().mean((1, 2, 3), keepdim=True).sqrt()


def scaled(seeds):
    return 1.08 * seeds


def shifted(seeds):
    channel = torch.zeros(4, 1, 1, dtype=seeds.dtype)
    channel[2] = -0.35
    return seeds + channel


def loud(seeds):
    """One channel louder at the others' cost."""
    return of_right_norm(seeds * torch.tensor([1.45, 0.85, 0.85, 0.85]).sqrt().reshape(4, 1, 1).double())


def smooth(seeds):
    return of_right_norm(seeds + 0.15 * seeds.roll(1, 3) + 0.15 * seeds.roll(1, 2))


def heavy(seeds):
    """A scale mixture: Student's law with five degrees of freedom."""
    mixing = scipy.stats.chi2(5).rvs(seeds.shape, random_state=np.random.default_rng(0)) / 5
    return of_right_norm(seeds / torch.from_numpy(mixing).sqrt())


def rounded(seeds):
    """As by a coarse number format: moments and neighbours tell nothing."""
    return of_right_norm((seeds / 0.3).round())


ALTERNATIVES = {
    "norm": (scaled, {"norm": 0.9, "combined": 0.8}),
    "channel mean": (shifted, {"channel_mean": 0.99, "combined": 0.99}),
    "channel variance": (loud, {"channel_variance": 0.9, "combined": 0.8}),
    "autocorrelation": (smooth, {"autocorrelation": 0.999, "combined": 0.999}),
    "kurtosis": (heavy, {"kurtosis": 0.99, "combined": 0.99}),
    "distribution": (rounded, {"ks": 0.99, "combined": 0.99}),
}


@pytest.mark.parametrize(("change", "at_least"), ALTERNATIVES.values(), ids=ALTERNATIVES.keys())
def test_what_is_wrong_with_a_seed_is_found(change, at_least):
    found = p_values(change(prior(300, seed=7)))
    power = {name: float((found[name] <= 0.05).double().mean()) for name in at_least}
    assert all(power[name] >= least for name, least in at_least.items()), power


@pytest.mark.parametrize("change", [loud, smooth, heavy, rounded])
def test_the_norm_alone_sees_nothing_of_it(change):
    """The weakness of the likelihood that these tests are for."""
    seeds = change(prior(300, seed=7))
    assert (p_values(seeds)["norm"] > 0.9).all()
    torch.testing.assert_close(gaussian_nll(seeds), gaussian_nll(seeds)[:1].expand(300))


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_constant_seeds_fail_without_a_nan(constant):
    tests = typicality(torch.full((1, *SMALL), constant))
    assert float(tests["autocorrelation"].value) == pytest.approx(1)
    assert float(tests["kurtosis"].value) == -2
    assert all(bool(test.value.isfinite().all()) for test in tests.values())
    unseen = "norm" if constant else "channel_mean"  # ones have the prior's norm, zeros its channel means
    assert all(float(tests[name].p_value) < 1e-12 for name in TESTS if name != unseen)


@every_test
def test_a_sign_changes_no_p_value(name):
    seeds = 1.02 * prior(9) + 0.02
    torch.testing.assert_close(TESTS[name](-seeds).p_value, TESTS[name](seeds).p_value)


@every_test
def test_a_seed_does_not_feel_its_batch(name):
    seeds = prior(7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    whole = TESTS[name](seeds)
    for rows in (order, torch.tensor([3]), torch.tensor([5, 0])):
        some = TESTS[name](seeds[rows])
        assert torch.equal(some.value, whole.value[rows])
        assert torch.equal(some.p_value, whole.p_value[rows])


@every_test
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_seeds_are_taken_as_they_are(name, dtype):
    seeds = prior(3).to(dtype)
    test, double = TESTS[name](seeds), TESTS[name](seeds.double())
    assert torch.equal(test.p_value, double.p_value)
    assert test.value.dtype == test.p_value.dtype == torch.float64


@every_test
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_seeds_that_are_not_finite_have_no_number_and_harm_no_other(name, bad):
    seeds = prior(3)
    good = TESTS[name](seeds)
    seeds[1, 2, 3, 4] = bad
    test = TESTS[name](seeds)
    for mixed, clean in ((test.value, good.value), (test.p_value, good.p_value)):
        assert mixed.isnan().tolist() == [False, True, False]
        assert torch.equal(mixed[::2], clean[::2])
    assert combined_p_value({name: test}).isnan().tolist() == [False, True, False]


def test_the_combined_p_value_is_bonferronis():
    found = {"a": [0.02, 0.6], "b": [0.5, 0.5], "c": [1.0, 1.0]}
    tests = {name: SeedTest(torch.zeros(2), torch.tensor(p)) for name, p in found.items()}
    torch.testing.assert_close(combined_p_value(tests), torch.tensor([0.06, 1.0]))


@every_test
def test_no_seeds_have_no_numbers(name):
    assert TESTS[name](torch.zeros(0, *SMALL)).p_value.shape == (0,)


@pytest.mark.parametrize(
    ("shape", "tests", "message"),
    [
        ((2, 1024), TESTS, r"latents must be \(n, c, h, w\) with 20 elements a seed, got \(2, 1024\)"),
        ((4, 16, 16), TESTS, r"got \(4, 16, 16\)"),
        ((2, 1, 3, 3), TESTS, r"got \(2, 1, 3, 3\)"),
        ((2, 32, 1, 1), ["channel_variance"], "a channel needs two elements or more"),
        ((2, 32, 1, 1), ["autocorrelation"], "have no neighbours"),
    ],
)
def test_what_are_no_seeds_is_refused(shape, tests, message):
    for name in tests:
        with pytest.raises(ValueError, match=message):
            TESTS[name](torch.zeros(shape))


def test_the_metric_counts_what_the_tests_call_atypical():
    """At the stated level few seeds from the prior, and all that are smooth."""
    shares = []
    for seeds in (prior(200), smooth(prior(200))):
        metric = Typicality(alpha=0.01, draws=100)
        metric.update(seeds)
        result = metric.compute()
        assert float(result["value"]) == float((p_values(seeds)["combined"] <= 0.01).double().mean())
        shares.append(float(result["value"]))
    assert shares[0] < 0.04
    assert shares[1] > 0.99


@pytest.mark.parametrize("alpha", [0, 1, 5, math.nan])
def test_a_level_that_is_none_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
        Typicality(alpha=alpha)


def test_the_metric_refuses_seeds_that_are_not_finite():
    with pytest.raises(ValueError, match="p_value has 2 non-finite of 2 values"):
        Typicality().update(torch.full((2, *SMALL), math.nan))
