"""Permutation tests of whether sets differ in their mean: any number of them at once, as relabellings can be shared."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import sort_rows
from lit_memories.metrics.checks import as_set

MAX_ELEMENTS = 2**21  # labels held at once: 16 MiB
TIE = 1e-9  # a relabelling's statistic within this of the data's is the same one, rounded


@dataclass(frozen=True)
class PermutationTest:
    """Result of `permutation_test`.

    Args:
        difference: of the means, in the sets' unit.
        p_value: two-sided, in (0, 1].
        exact: whether every relabelling was tried; else some were drawn.
        relabellings: how many were tried.
    """

    difference: float
    p_value: float
    exact: bool
    relabellings: int


def permutation_test(concept: Tensor, reference: Tensor, draws: int = 10_000, seed: int = 0) -> PermutationTest:
    r"""Whether two sets differ in their mean: forgetting, given the paired shifts of E and of R (`paired_shift`).

    If the labels mean nothing, the data are as likely as any relabelling of them. What is compared between relabellings
    is not the difference of means but Welch's statistic, the difference over
    :math:`\sqrt{s_E^2 / n_E + s_R^2 / n_R}`: the test stays exact where the sets have one law, and keeps its level in
    large samples where they share a mean only (Janssen 1997), as sets of unequal spread and size do. With drawn
    relabellings the data count as one of them, so that the level is kept exactly (Phipson and Smyth 2010) and
    p is at least 1 / (draws + 1). All are tried where they are no more than `draws`.

    Args:
        concept: one number a sample (n,).
        reference: one number a sample (m,).
        draws: relabellings to draw; what this leaves open about p is :math:`\sqrt{p (1 - p) / draws}`, at the default
            0.002 for a p of 0.05.
        seed: of the drawing.

    Raises:
        ValueError: if a set is empty, not finite or not (n,), or draws is not positive.

    Example:
        >>> permutation_test(torch.tensor([80.0, 70.0, 75.0, 71.0]), torch.tensor([1.0, 3.0, -2.0, 0.0]))
        PermutationTest(difference=73.5, p_value=0.02857142857142857, exact=True, relabellings=70)
    """
    return permutation_tests([(concept, reference)], draws, seed)[0]


def permutation_tests(
    pairs: Sequence[tuple[Tensor, Tensor]], draws: int = 10_000, seed: int = 0
) -> list[PermutationTest]:
    """Many tests in the time of few: `permutation_test` of each pair of sets, to the bit.

    The relabellings of a test depend on the sizes of its sets only; those of equal sizes share them, and those of the
    same number of cases the random numbers that they are made of.

    Args:
        pairs: of sets, one number a sample each.
        draws: relabellings to draw.
        seed: of the drawing, the same for each.

    Raises:
        ValueError: as `permutation_test`.
    """
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    sets = [_sets(*pair) for pair in pairs]
    alike: dict[tuple[int, int], list[int]] = {}
    for number, (first, second) in enumerate(sets):
        alike.setdefault((len(first), len(second)), []).append(number)
    groups = {sizes: _Group([torch.cat(sets[number]) for number in where], *sizes) for sizes, where in alike.items()}
    every = {sizes for sizes in groups if math.comb(sum(sizes), sizes[0]) <= draws}
    for sizes in every:
        for labels in _all_labels(*sizes):
            groups[sizes].count(labels)
    for total in {sum(sizes) for sizes in groups.keys() - every}:
        _draw([group for sizes, group in groups.items() if sum(sizes) == total and sizes not in every], draws, seed)
    found: dict[int, PermutationTest] = {}
    for sizes, where in alike.items():
        exact, tried = sizes in every, math.comb(sum(sizes), sizes[0]) if sizes in every else draws
        for number, extreme in zip(where, groups[sizes].extreme.tolist(), strict=True):
            difference = float(sets[number][0].mean() - sets[number][1].mean())
            p_value = extreme / tried if exact else (extreme + 1) / (tried + 1)
            found[number] = PermutationTest(difference, p_value, exact, tried)
    return [found[number] for number in range(len(pairs))]


def _sets(concept: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    first, second = as_set(concept, "concept set").cpu(), as_set(reference, "reference set").cpu()
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError(f"sets must be (n,), got {tuple(concept.shape)} and {tuple(reference.shape)}")
    return sort_rows(first), sort_rows(second)


class _Group:
    """Tests of sets of equal sizes, and how many relabellings were at least as extreme as the data of each."""

    def __init__(self, pooled: Sequence[Tensor], size: int, other: int) -> None:
        centred = torch.stack([values - values.mean() for values in pooled], 1)
        self.size, self.other = size, other
        self.columns = torch.cat([centred, centred.square()], 1)
        self.totals = self.columns.sum(0)
        self.observed = self._welch((torch.arange(size + other) < size).double()[None])
        self.extreme = torch.zeros(len(pooled), dtype=torch.int64)

    def count(self, labels: Tensor) -> None:
        """Try relabellings, 1 for the values that are labelled and else 0 (draws, size + other)."""
        self.extreme += (self._welch(labels) >= self.observed * (1 - TIE)).sum(0)

    def _welch(self, labels: Tensor) -> Tensor:
        """Welch's statistic without its sign, of each test (draws, tests)."""
        inside = labels @ self.columns
        sums, squares = torch.stack([inside, self.totals - inside]).chunk(2, -1)
        sizes = torch.tensor([self.size, self.other], dtype=torch.float64)[:, None, None]
        means = sums / sizes
        # A set of one has no spread of its own; rounding may leave less than none.
        spread = (squares - sums * means).clamp(min=0) / (sizes - 1).clamp(min=1)
        difference, error = (means[0] - means[1]).abs(), (spread / sizes).sum(0).sqrt()
        small = TIE * self.totals.chunk(2)[1].sqrt()
        return torch.where(difference <= small, 0.0, difference / torch.maximum(error, small))


def _all_labels(size: int, other: int) -> Iterator[Tensor]:
    total, fewer = size + other, min(size, other)
    chosen = combinations(range(total), fewer)
    while rows := list(islice(chosen, max(1, MAX_ELEMENTS // total))):
        labels = torch.zeros(len(rows), total, dtype=torch.float64).scatter_(1, torch.tensor(rows), 1.0)
        yield labels if fewer == size else 1 - labels


def _draw(groups: Sequence[_Group], draws: int, seed: int) -> None:
    """Try drawn relabellings in groups of the same number of cases: those with the smallest of random keys."""
    total, generator = len(groups[0].columns), torch.Generator().manual_seed(seed)
    smallest = sorted({group.size - 1 for group in groups})
    rows = max(1, MAX_ELEMENTS // (total + sum(8 * len(group.extreme) for group in groups)))
    for start in range(0, draws, rows):
        # Float64: two equal keys, which would make an order likelier than the rest, are out of the question.
        keys = torch.rand(min(rows, draws - start), total, generator=generator, dtype=torch.float64)
        ends = torch.from_numpy(np.partition(keys.numpy(), smallest, axis=1)[:, smallest])
        for group in groups:
            group.count((keys <= ends[:, [smallest.index(group.size - 1)]]).double())
