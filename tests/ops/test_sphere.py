"""Great circles and crossings."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_memories.metrics import combined_p_value, typicality
from lit_memories.ops.sphere import crossing, rotate

ANGLES = torch.linspace(0, math.pi / 2, 7, dtype=torch.float64)


def normal(count: int, seed: int = 0, shape: tuple[int, ...] = (4, 8, 8)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norms(x: Tensor, dims: int = 3) -> Tensor:
    return x.flatten(-dims).norm(dim=-1)


@pytest.mark.parametrize("length", [1.0, 0.3])
def test_the_angle_is_the_angle_and_the_norm_goes_geometrically(length: float) -> None:
    seeds, noise = length * normal(5), normal(5, 1)
    path = rotate(seeds, noise, ANGLES)
    cosine = (path * seeds[:, None]).flatten(2).sum(2) / norms(path) / norms(seeds)[:, None]
    torch.testing.assert_close(cosine, ANGLES.cos().expand(5, 7), rtol=0, atol=1e-12)
    share = torch.linspace(0, 1, 7, dtype=torch.float64)
    expected = norms(seeds)[:, None].log() * (1 - share) + norms(noise)[:, None].log() * share
    torch.testing.assert_close(norms(path).log(), expected)


def test_a_path_begins_at_the_seed_and_ends_beside_the_noise() -> None:
    seeds, noise = normal(5), normal(5, 1)
    path = rotate(seeds, noise, ANGLES)
    assert torch.equal(path[:, 0], seeds)
    torch.testing.assert_close(norms(path[:, -1]), norms(noise))
    alike = (path[:, -1] * noise).flatten(1).sum(1) / norms(noise) ** 2
    assert (alike > 0.95).all()


def test_a_path_stays_in_the_plane_of_its_ends() -> None:
    seeds, noise = normal(1), normal(1, 1)
    points = torch.cat([seeds, noise, rotate(seeds, noise, ANGLES)[0]]).flatten(1)
    assert torch.linalg.matrix_rank(points) == 2


def test_samples_and_angles_do_not_feel_one_another() -> None:
    seeds, noise = normal(5), normal(5, 1)
    path = rotate(seeds, noise, ANGLES)
    assert path.shape == (5, 7, 4, 8, 8)
    torch.testing.assert_close(rotate(seeds[[3]], noise[[3]], ANGLES), path[[3]], rtol=0, atol=1e-14)
    torch.testing.assert_close(rotate(seeds, noise, ANGLES[[4]]), path[:, [4]], rtol=0, atol=1e-14)


def test_every_point_between_draws_of_the_prior_is_like_one() -> None:
    """On the straight line between them none of those in the middle is."""
    seeds, noise = normal(300, 2, (4, 16, 16)), normal(300, 3, (4, 16, 16))
    angles = torch.tensor([0.4, math.pi / 4, 1.2])
    for points in rotate(seeds, noise, angles).unbind(1):
        assert float((combined_p_value(typicality(points)) <= 0.05).double().mean()) < 0.09
    straight = (seeds + noise) / 2
    assert float((combined_p_value(typicality(straight)) <= 0.05).double().mean()) == 1


def test_an_unlikely_seed_leads_to_ordinary_noise() -> None:
    """The norm of a seed is not carried along: at the end is the prior, whatever the seed was."""
    ends = rotate(1.4 * normal(100, 4, (4, 16, 16)), normal(100, 5, (4, 16, 16)), torch.tensor([math.pi / 2]))[:, 0]
    assert float((combined_p_value(typicality(ends)) <= 0.05).double().mean()) < 0.12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_keeps_its_type_and_the_seed(dtype: torch.dtype) -> None:
    seeds, noise = normal(3).to(dtype), normal(3, 1).to(dtype)
    path = rotate(seeds, noise, ANGLES)
    assert path.dtype == dtype
    assert torch.equal(path[:, 0], seeds)
    exact = rotate(seeds.double(), noise.double(), ANGLES)
    torch.testing.assert_close(path.double(), exact, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("seeds", "noise", "angles", "message"),
    [
        (normal(2), normal(3), ANGLES, r"must share a shape .*\(2, 4, 8, 8\), \(3, 4, 8, 8\) and \(7,\)"),
        (normal(2).flatten(1), normal(2).flatten(1), ANGLES, "must share a shape"),
        (normal(2), normal(2), torch.tensor(1.0), r"angles be \(k,\)"),
        (normal(2), normal(2, 1), torch.tensor([-0.1]), r"angles must be in \[0, pi / 2\]"),
        (normal(2), normal(2, 1), torch.tensor([90.0]), r"angles must be in \[0, pi / 2\]"),
        (normal(2), 3 * normal(2), ANGLES, "must span a plane"),
        (0 * normal(2), normal(2, 1), ANGLES, "must span a plane"),
        (normal(2), normal(2, 1) * math.nan, ANGLES, "must span a plane"),
    ],
)
def test_circles_that_are_none_are_refused(seeds: Tensor, noise: Tensor, angles: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotate(seeds, noise, angles)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.93])
def test_a_falling_curve_is_crossed_where_numpy_interpolates(level: float) -> None:
    curves = torch.rand(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(1, True).values
    curves[:, 0], curves[:, -1] = 1, 0
    found = crossing(ANGLES, curves, level)
    expected = [np.interp(level, curve[::-1], ANGLES.numpy()[::-1]) for curve in curves.numpy()]
    np.testing.assert_allclose(found.angle, expected, rtol=1e-12)
    assert not found.censored.any()


@pytest.mark.parametrize(
    ("curve", "angle", "censored"),
    [
        ([0.4, 0.3, 0.2], 0.0, -1),  # below from the start
        ([0.4, 0.9, 0.2], 0.0, -1),  # what it does later does not count
        ([0.9, 0.8, 0.7], 2.0, 1),  # never below
        ([0.9, 0.8, 0.5], 2.0, 1),  # reaches the level and does not fall below
        ([0.5, 0.5, 0.0], 1.0, 0),  # leaves it at once
        ([0.9, 0.1, 0.8], 0.5, 0),  # the first time counts
        ([0.5, 0.0, 0.0], 0.0, 0),  # seen at the start, and not censored
        ([1.0, 1.0, 0.0], 1.5, 0),
    ],
)
def test_the_first_fall_counts_and_the_ends_are_flagged(curve: list[float], angle: float, censored: int) -> None:
    found = crossing(torch.arange(3.0), torch.tensor(curve))
    assert float(found.angle) == pytest.approx(angle)
    assert int(found.censored) == censored


def test_curves_come_in_any_number_and_one_angle_is_enough() -> None:
    curves = torch.rand(2, 3, 7, generator=torch.Generator().manual_seed(1))
    found = crossing(ANGLES, curves)
    for i, j in ((0, 0), (1, 2)):
        alone = crossing(ANGLES, curves[i, j])
        assert (alone.angle, alone.censored) == (found.angle[i, j], found.censored[i, j])
    one = crossing(torch.tensor([0.7]), torch.tensor([[0.9], [0.1]]))
    assert one.censored.tolist() == [1, -1]
    assert one.angle.tolist() == pytest.approx([0.7, 0.7])
    assert crossing(torch.arange(2), torch.tensor([True, False])).angle == 0.5  # a judge's yes and no


@pytest.mark.parametrize(
    ("angles", "curve", "message"),
    [
        (torch.arange(3.0), torch.ones(2), r"got \(3,\) and \(2,\)"),
        (torch.zeros(0), torch.zeros(0), r"got \(0,\)"),
        (torch.tensor([0.0, 1.0, 1.0]), torch.ones(3), "angles must increase"),
        (torch.arange(3.0), torch.tensor([0.5, 1.5, 0.0]), r"probabilities must be in \[0, 1\]"),
        (torch.arange(3.0), torch.tensor([0.5, math.nan, 0.0]), r"probabilities must be in \[0, 1\]"),
    ],
)
def test_curves_that_mean_nothing_are_refused(angles: Tensor, curve: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crossing(angles, curve)
