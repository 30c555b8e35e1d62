r"""How far two sets of pictures are apart by their features: KID, CMMD, FID.

Pictures of one prompt, in one set or in both, are no independent cases, least of all those that models draw from the
same noise. Prompts are the cases here, and pairs of pictures of one prompt are left out of every sum of `mmd`, which
is unbiased so, and 0 to the bit between a set and itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.checks import as_float64
from lit_memories.metrics.intervals import mean_interval

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Of features (n, d) and (m, d), in float64: (n, m)."""
BLOCK = 1024
"""Rows of a kernel that are held at once."""
BANDWIDTH, SCALE = 10.0, 1000.0
"""Of CMMD, as officially."""
PARTS = 4
"""Into how many parts pictures are divided, at most, to see how the Fréchet distance falls with their number."""
ENOUGH = 2
"""How many pictures a part has, at least, for each feature: with fewer the distance is no line in one over them."""


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """KID's: (x y / d + 1)^3 (Bińkowski et al. 2018, arXiv:1801.01401)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian_kernel(x: Tensor, y: Tensor) -> Tensor:
    """CMMD's, of features of unit norm, with its factor (Jayasumana et al. 2024, arXiv:2401.09603)."""
    cosine = (x / x.norm(dim=1, keepdim=True)) @ (y / y.norm(dim=1, keepdim=True)).T
    return SCALE * ((cosine - 1) / BANDWIDTH**2).exp()


def mmd(x: Tensor, y: Tensor, cases_x: Tensor, cases_y: Tensor, kernel: Kernel = polynomial_kernel) -> Estimate:
    r"""The squared maximum mean discrepancy of two sets, unbiased, with the jackknife's interval.

    .. math:: \widehat{\mathrm{MMD}}^2 = \langle k(x_i, x_j) \rangle + \langle k(y_i, y_j) \rangle
        - 2 \langle k(x_i, y_j) \rangle, \quad \text{means over all } i, j \text{ of different cases}

    (Gretton et al. 2012, eqs. 3 and 4). The interval is that of the mean of the jackknife's pseudo-values, a case each
    left out in turn (Arvesen 1969). Where both laws are one, it is wider than it need be.

    Args:
        x: features of one set (n, d).
        y: of the other (m, d).
        cases_x: which case each picture belongs to (n,), from 0 on.
        cases_y: the same of the other set (m,); cases of one number are one case.
        kernel: that compares them.

    Returns:
        NaN without two cases that have pictures in both sets' sums; without ends with fewer than three.

    Raises:
        ValueError: if a set is empty, not finite, or of other features than the other.
    """
    x, y = _checked(x, y, cases_x, cases_y)
    count = int(torch.cat([cases_x, cases_y]).max()) + 1
    terms = [
        _means(x, x, cases_x, cases_x, count, kernel),
        _means(y, y, cases_y, cases_y, count, kernel),
        _means(x, y, cases_x, cases_y, count, kernel),
    ]
    (xx, yy, xy), (xx_without, yy_without, xy_without) = zip(*terms, strict=True)
    value, without = float(xx + yy - 2 * xy), xx_without + yy_without - 2 * xy_without
    present = torch.bincount(torch.cat([cases_x, cases_y]), minlength=count) > 0
    number = int(present.sum())
    pseudo = number * value - (number - 1) * without[present]
    if number < 3 or not bool(pseudo.isfinite().all()):
        return Estimate(value, torch.nan, torch.nan, count=number)
    return _centred(mean_interval(pseudo), value)


def frechet(x: Tensor, y: Tensor) -> float:
    r"""The Fréchet distance of two sets' Gaussians, FID by Inception's features (Heusel et al. 2017, arXiv:1706.08500).

    .. math:: \lVert \mu_x - \mu_y \rVert^2 + \operatorname{tr}(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2})

    The last trace is the nuclear norm of the product of the centred sets, for which no root of a matrix is needed. It
    grows with fewer pictures, by about a constant over their number: compare it at one number only.

    Args:
        x: features of one set (n, d).
        y: of the other (m, d).
    """
    x, y = as_float64(x), as_float64(y)
    a, b = (_factor(part) for part in (x, y))
    apart = (x.mean(0) - y.mean(0)).square().sum()
    crossed = torch.linalg.svdvals(a @ b.T).sum()
    return max(0.0, float(apart + a.square().sum() + b.square().sum() - 2 * crossed))


