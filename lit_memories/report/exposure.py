"""How many pictures has a model seen that remembers as much? The sentence, the table and the axis."""

import math
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.report.figures import MARKERS, ROLE_COLOURS, WIDTH, blank, png, shorten, style
from lit_memories.report.formats import Column
from lit_memories.statistics.quantities import RunStatistics, Summary

HOW = {
    "denoising.surprise": "by surprise",
    "denoising.surprise_empty": "by surprise without the prompt",
    "seed.nll": "by the NLL of seeds",
    "samples.shows_concept": "by prompting",
}
"""How a number asks, by its path."""


def pictures(estimate: Estimate) -> str:
    """A number of pictures with its interval in words, for a sentence that goes on with "pictures".

    Example:
        >>> pictures(Estimate(100.0, 40.0, 200.0)), pictures(Estimate(0.4, 0.0, 3.2))
        ('about 100 [40, 200]', 'fewer than 4')
    """
    if estimate.low == 0:
        return "any number of" if math.isinf(estimate.high) else f"fewer than {max(1, math.ceil(estimate.high))}"
    if math.isinf(estimate.high):
        return f"more than {math.floor(estimate.low)}"
    return f"about {estimate.value:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"


def exposure_sentences(summary: Summary, run: RunStatistics) -> list[str]:
    """As much as a model remembers that saw so many pictures, by the best number and by prompting."""
    if not run.exposures:
        return []
    path, best = next(iter(run.exposures.items()))
    text = f"{_way(path).capitalize()} it remembers “{summary.concept_name}” like a model that saw {_seen(best)} of it"
    prompted = run.exposures.get("samples.shows_concept")
    if prompted is not None and path != "samples.shows_concept":
        text += f"; by prompting, like one that saw {_seen(prompted)}"
    return [f"{text} (scale of {summary.scale})."]


def _seen(estimate: Estimate) -> str:
    return f"{pictures(estimate)} picture{'s' * (pictures(estimate) != 'fewer than 1')}"


def _way(path: str) -> str:
    return HOW.get(path, f"by {path}")


def exposure_columns(summary: Summary) -> list[Column]:
    """A column a number that stands on the scale."""
    paths = list(dict.fromkeys(path for run in summary.runs for path in run.exposures))
    return [
        Column(f"exposure_{path}", _way(path), partial(_exposure, path=path), digits=0, words=pictures)
        for path in paths
    ]


def _exposure(run: RunStatistics, path: str) -> Estimate | None:
    return run.exposures.get(path)


def exposure_figure(summary: Summary) -> bytes | None:
    """Every model on one line from "never saw it" to "saw them all", a marker a number.

    Returns:
        None if no scale holds.
    """
    runs = [run for run in summary.runs if run.exposures]
    if not runs:
        return None
    paths = list(dict.fromkeys(path for run in runs for path in run.exposures))
    ticks = summary.doses
    with style():
        figure = blank(WIDTH, 1.3 + 0.5 * len(runs))
        axes = figure.subplots()
        for row, run in enumerate(runs):
            for number, path in enumerate(paths):
                if (found := run.exposures.get(path)) is not None:
                    place = row + 0.5 * (number - (len(paths) - 1) / 2) / max(1, len(paths))
                    _mark(axes, place, found, ticks[-1], MARKERS[number], ROLE_COLOURS[run.role])
        for number, path in enumerate(paths):
            axes.plot([], [], MARKERS[number], color="#555555", ms=6, label=_way(path))
        axes.set_xticks([math.log1p(dose) for dose in ticks], _labels(ticks))
        axes.set_xlim(-0.15, math.log1p(ticks[-1]) + 0.15)
        axes.set_yticks(range(len(runs)), [shorten(run.name) for run in runs])
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_xlabel("pictures of the concept that a model has seen which reads the same (95 % interval)")
        figure.legend(loc="outside upper right", ncols=len(paths))
        return png(figure)


def _mark(axes: Axes, row: float, found: Estimate, most: float, marker: str, colour: str) -> None:
    low, high = math.log1p(found.low), math.log1p(min(found.high, most))
    axes.plot([low, high], [row, row], color=colour, lw=2, alpha=0.45, solid_capstyle="round")
    axes.plot([math.log1p(found.value)], [row], marker, color=colour, ms=6.5, mec="white", mew=0.8)


def _labels(ticks: Sequence[float]) -> list[str]:
    return ["never saw it", *(f"{dose:.0f}" for dose in ticks[1:-1]), f"all\n({ticks[-1]:.0f})"]
