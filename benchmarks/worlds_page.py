"""The page and the figure of benchmarks/worlds_scale.py."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from worlds_lines import ladders
from worlds_models import CONCEPTS, HELD_BACK

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.dose import Curve
from lit_memories.report.exposure import HOW
from lit_memories.report.figures import MARKERS, blank, png, style
from lit_memories.statistics.exposure import ANY

HEAD = """# Models that saw exactly so many pictures

`make benchmark-worlds`: {count} models, training seeds {seeds}, {rows} pictures each after a trunk that saw none of the
six concepts; which models, and why a Latin square: `benchmarks/worlds.py`. Every reading is on {images} + {images}
images (the NLL of seeds on {inverted} + {inverted}), and is 0 for the model of its seed that saw all pictures and 1 for
the one that saw none; by prompting it is the share of {prompted} samples without the concept. {held} were held back:
nothing was chosen by them.

![dose and response](../figures/{figure})
"""


def page(
    models: Sequence[dict[str, Any]],
    readings: dict[tuple[str, str, int], dict[int, Estimate]],
    curves: dict[str, dict[str, Curve]],
    guesses: Sequence[Any],
    best: str,
) -> str:
    """The page as Markdown."""
    seeds = sorted({model["seed"] for model in models})
    one = models[0]["concepts"]["umbrella"]
    parts = [
        HEAD.format(
            count=len(models), seeds=", ".join(map(str, seeds)), rows=6144, figure="worlds.png",
            images=len(one["concept"]["denoising.surprise"]), inverted=len(one["concept"]["seed.nll"]),
            prompted=len(one["prompted"]["samples.shows_concept"]), held=" and ".join(HELD_BACK),
        ),
        "## Truth\n\nWhat the models are known to know, asked without a probe: the training loss on 512 held-out"
        " pictures of the concept, in thousandths, and the share of prompted samples in which the classifier sees it,"
        " with the probability it gives it; means over training seeds.\n",
        _truths(models),
        "## What each number reads\n\nMeans over training seeds, and by how much one training's reading scatters about"
        " them (standard\ndeviation, over all concepts; of a single seed over the objects).\n",
        *(_table(readings, curves, path, seeds) for path in curves),
        *_rises(curves),
        _hold_out(guesses, best),
    ]  # fmt: skip
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def grid_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)]) + "\n"


def _rungs(models: Sequence[dict[str, Any]], concept: str) -> list[list[dict[str, Any]]]:
    """Models by the concept's rung, those of all seeds together."""
    return [list(rung) for rung in zip(*ladders(models, concept).values(), strict=True)]


def _truths(models: Sequence[dict[str, Any]]) -> str:
    rows = []
    for concept in CONCEPTS:
        cells = [concept]
        for rung in _rungs(models, concept):
            found = [model["concepts"][concept] for model in rung]
            loss = statistics.fmean(1000 * one["denoising_error"] for one in found)
            rate, sure = (
                statistics.fmean(statistics.fmean(one["prompted"][f"samples.{name}"]) for one in found)
                for name in ("shows_concept", "probability")
            )
            cells.append(f"{loss:.1f} · {100 * rate:.0f} % · {sure:.2f}")
        rows.append(cells)
    return grid_of(["concept", "0", "1", "4", "16", "64", "256", "all"], rows)


def _table(
    readings: dict[tuple[str, str, int], dict[int, Estimate]],
    curves: dict[str, dict[str, Curve]],
    path: str,
    seeds: Sequence[int],
) -> str:
    rows = []
    for concept in CONCEPTS:
        ladders = [list(readings[path, concept, seed].values()) for seed in seeds]
        means = [statistics.fmean(one.value for one in rung) for rung in zip(*ladders, strict=True)]
        most = statistics.fmean(max(readings[path, concept, seed]) for seed in seeds)
        rows.append([f"{concept}, all {most:.0f}", *(f"{mean:.2f}" for mean in means)])
    scatter = next(iter(curves[path].values())).scatter.tolist()
    rows.append(["scatter", *(f"{x:.2f}" for x in scatter)])
    return f"### {HOW[path]}\n\n" + grid_of(["concept", "0", "1", "4", "16", "64", "256", "all"], rows)


def _rises(curves: dict[str, dict[str, Curve]]) -> list[str]:
    found = [
        f"- {HOW[path]}, {concept}: beyond scatter at {', '.join(f'{dose:.0f}' for dose in curve.rises)} pictures\n"
        for path, table in curves.items()
        for concept, curve in table.items()
        if concept != ANY and curve.rises
    ]
    return ["Curves that are none, as readings rise with the dose where they should fall:\n", *found] if found else []


