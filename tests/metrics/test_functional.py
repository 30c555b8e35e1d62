"""The metrics' formulas against numpy, scipy, POT and laws known in closed form; all in float64."""

import math
import warnings

import numpy as np
import ot
import pytest
import scipy.integrate
import scipy.stats
import torch

from lit_memories.metrics import (
    Null,
    damage,
    earth_movers_distance,
    forgetting,
    forgetting_fraction,
    gaussian_nll,
    gaussian_w2_squared,
    paired_shift,
    psnr,
    relative_distance,
)

DIMENSIONS = [1, 2, 7, 1024, 16384]


def draws(seed, *shape, mean=0.0, sd=1.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, sd, shape))


@pytest.fixture
def null():
    return Null(1024)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 8, 8), (1, 16384)])
def test_nll_is_minus_the_log_density_of_scipy(shape):
    seeds = draws(0, *shape, sd=1.3)
    expected = -scipy.stats.norm.logpdf(seeds.numpy()).reshape(shape[0], -1).sum(1)
    torch.testing.assert_close(gaussian_nll(seeds), torch.from_numpy(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nll_sums_low_precision_seeds_in_float64(dtype):
    seeds = draws(1, 2, 16384).to(dtype)
    assert torch.equal(gaussian_nll(seeds), gaussian_nll(seeds.double()))
    assert gaussian_nll(seeds).dtype == torch.float64


def test_nll_needs_a_batch():
    with pytest.raises(ValueError, match=r"latents must have shape \(n, ...\), got \(4,\)"):
        gaussian_nll(torch.zeros(4))


def test_null_has_the_published_moments():
    assert Null(16384).mean == pytest.approx(23247.89, abs=0.005)
    assert Null(16384).sd == pytest.approx(90.51, abs=0.005)
    assert Null(1024).mean == pytest.approx(1453.0, abs=0.05)
    assert Null(1024).sd == pytest.approx(22.6, abs=0.05)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_null_is_half_a_shifted_chi_square(dimension):
    null, chi2 = Null(dimension), scipy.stats.chi2(dimension)
    p = np.array([1e-9, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9])
    points = torch.from_numpy(chi2.ppf(p) / 2 + null.minimum)
    assert null.mean == pytest.approx(chi2.mean() / 2 + null.minimum, rel=1e-14)
    assert null.variance == pytest.approx(chi2.var() / 4, rel=1e-14)
    np.testing.assert_allclose(null.quantile(torch.from_numpy(p)), points, rtol=1e-8)
    np.testing.assert_allclose(null.cdf(points), p, rtol=1e-6, atol=2e-9)  # at d = 1 an energy of 1e-18 is rounded off
    np.testing.assert_allclose(null.density(points), 2 * chi2.pdf(2 * (points - null.minimum)), rtol=1e-6)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_quantile_inverts_the_cdf_in_any_shape(dimension):
    p = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(Null(dimension).cdf(Null(dimension).quantile(p)), p, rtol=0, atol=1e-9)


def test_null_ends_where_it_must(null):
    low, high = null.quantile(torch.tensor([0.0, 1.0])).tolist()
    assert low == pytest.approx(null.minimum)
    assert high == math.inf
    below = torch.tensor([null.minimum - 1])
    assert null.cdf(below) == 0
    assert null.density(below) == 0


def test_partial_mean_is_the_integral_it_stands_for(null):
    upper = null.mean + 0.7 * null.sd
    density = scipy.stats.chi2(null.dimension).pdf
    expected, _ = scipy.integrate.quad(
        lambda x: (x - null.mean) * 2 * density(2 * (x - null.minimum)), null.mean - 12 * null.sd, upper
    )
    assert float(null.partial_mean(torch.tensor(upper, dtype=torch.float64))) == pytest.approx(expected, rel=1e-8)


def test_seeds_from_the_prior_follow_the_null(null):
    nll = gaussian_nll(draws(2, 400, 4, 16, 16))
    assert scipy.stats.kstest(null.cdf(nll).numpy(), "uniform").pvalue > 0.01
    assert scipy.stats.kstest(null.z_score(nll).numpy(), "norm").pvalue > 0.01
    longer = gaussian_nll(1.02 * draws(2, 400, 4, 16, 16))
    assert scipy.stats.kstest(null.cdf(longer).numpy(), "uniform").pvalue < 1e-6


def test_sampled_null_is_repeatable_and_follows_the_law(null):
    sample = null.sample(300, torch.Generator().manual_seed(3))
    assert torch.equal(sample, null.sample(300, torch.Generator().manual_seed(3)))
    assert scipy.stats.kstest(null.cdf(sample).numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_quantile_refuses_what_is_no_probability(null, p):
    with pytest.raises(ValueError, match="probabilities must be in"):
        null.quantile(torch.tensor([p]))


def test_null_needs_a_dimension():
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Null(0)


@pytest.mark.parametrize("n", [1, 2, 13, 50])
@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (-2, 0.8), (1, 3), (-30, 1), (30, 1)])
@pytest.mark.parametrize("dimension", [2, 1024, 16384])
def test_w1_to_the_null_is_the_area_between_the_distribution_functions(n, shift, scale, dimension):
    null = Null(dimension)
    nll = null.mean + null.sd * draws(n, n, mean=shift, sd=scale)
    grid = np.linspace(float(nll.min()) - 1, float(nll.max()) + 1, 20_001)
    tails = null.mean + null.sd * np.linspace(-16, 40, 100_001)
    x = np.unique(np.concatenate([grid, tails, nll.numpy()]))
    middle = (x[1:] + x[:-1]) / 2
    empirical = np.searchsorted(np.sort(nll.numpy()), middle, side="right") / n
    exact = scipy.stats.chi2(dimension).cdf(2 * (middle - null.minimum))
    expected = (np.abs(empirical - exact) * np.diff(x)).sum()
    assert float(earth_movers_distance(nll, null)) == pytest.approx(expected, rel=1e-5)


def test_w1_to_the_null_agrees_with_pot_and_scipy_on_its_quantiles(null):
    nll = draws(5, 48, mean=null.mean - 50, sd=30)
    atoms = null.quantiles(4096)
    exact = float(earth_movers_distance(nll, null))
    tolerance = 4e-4 * null.sd
    assert exact == pytest.approx(float(earth_movers_distance(nll, atoms)), abs=tolerance)
    assert exact == pytest.approx(scipy.stats.wasserstein_distance(nll, atoms), abs=tolerance)
    assert exact == pytest.approx(ot.emd2_1d(nll.numpy(), atoms.numpy(), metric="euclidean"), abs=tolerance)


def test_quantile_atoms_are_as_close_to_the_null_as_documented(null):
    for count in (64, 1024):
        assert float(earth_movers_distance(null.quantiles(count), null)) < 2 * null.sd / count


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (9, 4), (48, 50)])
def test_w1_of_two_samples_is_that_of_scipy(n, m):
    a, b = draws(6, n), draws(7, m, mean=0.3, sd=2)
    assert float(earth_movers_distance(a, b)) == pytest.approx(scipy.stats.wasserstein_distance(a, b), rel=1e-10)


