"""The tests of a seed once more, by numpy and scipy: what the ones of the package are compared with."""

import numpy as np
import scipy.integrate
import scipy.stats


def two_sided(law, value):
    return 2 * min(law.cdf(value), law.sf(value))


def farthest(values, p_values):
    first = int(np.argmin(p_values))
    return values[first], 1 - (1 - p_values[first]) ** len(values)


def pairs(shape):
    channels, height, width = shape
    return channels * (height * (width - 1) + width * (height - 1))


def autocorrelation(seed):
    products = (seed[:, :, 1:] * seed[:, :, :-1]).sum() + (seed[:, 1:] * seed[:, :-1]).sum()
    return products / pairs(seed.shape) / (seed**2).mean()


def autocorrelation_tail(shape, value):
    """P(r >= value) under the prior by Imhof (1961): r >= x is a weighted sum of chi-squares being positive."""
    channels, height, width = shape
    lines = [2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in (height, width)]
    # Half the eigenvalues of a grid's adjacency matrix are those of the form that sums the products of neighbours.
    weights = np.add.outer(*lines).ravel() / 2 / pairs(shape) - value / np.prod(shape)
    weights /= np.sqrt(channels * (weights**2).sum())

    def integrand(u):
        modulus = channels / 4 * np.log1p((weights * u) ** 2).sum()
        return np.sin(channels / 2 * np.arctan(weights * u).sum()) / u * np.exp(-modulus)

    return 0.5 + scipy.integrate.quad(integrand, 0, 60, limit=1000, epsabs=1e-12)[0] / np.pi


def one_seed(seed):
    """Value and p-value of each test of one seed (c, h, w)."""
    flat, channels = seed.ravel(), seed.reshape(len(seed), -1)
    freedom = channels.shape[1] - 1
    chi2 = scipy.stats.chi2(freedom)
    means, variances = channels.mean(1), channels.var(1, ddof=1)
    r = autocorrelation(seed)
    ks = scipy.stats.kstest(flat, "norm", method="exact")
    return {
        "norm": ((flat**2).mean(), two_sided(scipy.stats.chi2(flat.size), (flat**2).sum())),
        "channel_mean": farthest(means, [2 * scipy.stats.norm.sf(abs(m) * channels.shape[1] ** 0.5) for m in means]),
        "channel_variance": farthest(variances, [two_sided(chi2, freedom * v) for v in variances]),
        "autocorrelation": (r, 2 * autocorrelation_tail(seed.shape, abs(r))),
        "kurtosis": (scipy.stats.kurtosis(flat), scipy.stats.kurtosistest(flat).pvalue),
        "ks": (ks.statistic, ks.pvalue),
    }


def typicality(seeds):
    """Values and p-values (n,) of each test of seeds (n, c, h, w)."""
    rows = [one_seed(seed) for seed in seeds]
    return {name: np.array([row[name] for row in rows]).T for name in rows[0]}


def numbers(seeds):
    """Means of the statistics, and the share of seeds atypical at 0.05."""
    tests = typicality(seeds.numpy())
    smallest = np.min([p_values for _, p_values in tests.values()], axis=0)
    return {name: values.mean() for name, (values, _) in tests.items()} | {"value": (6 * smallest <= 0.05).mean()}
