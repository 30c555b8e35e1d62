r"""Whether a seed looks like a draw of the prior: six tests with known nulls, where the likelihood sees the norm only.

A seed z of shape (c, h, w) has d = chw elements. Under N(0, I) all elements are independent standard normal numbers,
which fixes the law of every statistic below, exactly or nearly; no sample of the prior is needed. A seed may have the
norm of one (`gaussian_nll`) and still be smooth, shifted or heavy-tailed, as DDIM's inversions tend to be. The zero
seed is the most likely one and is never drawn: here it fails all tests but that of the channels' means.

Each test gives a value and a p-value a seed. A p-value is two-sided: deviations of either sign count. A seed that is
not finite has NaN for both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_memories.metrics.checks import as_float64

FEWEST = 20  # elements of a seed: with fewer, the approximation of the kurtosis' law is not known to hold


@dataclass(frozen=True)
class SeedTest:
    """A statistic of seeds and what it says about each.

    Args:
        value: the statistic (n,), float64.
        p_value: probability that a seed from the prior has a statistic at least as far out (n,), float64, in [0, 1].
    """

    value: Tensor
    p_value: Tensor


def norm_test(latents: Tensor) -> SeedTest:
    r"""Whether a seed is as long as one from the prior: its mean square, 1 under the prior.

    :math:`\lVert z \rVert^2 \sim \chi^2_d` exactly.

    Args:
        latents: seeds (n, c, h, w).

    Raises:
        ValueError: if they have another shape, or too few elements.

    Example:
        >>> norm_test(torch.full((1, 4, 8, 8), 2.0)).value
        tensor([4.], dtype=torch.float64)
    """
    square = _seeds(latents).square().flatten(1)
    return SeedTest(square.mean(1), _chi_square_p_value(square.sum(1), square.shape[1]))


def channel_mean_test(latents: Tensor) -> SeedTest:
    r"""Whether a channel of a seed is shifted: the mean of the one that is farthest out, 0 under the prior.

    Channel means are independent and :math:`N(0, 1/hw)`. The largest of them is tested rather than the sum of their
    squares, since a channel of an autoencoder stands for something (brightness, a colour) and one is shifted more often
    than all; by independence the correction for having chosen it, :math:`1 - (1 - p)^c` (Šidák), is exact.

    Args:
        latents: seeds (n, c, h, w).

    Raises:
        ValueError: if they have another shape, or too few elements.

    Example:
        >>> channel_mean_test(torch.tensor([0.0, -0.5]).reshape(1, 2, 1, 1).expand(1, 2, 8, 8)).value
        tensor([-0.5000], dtype=torch.float64)
    """
    channels = _seeds(latents).flatten(2)
    means = channels.mean(2)
    return _farthest_channel(means, _normal_p_value(means * math.sqrt(channels.shape[2])))


def channel_variance_test(latents: Tensor) -> SeedTest:
    r"""Whether a channel of a seed is too loud or too quiet: the variance of the one farthest out, 1 under the prior.

    Sums of squares about the channel's own mean are independent and :math:`\chi^2_{hw-1}`; see `channel_mean_test` for
    why the farthest is taken, and why that is exact. Their sum would be `norm_test` again, blind to one channel's gain
    at another's cost.

    Args:
        latents: seeds (n, c, h, w).

    Raises:
        ValueError: if they have another shape, too few elements, or one a channel.

    Example:
        >>> channel_variance_test(torch.arange(64.0).reshape(1, 1, 8, 8)).value
        tensor([346.6667], dtype=torch.float64)
    """
    channels = _seeds(latents).flatten(2)
    freedom = channels.shape[2] - 1
    if freedom < 1:
        raise ValueError(f"a channel needs two elements or more to have a variance, got {tuple(latents.shape)}")
    squares = (channels - channels.mean(2, keepdim=True)).square().sum(2)
    return _farthest_channel(squares / freedom, _chi_square_p_value(squares, freedom))


def autocorrelation_test(latents: Tensor) -> SeedTest:
    r"""Whether neighbours in a seed are alike: its autocorrelation at lag 1 in both axes together, 0 under the prior.

    .. math:: r = \frac{\frac{1}{m} \sum_{i \sim j} z_i z_j}{\frac{1}{d} \sum_i z_i^2}

    over the m pairs of horizontal or vertical neighbours within a channel. Under the prior :math:`z / \lVert z \rVert`
    is uniform on the sphere whatever the norm, so that r is independent of `norm_test`, has mean 0, skewness 0 and
    variance :math:`d / (m (d + 2))`, all exact, and an excess kurtosis of about 3 / d. The normal law is therefore
    close: for 4 channels of 16 x 16, p-values are right to 0.05 % at 0.05 and to 2.5 % at 1e-4.

    Args:
        latents: seeds (n, c, h, w).

    Raises:
        ValueError: if they have another shape, too few elements, or no neighbours.

    Example:
        >>> x = torch.arange(16.0)
        >>> autocorrelation_test(torch.sin(x[:, None] / 3 + x)[None, None]).value
        tensor([0.7444], dtype=torch.float64)
    """
    seeds = _seeds(latents)
    size, (channels, height, width) = seeds[0:1].numel() or 1, seeds.shape[1:]
    pairs = channels * (height * (width - 1) + width * (height - 1))
    if pairs == 0:
        raise ValueError(f"seeds of one element a channel have no neighbours, got {tuple(latents.shape)}")
    across = (seeds[..., 1:] * seeds[..., :-1]).flatten(1).sum(1)
    down = (seeds[..., 1:, :] * seeds[..., :-1, :]).flatten(1).sum(1)
    square = seeds.square().flatten(1).mean(1)
    value = torch.where(square == 0, 1.0, (across + down) / pairs / square)  # a constant seed has 1, so has zero
    return SeedTest(value, _normal_p_value(value * math.sqrt(pairs * (1 + 2 / size))))


def kurtosis_test(latents: Tensor) -> SeedTest:
    """Whether the elements of a seed have heavy or light tails: their excess kurtosis, -6 / (d + 1) under the prior.

    Moments are about the seed's own mean. The p-value is that of Anscombe and Glynn (1983): the statistic's exact mean,
    variance and skewness under normality, and a cube root that makes it normal, for 20 elements or more.

    Args:
        latents: seeds (n, c, h, w).

    Raises:
        ValueError: if they have another shape, or too few elements.

    Example:
        >>> kurtosis_test(torch.tensor([1.0, -1.0]).repeat(32).reshape(1, 1, 8, 8)).value
        tensor([-2.], dtype=torch.float64)
    """
    seeds = _seeds(latents).flatten(1)
    squares = (seeds - seeds.mean(1, keepdim=True)).square()
    variance = squares.mean(1)
    # Two values, as far apart as they may be, have the least kurtosis there is, 1; so has a seed that is constant.
    kurtosis = torch.where(variance == 0, 1.0, squares.square().mean(1) / variance.square())
    return SeedTest(kurtosis - 3, _normal_p_value(_anscombe_glynn(kurtosis, seeds.shape[1])))


def ks_test(latents: Tensor) -> SeedTest:
    r"""Whether the elements of a seed are standard normal numbers, taken together: Kolmogorov and Smirnov's distance.

    The largest distance between the distribution function of the seed's elements and the normal one, about
    :math:`0.87 / \sqrt{d}` under the prior. The p-value is that of Kolmogorov's limit law with the finite-sample
    correction of Vrbik (2018): right to 0.1 % at 0.01 and to 1 % at 1e-5 for d = 1024, and better for larger seeds.

    Args:
        latents: seeds (n, c, h, w).

    Raises:
        ValueError: if they have another shape, or too few elements.

    Example:
        >>> ks_test(torch.zeros(1, 4, 8, 8)).value
        tensor([0.5000], dtype=torch.float64)
    """
    seeds = _seeds(latents).flatten(1)
    size = seeds.shape[1]
    expected = torch.special.ndtr(seeds.sort(1).values)
    below = torch.arange(size, dtype=torch.float64, device=seeds.device) / size
    distance = torch.maximum((expected - below).amax(1), (below + 1 / size - expected).amax(1))
    scaled = distance * math.sqrt(size)
    return SeedTest(distance, _kolmogorov_p_value(scaled + 1 / (6 * math.sqrt(size)) + (scaled - 1) / (4 * size)))


TESTS = {
    "norm": norm_test,
    "channel_mean": channel_mean_test,
    "channel_variance": channel_variance_test,
    "autocorrelation": autocorrelation_test,
    "kurtosis": kurtosis_test,
    "ks": ks_test,
}
"""The tests by name, in the order in which they are reported."""


def typicality(latents: Tensor) -> dict[str, SeedTest]:
    """All tests of seeds (n, c, h, w), by name; see `TESTS`, and `combined_p_value` for one verdict a seed.

    Raises:
        ValueError: if the seeds have another shape, or too few elements for a test.

    Example:
        >>> tests = typicality(1.2 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)))
        >>> [name for name, test in tests.items() if test.p_value < 0.001]
        ['norm', 'channel_variance']
    """
    return {name: test(latents) for name, test in TESTS.items()}


def combined_p_value(tests: Mapping[str, SeedTest]) -> Tensor:
    r"""One p-value a seed for all tests: the smallest, times their number, at most 1.

    The smallest of the p-values adjusted by Holm (1979), who begins with Bonferroni's bound. It holds for any
    dependence, which the tests have plenty of: norm, variances and Kolmogorov's distance see the same thing. Averages
    of transformed p-values (Cauchy, harmonic) keep their level under dependence only in the limit of small levels, and
    gain power where many tests agree a little; what is wrong with a seed mostly shows in one or two, strongly. The
    price is small: of seeds from the prior, 4.6 % are called atypical at level 0.05.

    Args:
        tests: from `typicality`, or some of them.

    Returns:
        p-values (n,), float64.

    Example:
        >>> combined_p_value(typicality(torch.zeros(1, 4, 8, 8)))
        tensor([0.], dtype=torch.float64)
    """
    p_values = torch.stack([test.p_value for test in tests.values()])
    return (len(tests) * p_values.amin(0)).clamp(max=1)


def _seeds(latents: Tensor) -> Tensor:
    """Seeds in float64; those with an element that is not finite become NaN throughout."""
    if latents.ndim != 4 or latents.shape[1:].numel() < FEWEST:
        raise ValueError(f"latents must be (n, c, h, w) with {FEWEST} elements a seed, got {tuple(latents.shape)}")
    seeds = as_float64(latents)
    finite = seeds.isfinite().flatten(1).all(1)
    return seeds if bool(finite.all()) else torch.where(finite[:, None, None, None], seeds, math.nan)


def _normal_p_value(z: Tensor) -> Tensor:
    return torch.special.erfc(z.abs() / math.sqrt(2))


def _chi_square_p_value(square: Tensor, freedom: int) -> Tensor:
    """Twice the smaller tail."""
    shape, energy = torch.full_like(square, freedom / 2), square / 2
    tails = torch.special.gammainc(shape, energy), torch.special.gammaincc(shape, energy)
    return (2 * torch.minimum(*tails)).clamp(max=1)


def _kolmogorov_p_value(distance: Tensor) -> Tensor:
    """Upper tail of Kolmogorov's law, by the series that converges at once: one for small, one for large distances."""
    k, x = torch.arange(1, 6, dtype=torch.float64, device=distance.device), distance[:, None]
    above = 2 * ((-1) ** (k - 1) * torch.exp(-2 * (k * x).square())).sum(1)
    below = math.sqrt(2 * math.pi) / distance * torch.exp(-((2 * k - 1) * math.pi / x).square() / 8).sum(1)
    return torch.where(distance > 1, above, 1 - below).clamp(0, 1)


def _anscombe_glynn(kurtosis: Tensor, n: int) -> Tensor:
    """A standard normal number for the kurtosis of n of them."""
    mean = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    skewness = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9))
    skewness *= math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skewness * (2 / skewness + math.sqrt(1 + 4 / skewness**2))
    denominator = 1 + (kurtosis - mean) / math.sqrt(variance) * math.sqrt(2 / (a - 4))
    root = torch.copysign(((1 - 2 / a) / denominator.abs()) ** (1 / 3), denominator)
    return (1 - 2 / (9 * a) - root) / math.sqrt(2 / (9 * a))


def _farthest_channel(values: Tensor, p_values: Tensor) -> SeedTest:
    """The channel with the smallest p-value, which is corrected for the choice among independent ones."""
    smallest, where = p_values.min(1)
    corrected = -torch.expm1(values.shape[1] * torch.log1p(-smallest))
    return SeedTest(values.gather(1, where[:, None])[:, 0], corrected)