def test_w1_of_a_shifted_null_is_the_shift(null):
    for shift in (-40.0, 40.0):
        distance = earth_movers_distance(null.quantiles(2000) + shift, null)
        assert float(distance) == pytest.approx(abs(shift), abs=0.01)


@pytest.mark.parametrize("function", [earth_movers_distance, gaussian_w2_squared])
def test_distances_take_many_sets_at_once_without_warning(function, null):
    sets, other = draws(8, 3, 2, 11, mean=null.mean, sd=20), draws(9, 6, mean=null.mean, sd=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for law in (null, other):
            together = function(sets, law)
            apart = torch.stack([function(one, law) for one in sets.reshape(6, 11)]).reshape(3, 2)
            torch.testing.assert_close(together, apart, rtol=1e-12, atol=0)


@pytest.mark.parametrize("function", [earth_movers_distance, gaussian_w2_squared])
def test_distances_do_not_depend_on_order(function, null):
    nll = draws(10, 20, mean=null.mean, sd=20)
    for law in (null, null.quantiles(9)):
        torch.testing.assert_close(function(nll.flip(0), law), function(nll, law), rtol=1e-12, atol=0)


def test_w2_squared_is_the_closed_form_with_population_variance():
    a, b = draws(11, 50, mean=3, sd=2), draws(12, 40, mean=-1, sd=5)
    x, y = a.numpy(), b.numpy()
    expected = (x.mean() - y.mean()) ** 2 + x.var() + y.var() - 2 * np.sqrt(x.var() * y.var())
    assert float(gaussian_w2_squared(a, b)) == pytest.approx(expected, rel=1e-12)


def test_w2_squared_of_gaussians_is_the_transport_cost_pot_finds():
    gaussian = torch.from_numpy(scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000))
    a, b = 2 * gaussian + 3, 5 * gaussian - 1
    assert float(gaussian_w2_squared(a, b)) == pytest.approx(25, rel=1e-3)
    assert float(gaussian_w2_squared(a, b)) == pytest.approx(ot.wasserstein_1d(a.numpy(), b.numpy(), p=2), rel=1e-6)


