"""KID, CMMD and FID: closed forms, torchmetrics, bias and its correction, and what prompts have to do with it."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from lit_memories.metrics.picture_sets import (
    BLOCK,
    SCALE,
    cases_of,
    cmmd,
    frechet,
    frechet_infinity,
    gaussian_kernel,
    kid,
)

LAW = torch.Generator().manual_seed(0)
MIX = torch.randn(2, 8, 8, dtype=torch.float64, generator=LAW) / 3
SHIFT = torch.full((8,), 0.2, dtype=torch.float64)


def drawn(count: int, seed: int, which: int = 0) -> Tensor:
    """Normal features (count, 8) of one of two laws, whose Fréchet distance is known."""
    noise = torch.randn(count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return noise @ MIX[which].T + which * SHIFT


def apart(*counts: int) -> list[Tensor]:
    """Every picture a case of its own."""
    return list(torch.arange(sum(counts)).split(list(counts)))


def test_kid_is_that_of_torchmetrics_where_all_prompts_differ() -> None:
    x, y = drawn(30, 1), drawn(30, 2, 1)
    assert kid(x, y, *apart(30, 30)).value == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_kid_is_the_sum_over_pairs_of_different_prompts() -> None:
    """Against the definition, pair by pair, with prompts that stand in either set or in both, once or more."""
    x, y = drawn(5, 1), drawn(4, 2, 1)
    prompts = ["a", "a", "b", "c", "d"], ["a", "b", "e", "e"]

    def mean(left: Tensor, right: Tensor, of: list[str], other: list[str]) -> float:
        pairs = [(i, j) for i in range(len(left)) for j in range(len(right)) if of[i] != other[j]]
        return sum(float(left[i] @ right[j] / 8 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean(x, x, prompts[0], prompts[0]) + mean(y, y, prompts[1], prompts[1]) - 2 * mean(x, y, *prompts)
    assert kid(x, y, *cases_of(*prompts)).value == pytest.approx(expected, rel=1e-10)


def test_the_interval_is_the_jackknifes() -> None:
    """Whose pseudo-values are found here by leaving each prompt out of the sets."""
    x, y = drawn(12, 1), drawn(12, 2, 1)
    cases = torch.arange(12) // 2
    found = kid(x, y, cases, cases)
    rest = [kid(x[cases != case], y[cases != case], cases[cases != case], cases[cases != case]).value
            for case in range(6)]  # fmt: skip
    pseudo = 6 * found.value - 5 * torch.tensor(rest, dtype=torch.float64)
    assert found.count == 6
    error = float(pseudo.std()) / math.sqrt(6)
    assert 2 * error < found.high - found.low < 12 * error
    assert found.low < found.value < found.high


@pytest.mark.parametrize("paired", [True, False])
def test_kid_is_unbiased_and_its_interval_holds_it(paired: bool) -> None:
    """Of x and s y, normal with 8 features: 3 (1 - s^2)^2 / 8, from E (x y / 8 + 1)^3 = 1 + 3 E (x y / 8)^2."""
    scale, held, values = 1.5, 0, []
    truth = 3 * (1 - scale**2) ** 2 / 8
    generator = torch.Generator().manual_seed(3)
    pairs = torch.randn(120, 2, 40, 8, dtype=torch.float64, generator=generator)
    for x, other in pairs:
        cases = [torch.arange(40)] * 2 if paired else apart(40, 40)
        found = kid(x, scale * (x if paired else other), *cases)
        values.append(found.value)
        held += found.low <= truth <= found.high
    scatter = torch.tensor(values)
    assert abs(float(scatter.mean()) - truth) < 4 * float(scatter.std()) / math.sqrt(120)
    assert held >= 108
    if paired:  # pairs of a prompt among the sums would pull it down by their share
        naive = torch.tensor([float(poly_mmd(x, scale * x)) for x, _ in pairs])
        assert float(naive.mean()) < truth - 4 * float(naive.std()) / math.sqrt(120)


def test_a_set_is_at_no_distance_from_itself() -> None:
    x = drawn(BLOCK + 3, 1).float()
    cases = torch.arange(len(x)) % 50
    found = kid(x, x, cases, cases)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert frechet(x, x) == pytest.approx(0, abs=1e-10)


def test_cmmd_is_the_official_one_without_its_diagonals() -> None:
    x, y = drawn(20, 1), drawn(20, 2, 1)
    unit = [part / part.norm(dim=1, keepdim=True) for part in (x, y)]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return SCALE * torch.exp(-torch.cdist(a, b).square() / (2 * 10**2))

    assert torch.allclose(gaussian_kernel(x, y), kernel(*unit))
    own = [(values.sum() - values.trace()) / (20 * 19) for values in (kernel(part, part) for part in unit)]
    expected = own[0] + own[1] - 2 * kernel(*unit).mean()
    assert cmmd(x, y, *apart(20, 20)).value == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("counts", [(60, 50), (6, 5), (60, 5)])
def test_fid_is_that_of_torchmetrics_with_more_pictures_than_features_and_with_fewer(counts: tuple[int, int]) -> None:
    x, y = drawn(counts[0], 1), drawn(counts[1], 2, 1)
    expected = float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))
    assert frechet(x, y) == pytest.approx(expected, abs=1e-5)


def test_fid_of_known_gaussians() -> None:
    """Sets whose moments are given: ||shift||^2 + sum (a - b)^2 in the axes' standard deviations."""
    corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64) * math.sqrt(3 / 2)
    a, b, shift = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5]), torch.tensor([2.0, -1.0])
    assert frechet(corners * a, corners * b + shift) == pytest.approx(5 + (1 - 3) ** 2 + (2 - 0.5) ** 2)