def _hold_out(guesses: Sequence[Any], best: str) -> str:
    title = "## How many pictures did it see? Hold-out by training seed\n"
    if not guesses:
        return f"{title}\nNothing is held out yet."
    rows = []
    for path in HOW:
        for own, label in ((True, "the concept's own curve"), (False, "the curve of other objects")):
            for names, who in ((set(CONCEPTS) - set(HELD_BACK), "chosen by"), (set(HELD_BACK), "held back")):
                found = [g for g in guesses if g.path == path and g.own == own and g.concept in names]
                if found:
                    errors = sorted(abs(g.doublings) for g in found)
                    within = sum(error <= 1 for error in errors) / len(errors)
                    covered = sum(g.covered for g in found) / len(found)
                    most = errors[math.ceil(0.9 * len(errors)) - 1]
                    numbers = [f"{statistics.median(errors):.1f}", f"{most:.1f}", f"{100 * within:.0f}"]
                    score = f"{statistics.fmean(g.score for g in found):.1f}"
                    rows.append([HOW[path], label, who, str(len(found)), *numbers, f"{100 * covered:.0f}", score])
    by_concept = [[concept, *(_median(guesses, path, concept) for path in HOW)] for concept in CONCEPTS]
    return "\n".join(
        [
            title,
            "Curves of all training seeds but one say of that one's models with 1 to 256 pictures how many they saw;"
            " the curve of other objects has not seen the concept either (with one seed it is of that seed). Errors are"
            " in factors of 2 of one more than the pictures.\n",
            grid_of(
                ["number", "curve", "concepts", "models", "median error", "9 of 10 below", "within a factor of 2, %",
                 "95 % intervals that hold the truth, %", "interval score"], rows,
            ),
            "The interval score (Gneiting and Raftery 2007) is the width of an interval in factors of 2, and forty"
            " times what it misses the truth by. Best by it on the concepts that choices may be made on, and so what"
            f" reports name first: **{HOW[best]}**. (Until the first training seed was seen the criterion was the"
            " median error, which a flat curve can have small by chance: every dose on it is taken for its middle.)\n",
            "Median error by concept, on its own curve where there is one, else on that of other objects:\n",
            grid_of(["concept", *HOW.values()], by_concept),
        ]
    )  # fmt: skip


def _median(guesses: Sequence[Any], path: str, concept: str) -> str:
    found = [g for g in guesses if g.path == path and g.concept == concept]
    errors = [abs(g.doublings) for g in found if g.own] or [abs(g.doublings) for g in found]
    return f"{statistics.median(errors):.1f}" if errors else "–"


def draw(
    readings: dict[tuple[str, str, int], dict[int, Estimate]], curves: dict[str, dict[str, Curve]], file: Path
) -> None:
    """Readings by dose, a panel a number, a marker a concept, and the curve of any object."""
    with style():
        figure = blank(9.0, 6.4)
        panels: Sequence[Axes] = list(figure.subplots(2, 2, sharex=True).flat)
        for axes, (path, table) in zip(panels, curves.items(), strict=True):
            for number, concept in enumerate(CONCEPTS):
                found = [rungs for (p, name, _), rungs in readings.items() if p == path and name == concept]
                for rungs in found:
                    doses = [math.log1p(dose) for dose in rungs]
                    label = concept if rungs is found[0] else None
                    values = [one.value for one in rungs.values()]
                    axes.plot(doses, values, MARKERS[number], color=f"C{number}", ms=4, alpha=0.6, mew=0, label=label)
                if (curve := table.get(concept)) is not None:
                    axes.plot(curve.doses.log1p(), curve.readings, color=f"C{number}", lw=0.9, alpha=0.7)
            axes.plot(table[ANY].doses.log1p(), table[ANY].readings, color="#222222", lw=2, label="any object")
            axes.set_title(HOW[path])
            axes.axhline(0, color="#aaaaaa", lw=0.8)
            axes.axhline(1, color="#aaaaaa", lw=0.8)
            axes.set_xticks([math.log1p(dose) for dose in (0, 1, 4, 16, 64, 256)], ["0", "1", "4", "16", "64", "256"])
            axes.grid(color="#eeeeee")
        for axes in panels[2:]:
            axes.set_xlabel("pictures of the concept that the model was shown")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=7)
        file.write_bytes(png(figure))
