"""From the models of benchmarks/worlds.py to a scale: what each number reads after so many pictures, and back.

Writes docs/results/worlds.md, docs/figures/worlds.png and lit_memories/statistics/scales/pictograms.json.

    python benchmarks/worlds_scale.py

Which number reads best is decided by hold-out, on the four concepts that choices may be made on: curves are made of all
training seeds but one, and say of that one's models how many pictures they saw.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from worlds_between import section
from worlds_lines import ladders, values
from worlds_models import CONCEPTS, HELD_BACK
from worlds_page import draw, page

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.dose import Curve, dose_response, equivalent
from lit_memories.metrics.intervals import ratio_interval
from lit_memories.report.exposure import HOW
from lit_memories.statistics.exposure import ANY, SHIPPED

NUMBERS = {
    "denoising.surprise": 18,
    "denoising.surprise_empty": 18,
    "seed.nll": 60,
    "samples.shows_concept": 40,
}
"""What stands on the scale, and how many evaluations of the network an image of it takes."""
OBJECTS = tuple(name for name, factors in CONCEPTS.items() if "object" in factors)
Readings = dict[tuple[str, str, int], dict[int, Estimate]]
"""By number, concept and training seed: by dose, what a model reads, with its interval over pictures."""


@dataclass(frozen=True)
class Guess:
    """How many pictures a model was shown, by a curve that never saw its training.

    Args:
        path: of the number.
        concept: of the pictures.
        seed: of the training.
        dose: true number of pictures.
        found: by the number.
        own: whether the curve is the concept's own, or that of other objects.
        most: pictures at the curve's end.
    """

    path: str
    concept: str
    seed: int
    dose: int
    found: Estimate
    own: bool
    most: float

    @property
    def doublings(self) -> float:
        """How far off, in factors of 2 of one more than the number of pictures."""
        return math.log2((1 + self.found.value) / (1 + self.dose))

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.found.low <= self.dose <= self.found.high

    @property
    def score(self) -> float:
        """The interval score (Gneiting and Raftery 2007, eq. 43), in doublings: its width, and what it misses by.

        It is least for the narrowest interval that holds the truth as often as it says, so that neither a good guess
        with an interval that is too narrow nor an interval that says nothing can win.
        """
        low, high, true = (math.log2(1 + min(x, self.most)) for x in (self.found.low, self.found.high, self.dose))
        return high - low + 2 / 0.05 * (max(0.0, low - true) + max(0.0, true - high))


def main(
    lines: Path = Path("docs/results/worlds.jsonl"),
    out: Path = Path("docs/results/worlds.md"),
    figure: Path = Path("docs/figures/worlds.png"),
    scale: Path = SHIPPED,
) -> None:
    """Read the models' lines, write page, figure and scale.

    Args:
        lines: what benchmarks/worlds.py left; seeds whose ladder is not whole are left out.
        out: the page.
        figure: the figure.
        scale: the scale's file.
    """
    models = whole([json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()])
    readings = readings_of(models)
    seeds = sorted({model["seed"] for model in models})
    guesses = _hold_out(readings, seeds)
    best = _best(guesses)
    named = (*CONCEPTS, ANY) if len(seeds) > 1 else (ANY,)
    curves = {path: {name: _curve(readings, path, name, seeds) for name in named} for path in NUMBERS}
    scale.parent.mkdir(parents=True, exist_ok=True)
    scale.write_text(_scale(curves, best, models) + "\n", encoding="utf-8")
    draw(readings, curves, figure)
    more = section(models, list(CONCEPTS), HELD_BACK, HOW) if len(seeds) > 1 else ""
    out.write_text(page(models, readings, curves, guesses, best) + more, encoding="utf-8")


def whole(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Models of the seeds that have all seven."""
    count = {seed: sum(model["seed"] == seed for model in models) for seed in {model["seed"] for model in models}}
    if not (whole := {seed for seed, found in count.items() if found == 7}):
        raise ValueError("no training seed has all its models yet: python benchmarks/worlds.py goes on")
    return [model for model in models if model["seed"] in whole]


def readings_of(models: Sequence[dict[str, Any]]) -> Readings:
    """What every model reads, in units of its own ladder's ends."""
    found: Readings = {}
    for concept in CONCEPTS:
        for seed, ladder in ladders(models, concept).items():
            for path in NUMBERS:
                found[path, concept, seed] = {m["shown"][concept]: _reading(m, ladder, concept, path) for m in ladder}
    return found


