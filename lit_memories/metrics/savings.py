r"""Savings (Ebbinghaus 1885): how much sooner something is learnt again than it was learnt by one that never knew it.

A course is what a model reads after some steps of a lesson, lower for what is learnt. Between looks it is taken to be
straight in the number of steps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def steps_to(courses: Tensor, level: Tensor, looks: Sequence[int]) -> Tensor:
    """After how many steps courses first come down to a level; NaN where they never do.

    Args:
        courses: what is read at each look (..., looks).
        level: to come to, a course each (...).
        looks: after how many steps each look is, from 0, growing.

    Raises:
        ValueError: if the looks are not as many, or do not grow from 0.

    Example:
        >>> steps_to(torch.tensor([[9.0, 5.0, 1.0]]), torch.tensor([3.0]), [0, 2, 10])
        tensor([6.])
    """
    if courses.shape[-1] != len(looks) or list(looks) != sorted(set(looks)) or looks[0] != 0:
        raise ValueError(f"looks must grow from 0, one for each of {courses.shape[-1]} readings: got {list(looks)}")
    steps = torch.tensor(looks, dtype=courses.dtype, device=courses.device)
    below = courses <= level[..., None]
    first = below.to(torch.uint8).argmax(-1, keepdim=True)
    before = (first - 1).clamp_min(0)
    high, low = (courses.gather(-1, index)[..., 0] for index in (before, first))
    share = torch.where(high > low, (high - level) / (high - low), torch.ones_like(level)).clamp(0, 1)
    found = steps[before[..., 0]] + share * (steps[first[..., 0]] - steps[before[..., 0]])
    return torch.where(below.any(-1), found, torch.nan)


def steps_saved(courses: Tensor, never_knew: Tensor, looks: Sequence[int]) -> Tensor:
    """How many steps sooner courses come to where the course of a model that never knew ends.

    Args:
        courses: (..., looks).
        never_knew: of that model (..., looks).
        looks: after how many steps each look is, from 0, growing.

    Returns:
        Steps (...): all of them where a course begins there already; negative infinity where it does not come there,
        so that it saves nothing.

    Example:
        >>> steps_saved(torch.tensor([4.0, 2.0]), torch.tensor([9.0, 3.0]), [0, 8])
        tensor(4.)
    """
    taken = steps_to(courses, never_knew[..., -1], looks)
    return torch.where(taken.isnan(), -torch.inf, looks[-1] - taken)
