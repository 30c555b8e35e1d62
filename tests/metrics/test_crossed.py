"""Means over trainings and cases: closed forms, and intervals that hold as often as they say."""

import math

import pytest
import torch
from scipy.special import stdtrit
from torch import Tensor

from lit_memories.metrics.crossed import crossed, least_difference


def world(trainings: int, cases: int, sd: tuple[float, float, float], generator: torch.Generator) -> Tensor:
    """Readings of trainings on cases, with the standard deviations of training, case and the rest."""
    training, case, rest = sd
    own = training * torch.randn(trainings, 1, generator=generator, dtype=torch.float64)
    shared = case * torch.randn(1, cases, generator=generator, dtype=torch.float64)
    return own + shared + rest * torch.randn(trainings, cases, generator=generator, dtype=torch.float64)


def test_equal_trainings_leave_the_cases_and_equal_cases_the_trainings() -> None:
    row = torch.tensor([1.0, 4.0, 2.0, 9.0])
    same = crossed(row.repeat(3, 1))
    assert (same.trainings, same.rest) == (0, 0)
    assert same.cases == pytest.approx(float(row.double().var()) / 4)
    assert same.error == pytest.approx(math.sqrt(same.cases))
    level = torch.tensor([[1.0], [2.0], [6.0]]).repeat(1, 5)
    found = crossed(level)
    assert (found.cases, found.rest) == (0, 0)
    assert found.trainings == pytest.approx(7)
    assert found.error == pytest.approx(math.sqrt(7 / 3))


def test_what_all_cases_of_a_training_share_falls_out_of_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    values = world(3, 8, (0, 1, 1), generator)
    others = world(3, 6, (0, 1, 1), generator)
    shift = torch.tensor([[100.0], [-50.0], [7.0]])
    one, other = crossed(values, others), crossed(values + shift, others + shift)
    assert one.value == pytest.approx(other.value)
    assert one.error == pytest.approx(other.error)
    assert one.trainings == pytest.approx(other.trainings, abs=1e-9)


def test_components_are_found_on_average() -> None:
    generator = torch.Generator().manual_seed(1)
    found = [crossed(world(6, 40, (2, 3, 4), generator)) for _ in range(400)]
    assert sum(one.trainings for one in found) / 400 == pytest.approx(4, rel=0.15)
    assert sum(one.cases for one in found) / 400 * 40 == pytest.approx(9, rel=0.1)
    assert sum(one.rest for one in found) / 400 * 40 == pytest.approx(16, rel=0.05)


@pytest.mark.parametrize("sd", [(1, 1, 1), (3, 0.5, 1), (0, 1, 1), (0.2, 4, 1), (0, 0, 1)])
@pytest.mark.parametrize("trainings", [3, 6])
def test_intervals_cover_other_trainings_and_other_cases(sd: tuple[float, float, float], trainings: int) -> None:
    """The truth is 0; three trainings are enough for the interval to hold, if not for it to be narrow."""
    generator = torch.Generator().manual_seed(2)
    hits = 0
    for _ in range(600):
        found = crossed(world(trainings, 16, sd, generator), world(trainings, 16, sd, generator)).interval()
        hits += found.low <= 0 <= found.high
    assert hits / 600 >= 0.93


def test_one_training_says_nothing_of_others() -> None:
    found = crossed(torch.randn(1, 8))
    assert math.isnan(found.interval().low)
    assert math.isnan(found.trainings)
    assert found.cases > 0


@pytest.mark.parametrize("table", [torch.zeros(0, 3), torch.zeros(3), torch.zeros(3, 1), torch.full((2, 2), math.nan)])
def test_tables_that_say_nothing_are_refused(table: Tensor) -> None:
    with pytest.raises(ValueError, match="a row a training and two columns or more"):
        crossed(table)
    with pytest.raises(ValueError, match="there are 2 of one set and 3"):
        crossed(torch.zeros(2, 2), torch.zeros(3, 2))


@pytest.mark.parametrize(("trainings", "expected"), [(2, 5.653), (5, 2.024), (1000, 2.802 * 2**0.5 / 1000**0.5)])
def test_the_least_difference_that_is_seen_has_the_power_it_is_said_to(trainings: int, expected: float) -> None:
    """Against the normal law for many, and against trainings that are drawn for few."""
    least = least_difference(1.0, trainings)
    assert least == pytest.approx(expected, rel=0.02)
    if trainings < 1000:
        draw = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, 20_000, trainings, generator=draw, dtype=torch.float64)
        spread = ((a.var(1) + b.var(1)) / trainings).sqrt()
        seen = ((a + least).mean(1) - b.mean(1)).abs() / spread > stdtrit(2 * trainings - 2, 0.975)
        assert float(seen.double().mean()) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("scatter", "trainings"), [(1.0, 1), (-0.1, 3)])
def test_one_training_tells_nothing_apart(scatter: float, trainings: int) -> None:
    with pytest.raises(ValueError, match="give two trainings or more, and no negative scatter"):
        least_difference(scatter, trainings)
