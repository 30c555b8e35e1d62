"""Curves of pictures seen, and how many pictures a reading is worth."""

import math

import pytest
import torch

from lit_memories.metrics.dose import dose_response, equivalent

DOSES = (0, 1, 4, 16, 64, 256, 384)


def test_a_curve_never_rises_and_says_where_the_readings_did() -> None:
    curve = dose_response([0, 1, 4, 16], [10, 20, 6, 0], [1, 1, 1, 1], 8)
    assert curve.readings.tolist() == [15, 15, 6, 0]
    assert curve.rises == [1]
    assert dose_response([0, 1, 4, 16], [10, 10.5, 6, 0], [1, 1, 1, 1], 8).rises == []


def test_a_reading_on_the_curve_is_worth_its_dose() -> None:
    readings = [320.0, 300, 250, 150, 60, 10, 0]
    curve = dose_response(DOSES, readings, [5] * 7, 12)
    for dose, reading in zip(DOSES[1:-1], readings[1:-1], strict=True):
        found = equivalent(curve, reading, 5)
        assert found.value == pytest.approx(dose, rel=0.05)
        assert found.low < dose < found.high
    halfway = equivalent(curve, 200, 5).value
    assert math.log1p(halfway) == pytest.approx((math.log1p(4) + math.log1p(16)) / 2, rel=0.02)


def test_where_the_curve_is_flat_only_fewer_or_more_can_be_said() -> None:
    curve = dose_response(DOSES, [320, 319, 318, 150, 60, 2, 0], [8] * 7, 12)
    few, many = equivalent(curve, 318, 5), equivalent(curve, 1, 5)
    assert few.low == 0
    assert 4 <= few.high < 16
    assert 64 < many.low < 256
    assert many.high == math.inf
    beyond = equivalent(curve, 1000, 5)
    assert (beyond.value, beyond.low) == (0, 0)
    assert equivalent(curve, -500, 5).high == math.inf


def test_of_trainings_that_learnt_so_many_most_are_worth_an_interval_that_holds_the_number() -> None:
    """Curves from three trainings, and a fourth that is read."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([320.0, 300, 250, 150, 60, 10, 0])
    hits = 0
    for trial in range(300):
        table = truth + 12 * torch.randn(4, 7, generator=generator)
        table[:, -1] = 0
        pooled = float(table[:3, :-1].var(0).mean()) ** 0.5 * (4 / 3) ** 0.5
        curve = dose_response(DOSES, table[:3].mean(0).tolist(), [pooled] * 6 + [0.0], 12)
        which = trial % 6
        found = equivalent(curve, float(table[3, which]), 0)
        hits += found.low <= DOSES[which] <= found.high
    assert hits / 300 >= 0.93


@pytest.mark.parametrize(
    ("doses", "readings", "scatter", "said"),
    [
        ([0], [1], [1], "two doses or more"),
        ([0, 0], [1, 2], [1, 1], "rising from 0"),
        ([-1, 1], [1, 2], [1, 1], "rising from 0"),
        ([0, 1], [1, math.nan], [1, 1], "must be finite"),
        ([0, 1], [1, 2], [1, -1], "no scatter below 0"),
    ],
)
def test_what_is_no_curve_is_refused(
    doses: list[float], readings: list[float], scatter: list[float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        dose_response(doses, readings, scatter, 3)
