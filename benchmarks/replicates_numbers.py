"""What erasures come to on the scale from vanilla to never-knew, over pictures, erasures and trainings.

Every training has a vanilla and a never-knew of its own, and is in its own units. Erasures of one training are averaged
before trainings are: the variance of such means says what trainings and erasures scatter by together, however many
erasures each training has, and `metrics.crossed` makes the interval.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.crossed import Crossed, crossed, least_difference
from lit_memories.metrics.intervals import ratio_interval
from lit_memories.metrics.ranks import rank_interval

HELD_BACK = ("castle",)
"""Concepts that no recipe was tuned on, nor any choice of an audit made."""
ROWS = 10_240
"""Pictures that a base or control is shown after the trunk, each once: enough for it to draw stripes."""
SIDES = "concept", "reference"
PATH = "denoising.surprise"
Line = dict[str, Any]
Pair = tuple[Tensor, Tensor]
"""Numbers of the concept's pictures and of the others, a row a training or erasure."""


@dataclass(frozen=True)
class Parts:
    """Standard deviations of what one erasure reads on so many pictures, by where they come from; NaN where unknown."""

    trainings: float
    erasures: float
    pictures: float

    @property
    def total(self) -> float:
        """Of one erasure of one training on these pictures."""
        return math.sqrt(sum(x**2 for x in (self.trainings, self.erasures, self.pictures) if not math.isnan(x)))


class Replicates:
    """All lines of benchmarks/replicates.py.

    Args:
        file: of lines.
    """

    def __init__(self, file: Path) -> None:
        self.lines: dict[tuple[str, int, str, int], Line] = {}
        for text in file.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            self.lines[line["concept"], line["training"], line["model"], line["seed"]] = line

    @property
    def concepts(self) -> list[str]:
        """Of which every method has been erased, with both ends of its scale beside it."""
        return [
            c
            for c in dict.fromkeys(key[0] for key in self.lines)
            if all(any(self.erasures(c, t, method) for t in self.trainings(c)) for method in self.methods)
        ]

    @property
    def methods(self) -> list[str]:
        """In the order of the lines."""
        return [m for m in dict.fromkeys(key[2] for key in self.lines) if m not in {"vanilla", "never-knew"}]

    def trainings(self, concept: str) -> list[int]:
        """Of which both ends of the scale are there."""
        known = sorted({key[1] for key in self.lines if key[0] == concept})
        ends = "vanilla", "never-knew"
        return [t for t in known if all((concept, t, end, 0) in self.lines for end in ends)]

    def erasures(self, concept: str, training: int, method: str) -> list[Line]:
        """Of one training, by seed."""
        return [line for key, line in sorted(self.lines.items()) if key[:3] == (concept, training, method)]

    def fractions(self, concept: str, training: int, method: str) -> Pair:
        """What each erasure of a training reads: tables (erasures, pictures), whose means it is the difference of."""
        return stacked([self._fraction(concept, training, line) for line in self.erasures(concept, training, method)])

    def shifts(self, concept: str, training: int, method: str) -> Pair:
        """The same in nats: what each picture moved from vanilla."""
        vanilla = self.lines[concept, training, "vanilla", 0]
        lines = self.erasures(concept, training, method)
        return stacked([_less(_sides(line), _sides(vanilla)) for line in lines])

    def fraction(self, concept: str, method: str) -> Estimate | None:
        """Mean over trainings of the mean over erasures, with its interval; None if there is no erasure."""
        there = [t for t in self.trainings(concept) if self.erasures(concept, t, method)]
        return crossed(*stacked([self._mean(concept, t, method) for t in there])).interval() if there else None

    def damage(self, concept: str, method: str) -> Crossed:
        """Of the pictures of other things, nats, over trainings."""
        there = [t for t in self.trainings(concept) if self.erasures(concept, t, method)]
        return crossed(torch.stack([self.shifts(concept, t, method)[1].mean(0) for t in there]))

    def rates(self, concept: str, method: str, side: str, path: str) -> list[float]:
        """The share of samples, a model each."""
        lines = [line for t in self.trainings(concept) for line in self.erasures(concept, t, method)]
        return [statistics.fmean(line["numbers"][side][path]) for line in lines]

    def parts(self, method: str) -> Parts:
        """Where the scatter of one erasure's fraction comes from; root mean squares over concepts."""
        between, within, pictures = [], [], []
        for concept in self.concepts:
            there = [t for t in self.trainings(concept) if self.erasures(concept, t, method)]
            firsts = [self.fractions(concept, t, method) for t in there]
            if len(firsts) > 1:
                over = crossed(*stacked([(e[0], r[0]) for e, r in firsts]))
                between.append(over.between - over.rest)
            for e, r in firsts:
                if len(e) > 1:
                    one = crossed(e, r)
                    within.append(one.between - one.rest)
            pictures += [_of_pictures(e[:1], r[:1]) for e, r in firsts]
        erasures = max(0.0, statistics.fmean(within)) if within else math.nan
        both = statistics.fmean(between) if between else math.nan
        trainings = max(0.0, both - (0.0 if math.isnan(erasures) else erasures)) if between else math.nan
        return Parts(math.sqrt(trainings), math.sqrt(erasures), math.sqrt(statistics.fmean(pictures)))

    def overall(self, method: str) -> Crossed | None:
        """A method's fraction, mean over concepts, over the trainings that all of them have."""
        tables = {
            c: {t: self._mean(c, t, method) for t in self.trainings(c) if self.erasures(c, t, method)}
            for c in self.concepts
        }
        return over_concepts({concept: rows for concept, rows in tables.items() if rows})

    def compared(self, one: str, other: str) -> Crossed | None:
        """The first method's fraction less the second's, mean over concepts, over the trainings all of them have."""
        return over_concepts(self.differences(one, other))

    def ranks(self) -> dict[str, tuple[float, int, int]]:
        """By method its fraction over all concepts, and the ranks that pairwise 95 % intervals leave to it, from 1."""
        means = {method: found for method in self.methods if (found := self.overall(method)) is not None}
        ranks = {}
        for method, own in means.items():
            told = [self.compared(method, other) for other in means if other != method]
            ends = [found.interval() if found is not None and found.count > 1 else None for found in told]
            ranks[method] = own.value, *rank_interval(ends)
        return dict(sorted(ranks.items(), key=lambda item: item[1][0]))

    def savings(self, concept: str, method: str) -> Estimate | None:
        """How much sooner the first erasure of the first training relearns than never-knew, over pictures."""
        keys = [(concept, 0, name, 0) for name in (method, "vanilla", "never-knew")]
        if not all(key in self.lines and "relearning" in self.lines[key] for key in keys):
            return None
        own, vanilla, never = (_areas(self.lines[key]) for key in keys)
        columns = [torch.stack([a, b], 1) for a, b in zip(_less(own, vanilla), _less(never, vanilla), strict=True)]
        found = ratio_interval(columns[0], columns[1])
        return Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.level, found.count)

    def differences(self, one: str, other: str) -> dict[str, dict[int, Pair]]:
        """By concept and training, the first method's fraction of each picture less the second's."""
        found: dict[str, dict[int, Pair]] = {}
        for concept in self.concepts:
            for t in self.trainings(concept):
                if self.erasures(concept, t, one) and self.erasures(concept, t, other):
                    pair = _less(self._mean(concept, t, one), self._mean(concept, t, other))
                    found.setdefault(concept, {})[t] = pair
        return found

    def agreement(self, one: str, other: str) -> tuple[int, int]:
        """In how many pairs of concept and training the first method lies below the second, and of how many."""
        signs = [
            float(e.mean() - r.mean()) < 0 for rows in self.differences(one, other).values() for e, r in rows.values()
        ]
        return sum(signs), len(signs)

    def _mean(self, concept: str, training: int, method: str) -> Pair:
        e, r = self.fractions(concept, training, method)
        return e.mean(0), r.mean(0)

    def _fraction(self, concept: str, training: int, line: Line) -> Pair:
        vanilla, never = (_sides(self.lines[concept, training, end, 0]) for end in ("vanilla", "never-knew"))
        return in_units(_less(_sides(line), vanilla), _less(never, vanilla))


