"""Ranks that data leave open: exact where all is known, everything where nothing is, and rarely wrong in between."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.intervals import mean_interval
from lit_memories.metrics.ranks import less, pairs, rank_interval, rank_intervals

VALUES = st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True)


def known(values: list[int], width: float = 0.0):
    def difference(one: int, other: int, level: float) -> Estimate:
        value = float(values[one] - values[other])
        return Estimate(value, value - width, value + width, level)

    return difference


@given(VALUES)
def test_where_differences_are_known_ranks_are(values: list[int]) -> None:
    found = rank_intervals(len(values), known(values))
    assert found == [(rank := 1 + sorted(values).index(value), rank) for value in values]


@given(VALUES, st.integers(0, 120))
def test_wider_intervals_leave_more_open_and_hold_the_true_rank(values: list[int], width: int) -> None:
    exact, open_ = (rank_intervals(len(values), known(values, one)) for one in (0.0, width))
    assert all(low <= rank <= high for (rank, _), (low, high) in zip(exact, open_, strict=True))
    if width > 100:
        assert set(open_) == {(1, len(values))}


@given(VALUES)
def test_nothing_known_leaves_every_rank(values: list[int]) -> None:
    nan = Estimate(0.0, float("nan"), float("nan"))
    for told in (None, nan):
        assert set(rank_intervals(len(values), lambda *_, told=told: told)) == {(1, len(values))}


def test_every_pair_is_asked_once_at_a_level_for_all_of_them() -> None:
    asked = []
    rank_intervals(5, lambda *pair: asked.append(pair))
    assert len(asked) == len({(one, other) for one, other, _ in asked}) == pairs(5) == 10
    assert {round(level, 12) for *_, level in asked} == {0.995}
    assert all(one < other for one, other, _ in asked)


def test_equal_ends_tell_nothing() -> None:
    assert rank_interval([Estimate(1.0, 0.0, 2.0), Estimate(-1.0, -2.0, 0.0)]) == (1, 3)


def test_intervals_that_do_not_meet_differ_by_more_than_nothing() -> None:
    one, two = Estimate(1.0, 0.0, 2.0), Estimate(4.0, 3.0, 5.0)
    assert (less(one, two).high < 0) == (one.high < two.low)
    assert not less(one, Estimate(3.0, 2.0, 4.0)).high < 0


def test_ranks_are_wrong_together_as_rarely_as_they_say() -> None:
    """Six models on 24 pictures, two of them alike: all six intervals hold the true ranks in 95 of 100 tables."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([0.0, 0.3, 0.3, 0.6, 2.0, 4.0])
    first, last = [1, 2, 2, 4, 5, 6], [1, 3, 3, 4, 5, 6]
    wrong, told = 0, 0
    for _ in range(120):
        pictures = torch.randn(24, 1, generator=generator)  # what a picture does to all models alike
        table = truth + pictures + 0.5 * torch.randn(24, 6, generator=generator)
        found = rank_intervals(6, lambda i, j, level, t=table: mean_interval(t[:, i] - t[:, j], level=level))
        wrong += any(low > a or high < b for (low, high), a, b in zip(found, first, last, strict=True))
        told += found[5] == (6, 6)
    assert wrong <= 120 * 0.05 + 7, "5 % and three standard deviations"
    assert told > 100, "and the last one is told from the others"