def test_w2_squared_to_the_null_uses_its_exact_moments(null):
    nll = draws(13, 50, mean=1400, sd=19)
    expected = (nll.numpy().mean() - null.mean) ** 2 + (nll.numpy().std() - null.sd) ** 2
    assert float(gaussian_w2_squared(nll, null)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["w1", "w2_squared"])
def test_relative_distance_of_equal_sets_is_one(form, null):
    nll = draws(14, 30, mean=1400, sd=19)
    for law in (null, null.sample(50, torch.Generator().manual_seed(0))):
        assert relative_distance(nll, nll.clone(), law, form) == 1


@pytest.mark.parametrize("form", ["w1", "w2_squared"])
def test_relative_distance_has_no_unit(form):
    concept, reference, null = draws(15, 30, mean=5), draws(16, 20, mean=2), draws(17, 50)
    moved = [3.7 * x - 11 for x in (concept, reference, null)]
    torch.testing.assert_close(relative_distance(*moved, form), relative_distance(concept, reference, null, form))


def test_relative_distance_is_the_ratio_the_official_code_leaves_to_form():
    concept, reference, null = (draws(k, 50, mean=m, sd=s).numpy() for k, m, s in ((18, 9, 2), (19, 4, 3), (20, 0, 1)))

    def official(x):
        return (x.mean() - null.mean()) ** 2 + x.var() + null.var() - 2 * np.sqrt(x.var() * null.var())

    ratio = relative_distance(*map(torch.from_numpy, (concept, reference, null)), "w2_squared")
    assert float(ratio) == pytest.approx(official(concept) / official(reference), rel=1e-10)


def test_relative_distance_ranks_the_calibration_models_upside_down(null):
    """Known fact: seeds start below the null and forgetting moves them up through it, so the ratio falls."""
    reference = 1381 + 0.7 * (null.quantiles(48) - null.mean)
    remembers, forgot = reference + 21, reference + 100
    assert relative_distance(forgot, reference, null) < relative_distance(remembers, reference, null)
    assert forgetting(forgot, remembers, reference, reference) > 0


def test_unknown_form_is_refused(null):
    with pytest.raises(ValueError, match="unknown distance form 'w2': choose from w1, w2_squared"):
        relative_distance(torch.ones(2), torch.ones(2), null, "w2")


def test_forgetting_is_the_difference_of_mean_paired_shifts():
    e, e_v, r, r_v = (draws(k, n).numpy() for k, n in ((21, 9), (22, 9), (23, 5), (24, 5)))
    expected = np.mean(e - e_v) - np.mean(r - r_v)
    assert float(forgetting(*map(torch.from_numpy, (e, e_v, r, r_v)))) == pytest.approx(expected, rel=1e-10)
    assert float(damage(*map(torch.from_numpy, (r, r_v)))) == pytest.approx(np.mean(r - r_v), rel=1e-10)


def test_vanilla_forgot_exactly_nothing_and_the_control_exactly_all():
    vanilla, control = (draws(25, 9, sd=30), draws(26, 7, sd=30)), (draws(27, 9, sd=30), draws(28, 7, sd=30))
    assert forgetting(vanilla[0], vanilla[0], vanilla[1], vanilla[1]) == 0
    assert damage(vanilla[1], vanilla[1]) == 0
    fraction = [
        forgetting_fraction(model[0], vanilla[0], control[0], model[1], vanilla[1], control[1])
        for model in (vanilla, control)
    ]
    assert fraction == [0, 1]