def test_fid_falls_with_more_pictures_and_its_extrapolation_does_not() -> None:
    """The truth is that of the laws themselves; a division into parts scatters hardly more than the whole."""
    covariances = [mix @ mix.T for mix in MIX]
    truth = float(_compute_fid(torch.zeros(8, dtype=torch.float64), covariances[0], SHIFT, covariances[1]))
    pairs = [(drawn(64, 10 + seed), drawn(64, 5000 + seed, 1)) for seed in range(60)]
    raw, more = (torch.tensor([frechet(x[:count], y[:count]) for x, y in pairs]) for count in (32, 64))
    found = [frechet_infinity(x, y, *apart(64, 64)) for x, y in pairs]
    carried = torch.tensor([one.value for one in found])
    error = float(carried.std()) / math.sqrt(60)
    assert float(raw.mean()) > float(more.mean()) > truth + 4 * error
    assert abs(float(carried.mean()) - truth) < 3 * error
    assert carried.std() < 1.3 * more.std()
    assert sum(one.low <= truth <= one.high for one in found) >= 52


def test_too_few_pictures_are_not_carried_on() -> None:
    assert math.isnan(frechet_infinity(drawn(31, 1), drawn(31, 2), *apart(31, 31)).value)
    assert not math.isnan(frechet_infinity(drawn(32, 1), drawn(32, 2), *apart(32, 32)).value)
    one = torch.zeros(64, dtype=torch.long)  # all under one prompt: it cannot be divided
    assert math.isnan(frechet_infinity(drawn(64, 1), drawn(64, 2), one, one).value)
    assert math.isnan(kid(drawn(64, 1), drawn(64, 2), one, one).value)
    two = torch.arange(64) % 2
    found = kid(drawn(64, 1), drawn(64, 2, 1), two, two)
    assert math.isfinite(found.value)
    assert math.isnan(found.low)


@pytest.mark.parametrize(
    ("x", "y", "cases"),
    [
        (torch.empty(0, 8), torch.ones(2, 8), 2),
        (torch.ones(2, 8), torch.ones(2, 7), 2),
        (torch.ones(2, 8) * math.nan, torch.ones(2, 8), 2),
        (torch.ones(2), torch.ones(2), 2),
        (torch.ones(2, 8), torch.ones(2, 8), 3),
    ],
)
def test_what_is_no_pair_of_sets_is_refused(x: Tensor, y: Tensor, cases: int) -> None:
    for distance in (kid, cmmd, frechet_infinity):
        with pytest.raises(ValueError, match=r"features must be|the sets have 8 and 7 features"):
            distance(x, y, torch.arange(len(x)), torch.arange(cases))