def frechet_infinity(x: Tensor, y: Tensor, cases_x: Tensor, cases_y: Tensor, seed: int = 0) -> Estimate:
    r"""The Fréchet distance carried on to infinitely many pictures (Chong and Forsyth 2020, arXiv:1911.07023).

    Cases are divided into 1, 2, 3 and 4 parts of one size; the means of the parts' distances lie on a line in the
    number of parts, and where it meets 0 is the estimate. As every division has all the cases, this scatters to the
    first order as the distance of all of them does, and the interval is that of its influence function.

    Args:
        x: features of one set (n, d).
        y: of the other (m, d).
        cases_x: as `mmd` takes them.
        cases_y: likewise.
        seed: of the division.

    Returns:
        NaN where half of a set has fewer than `ENOUGH` pictures a feature.

    Raises:
        ValueError: as `mmd` does.
    """
    x, y = _checked(x, y, cases_x, cases_y)
    cases = torch.cat([cases_x, cases_y]).unique()
    mixed = cases[torch.randperm(len(cases), generator=torch.Generator().manual_seed(seed))]
    held_by = torch.isin(mixed, cases_x).int() + 2 * torch.isin(mixed, cases_y).int()
    mixed = mixed[held_by.argsort(stable=True)]  # so that each part has as much of either set
    divisions = [_divided(x, y, cases_x, cases_y, mixed, parts) for parts in range(1, PARTS + 1)]
    enough = [pairs for pairs in divisions if min(map(len, sum(pairs, ()))) >= ENOUGH * x.shape[1]]
    if len(enough) < 2:
        return Estimate(torch.nan, torch.nan, torch.nan, count=len(cases))
    counts = torch.tensor([len(pairs) for pairs in enough], dtype=torch.float64)
    found = torch.tensor([sum(frechet(*pair) for pair in pairs) / len(pairs) for pairs in enough], dtype=torch.float64)
    off = counts - counts.mean()
    value = float(found.mean() - counts.mean() * (off @ found) / (off @ off))
    influences = torch.zeros(int(cases.max()) + 1, dtype=torch.float64)
    influences.index_add_(0, cases_x, _influence(x, y) * len(cases) / len(x))
    influences.index_add_(0, cases_y, _influence(y, x) * len(cases) / len(y))
    return _centred(mean_interval(influences[cases]), value)


def _checked(x: Tensor, y: Tensor, cases_x: Tensor, cases_y: Tensor) -> tuple[Tensor, Tensor]:
    for part, cases in ((x, cases_x), (y, cases_y)):
        if part.ndim != 2 or len(part) == 0 or cases.shape != part.shape[:1] or not bool(part.isfinite().all()):
            raise ValueError(
                f"features must be (n, d), finite, and have a case each, got {tuple(part.shape)} and "
                f"{tuple(cases.shape)} cases"
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"the sets have {x.shape[1]} and {y.shape[1]} features: they must be of one model")
    return as_float64(x), as_float64(y)


def _means(a: Tensor, b: Tensor, cases_a: Tensor, cases_b: Tensor, count: int, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """The mean of a kernel over pairs of different cases, and the same without each case in turn (count,)."""
    own, other = torch.zeros(2, count, dtype=torch.float64)
    for rows in torch.arange(len(a)).split(BLOCK):
        apart = cases_a[rows, None] != cases_b
        values = kernel(a[rows], b) * apart
        own.index_add_(0, cases_a[rows], values.sum(1))
        other.index_add_(0, cases_b, values.sum(0))
    of_a, of_b = (torch.bincount(cases, minlength=count).double() for cases in (cases_a, cases_b))
    pairs = of_a.sum() * of_b.sum() - of_a @ of_b
    gone = of_a * (of_b.sum() - of_b) + of_b * (of_a.sum() - of_a)
    return own.sum() / pairs, (own.sum() - own - other) / (pairs - gone)


def _factor(features: Tensor) -> Tensor:
    """A matrix whose product with itself, transposed first, is the covariance: (n, d), or (d, d) if that is smaller."""
    centred = (features - features.mean(0)) / max(len(features) - 1, 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred


def _divided(
    x: Tensor, y: Tensor, cases_x: Tensor, cases_y: Tensor, cases: Tensor, parts: int
) -> list[tuple[Tensor, Tensor]]:
    """Both sets' pictures of each of so many parts of the cases."""
    chosen = [cases[part::parts] for part in range(parts)]
    return [(x[torch.isin(cases_x, part)], y[torch.isin(cases_y, part)]) for part in chosen]


def _influence(x: Tensor, y: Tensor) -> Tensor:
    """How each picture of a set moves the Fréchet distance, to the first order (n,); with mean 0."""
    centred = x - x.mean(0)
    root = _root(torch.cov(x.T))
    inverse = torch.linalg.pinv(root, hermitian=True)
    carried = inverse @ _root(root @ torch.cov(y.T) @ root) @ inverse  # the optimal map from one Gaussian to the other
    bent = torch.eye(len(root), dtype=torch.float64) - carried
    moved = 2 * centred @ (x.mean(0) - y.mean(0)) + ((centred @ bent) * centred).sum(1)
    return moved - moved.mean()


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _centred(interval: Estimate, value: float) -> Estimate:
    """An interval of a mean that stands for a value, around that value."""
    shift = value - interval.value
    return replace(interval, value=value, low=interval.low + shift, high=interval.high + shift)


kid = partial(mmd, kernel=polynomial_kernel)
cmmd = partial(mmd, kernel=gaussian_kernel)


def cases_of(*prompts: Sequence[str]) -> list[Tensor]:
    """The cases of sets of pictures, by their prompts: equal prompts have equal numbers.

    Args:
        prompts: of each set, one a picture.

    Example:
        >>> cases_of(["a star", "a sun"], ["a sun", "a moon", "a sun"])
        [tensor([0, 1]), tensor([1, 2, 1])]
    """
    numbers: dict[str, int] = {}
    return [torch.tensor([numbers.setdefault(one, len(numbers)) for one in listed]) for listed in prompts]