def in_units(own: Pair, control: Pair) -> Pair:
    r"""Cases whose difference of means is a ratio of differences of means, and whose scatter is that of the ratio.

    With :math:`f = (\bar e - \bar r) / (\bar e_0 - \bar r_0)` of a model's shifts and the control's, cases are
    :math:`(e_i - f e_{0,i}) / (\bar e_0 - \bar r_0) + f`, and of the reference the same without :math:`f`: the delta
    method's, which to first order have the ratio's variance.

    Args:
        own: shifts of the concept's pictures (n,) and of others (m,).
        control: the same of the model that never knew.
    """
    unit = float(control[0].mean() - control[1].mean())
    f = float(own[0].mean() - own[1].mean()) / unit
    return (own[0] - f * control[0]) / unit + f, (own[1] - f * control[1]) / unit


def over_concepts(tables: Mapping[str, Mapping[int, Pair]]) -> Crossed | None:
    """A mean over concepts, with its scatter over the trainings that all of them have, and over pictures.

    Concepts are no sample of concepts: what they differ by is taken out of the pictures' scatter.

    Args:
        tables: by concept and training, numbers of the concept's pictures and of others.

    Returns:
        None if no training has all.
    """
    shared = sorted(set.intersection(*(set(rows) for rows in tables.values()))) if tables else []
    if not shared:
        return None
    sides = []
    for side in (0, 1):
        parts = [torch.stack([rows[t][side] for t in shared]) for rows in tables.values()]
        level = sum(float(part.mean()) for part in parts) / len(parts)
        sides.append(torch.cat([part - part.mean() + level for part in parts], 1))
    return crossed(*sides)


def power(parts: Sequence[Parts], count: int, pictures: float = 1.0) -> float:
    """The least difference that two methods must have to be told apart, by so many trainings with an erasure each.

    Args:
        parts: of the methods; the median of their variances counts, as single ones have wrecked their model.
        count: of trainings, each method's own.
        pictures: how many times as many pictures.
    """
    squares = [
        sum(x**2 for x in (one.trainings, one.erasures) if not math.isnan(x)) + one.pictures**2 / pictures
        for one in parts
    ]
    return least_difference(math.sqrt(statistics.median(squares)), count)


def stacked(pairs: Sequence[Pair]) -> Pair:
    """Pairs as tables, a row each."""
    return torch.stack([e for e, _ in pairs]), torch.stack([r for _, r in pairs])


def _sides(line: Mapping[str, Any]) -> Pair:
    e, r = (torch.tensor(line["numbers"][side][PATH], dtype=torch.float64) for side in SIDES)
    return e, r


def _areas(line: Mapping[str, Any]) -> Pair:
    """Mean surprise of each picture over the looks of the lesson."""
    curves = (torch.tensor(line["relearning"][side]["relearning.curve"], dtype=torch.float64) for side in SIDES)
    e, r = (curve.mean(1) for curve in curves)
    return e, r


def _less(one: Pair, other: Pair) -> Pair:
    return one[0] - other[0], one[1] - other[1]


def _of_pictures(e: Tensor, r: Tensor) -> float:
    """Variance of a mean that comes from the pictures."""
    return sum(float(table.var(1).mean()) / table.shape[1] for table in (e, r))
