"""What numbers say between trainings: the models of benchmarks/worlds.py of one training seed against those of another.

An interval over pictures says what more pictures of the same two models would show. Whether a difference is the
concept's or the trainings' can only be asked of several trainings.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from worlds_lines import Model, ladders, values
from worlds_page import grid_of

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.crossed import Crossed, crossed, least_difference
from lit_memories.metrics.inference import auc
from lit_memories.metrics.intervals import mean_interval

PATHS = "denoising.surprise", "denoising.surprise_empty", "seed.nll", "seed.psnr"
RATE = "samples.shows_concept"
SIDES = "concept", "reference"
RUNGS = (0, 1, 3, 4, 5)
"""Of a ladder, where scatter is shown; at its end there is none, as readings are in its units."""
DOSES = ("0", "1", "16", "64", "256")
"""Pictures that models of these rungs saw."""


@dataclass(frozen=True)
class Told:
    """How well a number tells never-knew of one training from knows of another, by single pictures.

    Args:
        within: AUC of both ends of each ladder.
        across: of the never-knew of each training and the knows of every other.
        paired: how often the same picture reads higher in that never-knew than in that knows; empty of prompting.
    """

    within: list[float]
    across: list[float]
    paired: list[float]


def ends(models: Sequence[Model], concept: str) -> tuple[dict[int, Model], dict[int, Model]]:
    """By training seed, the model that never saw the concept and the one that saw all there is of it."""
    found = ladders(models, concept)
    return {seed: ladder[0] for seed, ladder in found.items()}, {seed: ladder[-1] for seed, ladder in found.items()}


def told(models: Sequence[Model], concepts: Sequence[str], path: str) -> Told:
    """AUC of a number, up in the model that never knew, over some concepts and all pairs of trainings."""
    within: list[float] = []
    across: list[float] = []
    paired: list[float] = []
    side = "prompted" if path == RATE else "concept"
    for concept in concepts:
        never, knows = ends(models, concept)
        for i in never:
            for j in knows:
                low, high = (values(one[seed], concept, side, path) for one, seed in ((knows, j), (never, i)))
                found = auc(high, low).value
                (within if i == j else across).append(found if path != RATE else 1 - found)
                if i != j and path != RATE:
                    paired.append(float((high > low).double().mean()))
    return Told(within, across, paired)


def alike(models: Sequence[Model], concept: str) -> Iterator[tuple[int, Model, Model]]:
    """Pairs of models of two trainings at the same rung of a concept's ladder, with the rung's number."""
    for a, b in combinations(ladders(models, concept).values(), 2):
        yield from ((rung, *pair) for rung, pair in enumerate(zip(a, b, strict=True)))


def alarms(models: Sequence[Model], concepts: Sequence[str], path: str, rungs: Sequence[int]) -> Estimate:
    """How often the interval over pictures takes two trainings of one dose for different, where 0.05 is its word."""
    found = [
        mean_interval(*(values(b, concept, side, path) - values(a, concept, side, path) for side in SIDES))
        for concept in concepts
        for rung, a, b in alike(models, concept)
        if rung in rungs
    ]
    return wilson_interval(sum(not one.low <= 0 <= one.high for one in found), len(found))


def scales(models: Sequence[Model], concept: str, path: str) -> float:
    """What 1 is on the scale: never-knew less knows of the same training, concept less reference, mean of trainings."""
    never, knows = ends(models, concept)
    sides = [
        statistics.fmean(
            float((values(never[seed], concept, side, path) - values(knows[seed], concept, side, path)).mean())
            for seed in never
        )
        for side in SIDES
    ]
    return sides[0] - sides[1]


def parts(models: Sequence[Model], concept: str, path: str, rung: int) -> Crossed:
    """A rung's reading less that of the knowing end, in units of the scale, over trainings and pictures."""
    one = scales(models, concept, path)
    tables = [
        torch.stack(
            [
                (values(ladder[rung], concept, side, path) - values(ladder[-1], concept, side, path)) / one
                for ladder in ladders(models, concept).values()
            ]
        )
        for side in SIDES
    ]
    return crossed(*tables)