def test_a_shift_of_all_images_is_damage_and_not_forgetting():
    e_v, r_v = draws(29, 9, sd=30), draws(30, 7, sd=30)
    assert float(forgetting(e_v + 12, e_v, r_v + 12, r_v)) == pytest.approx(0, abs=1e-12)
    assert float(damage(r_v + 12, r_v)) == pytest.approx(12)


def test_paired_shift_cancels_what_images_differ_by():
    """A statistic that ignored the pairing would keep the images' own spread, 30 nats."""
    base = draws(31, 50, sd=30)
    assert float(paired_shift(base + 5, base).std()) == pytest.approx(0, abs=1e-12)
    assert float(paired_shift(base + 5, base.flip(0)).std()) > 30


def test_forgetting_takes_many_resamples_at_once():
    sets = [draws(32 + k, 4, n) for k, n in enumerate((9, 9, 9, 5, 5, 5))]
    apart = torch.stack([forgetting_fraction(*one) for one in zip(*sets, strict=True)])
    torch.testing.assert_close(forgetting_fraction(*sets), apart, rtol=1e-12, atol=0)


def test_psnr_is_per_image():
    target = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    noise = torch.tensor([0.01, 0.03, 0.1, 0.3]).reshape(4, 1, 1, 1)
    images = (target + noise).clamp(0, 1)
    mse = (images.double() - target.double()).square().numpy().mean((1, 2, 3))
    np.testing.assert_allclose(psnr(images, target), 10 * np.log10(1 / mse), rtol=1e-6)


def test_psnr_of_equal_images_is_capped():
    images = torch.rand(2, 3, 4, 4)
    assert psnr(images, images).tolist() == [100.0, 100.0]


@pytest.mark.parametrize(
    ("images", "target", "message"),
    [
        (torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4), "must share a shape"),
        (torch.rand(3, 4, 4), torch.rand(3, 4, 4), "must share a shape"),
        (torch.rand(1, 3, 4, 4) - 1, torch.rand(1, 3, 4, 4), r"images must be in \[0, 1\]"),
        (torch.rand(1, 3, 4, 4), 255 * torch.ones(1, 3, 4, 4), r"target must be in \[0, 1\]"),
        (torch.full((1, 3, 4, 4), math.nan), torch.rand(1, 3, 4, 4), r"images must be in \[0, 1\]"),
    ],
)
def test_psnr_refuses_what_are_not_images(images, target, message):
    with pytest.raises(ValueError, match=message):
        psnr(images, target)


# input checks

GOOD, EMPTY, BAD = torch.ones(3), torch.ones(0), torch.tensor([1.0, math.nan, math.inf])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relative_distance(EMPTY, GOOD, Null(4)), "the concept set is empty: "),
        (lambda: relative_distance(GOOD, EMPTY, Null(4)), "the reference set is empty: "),
        (lambda: forgetting(EMPTY, EMPTY, GOOD, GOOD), "the concept set is empty: "),
        (lambda: forgetting(GOOD, GOOD, EMPTY, EMPTY), "the reference set is empty: "),
        (lambda: damage(EMPTY, EMPTY), "the reference set is empty: "),
        (lambda: earth_movers_distance(EMPTY, Null(4)), "the sample is empty: "),
        (lambda: earth_movers_distance(GOOD, EMPTY), "the null sample is empty: "),
        (lambda: gaussian_w2_squared(torch.tensor(1.0), GOOD), "the sample is empty: "),
        (lambda: forgetting(BAD, GOOD, GOOD, GOOD), "the concept set has 2 non-finite of 3 values"),
        (lambda: earth_movers_distance(BAD, Null(4)), "the sample has 2 non-finite of 3 values"),
        (lambda: paired_shift(GOOD, GOOD[:2]), "the paired set cannot be paired: 3 and 2 values"),
        (lambda: forgetting(GOOD, GOOD, GOOD, GOOD[:1]), "the reference set cannot be paired: 3 and 1 values"),
    ],
)
def test_sets_that_mean_nothing_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