def _reading(model: dict[str, Any], ladder: Sequence[dict[str, Any]], concept: str, path: str) -> Estimate:
    """0 as the model that saw all, 1 as the one that saw none; of rates the share of samples without the concept."""
    if path.startswith("samples"):
        lacking = values(model, concept, "prompted", path) <= 0.5
        return wilson_interval(int(lacking.sum()), len(lacking))
    vanilla, control = ladder[-1], ladder[0]
    tables = []
    for side in ("concept", "reference"):
        own, base, most = (values(one, concept, side, path) for one in (model, vanilla, control))
        tables.append(torch.stack([own - base, most - base], 1))
    return ratio_interval(*tables)


def _curve(readings: Readings, path: str, concept: str, seeds: Iterable[int], without: str = "") -> Curve:
    """The curve of a concept, or of any object, from some training seeds.

    Scatter is that between trainings at the same dose, taken from all concepts together for a concept of its own, and
    over concepts too for the curve of any. Neither end of a ladder scatters, as readings are in its units: there it is
    that of the next rung.
    """
    seeds = list(seeds)
    names = [concept] if concept != ANY else [name for name in OBJECTS if name != without]
    tables = {name: [list(readings[path, name, seed].items()) for seed in seeds] for name in CONCEPTS}
    doses = [statistics.fmean(rung[0] for name in names for rung in at) for at in _rungs(tables, names)]
    means = [statistics.fmean(rung[1].value for name in names for rung in at) for at in _rungs(tables, names)]
    pooled = names if concept == ANY else list(CONCEPTS)
    spread, freedom = [], 0
    for number in range(len(doses)):
        groups = [[table[number][1].value for table in tables[name]] for name in pooled]
        groups = [[value for group in groups for value in group]] if concept == ANY else groups
        degrees = sum(len(group) - 1 for group in groups)
        total = sum(statistics.variance(group) * (len(group) - 1) for group in groups if len(group) > 1)
        spread.append(math.sqrt(total / max(1, degrees) * (1 + 1 / (len(seeds) * len(names)))))
        freedom = degrees
    spread[0], spread[-1] = spread[1], spread[-2]
    return dose_response(doses, means, spread, float(freedom))


def _rungs(tables: dict[str, list[list[tuple[int, Estimate]]]], names: Sequence[str]) -> list[Any]:
    """By rung, the doses and readings of all trainings of some concepts."""
    every = [table for name in names for table in tables[name]]
    return [[table[number] for table in every] for number in range(len(every[0]))]


def _hold_out(readings: Readings, seeds: Sequence[int]) -> list[Guess]:
    """What curves that saw neither a model's training nor, if they are not the concept's own, its concept say of it.

    With one training seed the curve of other objects is of that seed's other models.
    """
    found = []
    for path, concept, seed in readings:
        rest = [other for other in seeds if other != seed]
        curves = {True: _curve(readings, path, concept, rest)} if len(rest) > 1 else {}
        if concept in OBJECTS:
            curves[False] = _curve(readings, path, ANY, rest or seeds, without=concept)
        rungs = list(readings[path, concept, seed].items())
        for dose, read in rungs[1:-1]:
            error = (read.high - read.low) / 2 / 1.96
            for own, curve in curves.items():
                dosed = equivalent(curve, read.value, error)
                found.append(Guess(path, concept, seed, dose, dosed, own, float(curve.doses[-1])))
    return found


def _best(guesses: Sequence[Guess]) -> str:
    """The number with the least mean interval score on the concepts that choices may be made on."""
    scores = {path: [g.score for g in guesses if g.path == path and g.concept not in HELD_BACK] for path in NUMBERS}
    return min(NUMBERS, key=lambda path: statistics.fmean(scores[path]))


def _scale(curves: dict[str, dict[str, Curve]], best: str, models: Sequence[dict[str, Any]]) -> str:
    seeds = sorted({model["seed"] for model in models})
    found = {
        "name": f"the pictogram world ({len(seeds)} training{'s' * (len(seeds) > 1)})",
        "made_by": "python benchmarks/worlds.py; python benchmarks/worlds_scale.py",
        "world": models[0]["world"],
        "marks": {name: models[0]["marks"][name] for name in ("denoising", "samples", "seed")},
        "best": best,
        "curves": {path: {name: _points(curve) for name, curve in found.items()} for path, found in curves.items()},
    }
    return json.dumps(found, indent=1)


def _points(curve: Curve) -> dict[str, list[float]]:
    columns = {"doses": curve.doses, "readings": curve.raw, "scatter": curve.scatter}
    return {name: [round(x, 4) for x in column.tolist()] for name, column in columns.items()} | {
        "freedom": [curve.freedom]
    }


if __name__ == "__main__":
    auto_cli(main)