TEXT = """
## Between trainings

Until here intervals are over pictures. What is left when the training changes too: {trainings} trainings of each model.

*Told apart*: the probability (AUC) that a single picture of the concept reads higher in a model that never saw it than
in one that saw all, within one ladder and between the ladders of different training seeds; mean, and the worst pair.
*Same picture*: how often one picture reads higher in the one than in the other. Of prompting, the probability that a
sample tells them so.

{told}
*False alarms*: two trainings of one dose, told to be different by a 95 % interval over their pictures (concept less
reference, paired by picture), where it should be one in twenty. Never-knew is dose 0, knows is all.

{alarms}
So **an interval over pictures is no interval over trainings**: it says what these two models would read on other
pictures, and nothing of whether another training of the same recipe would read the same. Surprise sees so sharply that
it sees the trainings.

*Where the scatter comes from*: standard deviations in units of the scale, of the reading of one model on {images} +
{images} pictures, over concepts, by rung: between trainings if there were any number of pictures, and what so few
pictures add.

{parts}
*What that asks for*: the least difference on the scale that two kinds of models must have to be told apart with power
0.8 at level 0.05 by surprise, with so many trainings of each, near the end that never knew (16 pictures) and near the
end that knows (256 pictures); scatter as above. More pictures hardly help where trainings scatter.

{power}"""


def section(models: Sequence[Model], concepts: Sequence[str], held: Sequence[str], names: dict[str, str]) -> str:
    """The section of the page, as Markdown.

    Args:
        models: lines of all.
        concepts: names of all concepts.
        held: those that no choice was made on.
        names: what tables call numbers, by path.
    """
    seeds, chosen = sorted({model["seed"] for model in models}), [c for c in concepts if c not in held]
    rows = []
    for path in (*PATHS, RATE):
        for label, some in (("chosen by", chosen), ("held back", held)):
            found = told(models, some, path)
            columns = (found.within, found.across, found.paired)
            cells = [f"{statistics.fmean(x):.2f}, {min(x):.2f}" if x else "–" for x in columns]
            rows.append([names.get(path, path), label, *cells])
    table = [
        [
            "number",
            "concepts",
            "one training: mean, worst",
            "other trainings: mean, worst",
            "same picture: mean, worst",
        ],
        *rows,
    ]
    rung = {"never knew": [0], "4 to 64": [2, 3, 4], "256": [5], "knows": [6], "all rungs": list(range(7))}
    alarm = [["number", *(f"{name}, %" for name in rung)]]
    for path in PATHS:
        counts = [alarms(models, concepts, path, which) for which in rung.values()]
        alarm.append([names.get(path, path), *(f"{100 * e.value:.0f} of {e.count}" for e in counts)])
    scatter = [["number", "part", *DOSES]]
    least = [["trainings of each", "near never knew", "near knows"]]
    for path in PATHS[:3]:
        found = [[parts(models, concept, path, number) for concept in concepts] for number in RUNGS]
        between = [math.sqrt(statistics.fmean(one.trainings for one in at)) for at in found]
        pictures = [math.sqrt(statistics.fmean(one.rest + one.cases for one in at)) for at in found]
        scatter.append([names.get(path, path), "trainings", *(f"{x:.2f}" for x in between)])
        scatter.append(["", "pictures", *(f"{x:.2f}" for x in pictures)])
        if path == PATHS[0]:
            total = [math.hypot(between[k], pictures[k]) for k in (2, 4)]
            least += [[str(t), *(f"{least_difference(x, t):.2f}" for x in total)] for t in (2, 3, 5, 10)]
    images = len(models[0]["concepts"][concepts[0]]["concept"][PATHS[0]])
    told_apart, wrong, where, needed = (grid_of(rows[0], rows[1:]) for rows in (table, alarm, scatter, least))
    return TEXT.format(trainings=len(seeds), told=told_apart, alarms=wrong, images=images, parts=where, power=needed)
