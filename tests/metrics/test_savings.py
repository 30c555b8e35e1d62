"""Steps to a level, against courses whose crossing is known."""

import pytest
import torch

from lit_memories.metrics.savings import steps_saved, steps_to

LOOKS = [0, 1, 2, 4, 8, 16]


@pytest.mark.parametrize("level", [0.5, 3.0, 7.75, 15.0, 16.0, 20.0])
def test_a_straight_course_crosses_where_it_does(level: float) -> None:
    course = 16 - torch.tensor(LOOKS, dtype=torch.float64)
    assert float(steps_to(course, torch.tensor(level).double(), LOOKS)) == pytest.approx(max(0.0, 16 - level))


def test_the_first_crossing_counts_and_one_that_never_comes_is_none() -> None:
    courses = torch.tensor([[9.0, 1.0, 9.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0, 9.0, 8.0]])
    found = steps_to(courses, torch.tensor([5.0, 5.0]), LOOKS)
    assert float(found[0]) == 0.5
    assert found[1].isnan()


def test_savings_are_all_of_it_none_of_it_or_less() -> None:
    never = torch.tensor([10.0, 9.0, 8.0, 7.0, 6.0, 5.0])
    assert float(steps_saved(never, never, LOOKS)) == 0
    assert float(steps_saved(never - 5, never, LOOKS)) == 16, "it is there before the lesson"
    assert float(steps_saved(never + 1, never, LOOKS)) == -torch.inf
    assert float(steps_saved(never - 1, never, LOOKS)) == 8


def test_looks_that_do_not_grow_are_refused() -> None:
    for looks in ([0, 2, 1], [1, 2, 3], [0, 1]):
        with pytest.raises(ValueError, match="looks must grow from 0"):
            steps_to(torch.zeros(3), torch.zeros(()), looks)
