"""The page and the figure of benchmarks/relearning.py, from records alone."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor
from validity_scores import KNOWS, NEVER, WITHHELD

from lit_memories.metrics.bootstrap import Estimate, bootstrap
from lit_memories.metrics.intervals import mean_interval, ratio_interval
from lit_memories.metrics.savings import steps_saved
from lit_memories.probes import Relearning
from lit_memories.records import SetName
from lit_memories.report.figures import MARKERS, blank, png, style
from lit_memories.runs import Run
from lit_memories.worlds.pictograms import parse_caption

FORMS: dict[str, int | None] = {"all weights": None, "factors": 4}
"""Ways to teach, and the rank of the factors."""
SIDES: tuple[SetName, SetName] = ("concept", "reference")

Runs = Mapping[str, Run]
Row = dict[str, Any]


def curves(run: Run, side: SetName, hidden: tuple[str, str] | None = None) -> Tensor:
    """Surprise of a set's pictures at each look (n, looks), less those that show a value of a factor."""
    held = run.holding(side, "relearning.curve")
    found = [held[key] for key in sorted(held)]
    if hidden is not None:
        found = [record for record in found if getattr(parse_caption(record.prompt), hidden[0]) != hidden[1]]
    return torch.tensor([record.value("relearning.curve") for record in found], dtype=torch.float64)


def looks(run: Run) -> list[int]:
    """After how many steps the model was looked at."""
    return Relearning(steps=run.info.probes["relearning"]["settings"]["steps"]).looks


def rows_of(runs: Runs) -> list[Row]:
    """What each model's courses say, beside vanilla's and those of the one that never knew.

    Pictures that show what the other control never saw are left out of its row.
    """
    concept = runs["vanilla"].info.concept
    (other,) = (factor for name, factor in WITHHELD.items() if name != concept)
    sides = {name: {side: curves(run, side) for side in SIDES} for name, run in runs.items()}
    few = {name: {side: curves(run, side, other) for side in SIDES} for name, run in runs.items()}
    at = looks(runs["vanilla"])
    batch = int(runs["vanilla"].info.probes["relearning"]["settings"]["batch_size"])
    return [_row(name, runs[name], few if name == KNOWS else sides, at, batch) for name in runs]


def _row(name: str, run: Run, sides: Mapping[str, Mapping[str, Tensor]], at: Sequence[int], batch: int) -> Row:
    own, vanilla, never = sides[name], sides["vanilla"], sides[NEVER]

    def fraction(part: Any) -> Estimate:
        """Of what the model that never knew reads, concept less placebo, each less vanilla's."""
        columns = [
            torch.stack([part(own[side]) - part(vanilla[side]), part(never[side]) - part(vanilla[side])], 1)
            for side in SIDES
        ]
        return ratio_interval(*columns)

    found: Row = {"model": name}
    for label, part in (("before", _first), ("area", _area), ("after", _last)):
        found[label] = _ends(fraction(part))
    saved = 1 - found["area"][0], 1 - found["area"][2], 1 - found["area"][1]
    found["savings"] = list(saved)
    found["pictures_saved"] = _ends(_saved(own, never, vanilla, at, batch))
    found["placebo"] = _ends(mean_interval(_area(own["reference"]) - _area(vanilla["reference"])))
    found["curve"] = [round(x, 1) for x in own["concept"].mean(0).tolist()]
    found["curve_placebo"] = [round(x, 1) for x in own["reference"].mean(0).tolist()]
    shown = [record.value("relearning.shows") for record in run.holding("concept", "relearning.shows").values()]
    found["shows"] = [round(statistics.fmean(column), 2) for column in zip(*shown, strict=True)] if shown else None
    return found


def _first(table: Tensor) -> Tensor:
    return table[..., 0]


def _area(table: Tensor) -> Tensor:
    return table.mean(-1)


def _last(table: Tensor) -> Tensor:
    return table[..., -1]


def _ends(estimate: Estimate) -> list[float]:
    return [round(x, 4) for x in (estimate.value, estimate.low, estimate.high)]


def _saved(
    own: Mapping[str, Tensor], never: Mapping[str, Tensor], vanilla: Mapping[str, Tensor], at: Sequence[int], batch: int
) -> Estimate:
    """Pictures of the lesson that a model is ahead of the one that never knew when that has had them all.

    Of both, the course is that of the concept's pictures less what the placebo's moved from vanilla's: a model that is
    worse at everything is not said to have forgotten. A model that does not come there has saved none.
    """

    def ahead(concept: Tensor, reference: Tensor) -> Tensor:
        """Of resampled pictures (draws, n, 3 * looks): own, never knew's and vanilla's."""
        means = [table.mean(-2).unflatten(-1, (3, len(at))) for table in (concept, reference)]
        shift = means[1] - means[1][..., 2:, :]
        courses = means[0] - shift
        return steps_saved(courses[..., 0, :], courses[..., 1, :], at).clamp_min(0) * batch

    tables = [torch.cat([one[side] for one in (own, never, vanilla)], 1) for side in SIDES]
    return bootstrap(ahead, tables, draws=2000, method="percentile")


HEAD = """# How soon is it back?

`python benchmarks/relearning.py`, seed 0: every model is taught 8 pictures of the concept again, 64 steps of 8, and
looked at on {rest} others by its surprise after 0, 1, 2, 4, … 64 steps; and in the same way 8 pictures of castles,
which no model forgot, as a placebo. *All weights* by Adam at {full:g}, *factors* of rank 4 beside the attention's
weights (LoRA) at {factors:g}. Rows, noise and timesteps of a lesson are the same for every model, and so is the noise
of a look.

- *Before*, *after*: surprise before the lesson and at its end, concept less castles, each less vanilla's, in units of
  what the model that never knew reads: 0 is vanilla, 1 that model, at the same look.
- **Savings**: 1 less the same fraction of the mean over all looks. 1 is learnt again as vanilla learns on, 0 as if
  never known. Fieller's 95 % intervals over pictures.
- *Pictures saved*: how many of the lesson's 512 pictures earlier a model comes to where never-knew comes by all of them
  (courses less what castles moved; percentile bootstrap over pictures). 512 stands for: it is there before the lesson.
- *knows* is the control that never saw the other concept; pictures that show that are left out of its row.
- *Castles*: how far the course of castles stands above vanilla's, nats: damage, before the lesson and during it.
- *Shown*: share of samples under the prompts of the held-out pictures in which the classifier sees the concept, at the
  looks 0, 16 and 64.

![courses](../figures/{figure})
"""


def page(tables: Mapping[tuple[str, str], Sequence[Row]], images: int, figure: Path) -> str:
    """The page as Markdown."""
    from lit_memories.probes.relearning import RATES

    parts = [HEAD.format(rest=images - 8, full=RATES[True], factors=RATES[False], figure=figure.name)]
    for (concept, form), rows in tables.items():
        parts.append(f"## {concept}, {form}\n")
        parts.append("| model | before | savings | after | pictures saved | castles, nats | shown at 0, 16, 64, % |")
        parts.append("| --- | --- | --- | --- | --- | --- | --- |")
        for row in rows:
            cells = [_interval(row[key], 2) for key in ("before", "savings", "after")]
            cells += [_interval(row["pictures_saved"], 0), _interval(row["placebo"], 1), _shown(row["shows"])]
            parts.append(f"| {row['model']} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _interval(ends: Sequence[float], digits: int) -> str:
    if any(math.isnan(x) for x in ends):
        return "–"
    value, low, high = (f"{x:.{digits}f}" for x in ends)
    return value if value == low == high else f"{value} [{low}, {high}]"


def _shown(shows: Sequence[float] | None) -> str:
    return "–" if shows is None else ", ".join(f"{100 * shows[look]:.0f}" for look in (0, -3, -1))


def draw(found: Mapping[tuple[str, str], Runs], file: Path) -> None:
    """Courses by step, a panel a concept and form."""
    panels = {key: runs for key, runs in found.items() if runs}
    with style():
        figure = blank(9.0, 3.4 * math.ceil(len(panels) / 2))
        axes: Sequence[Axes] = list(figure.subplots(math.ceil(len(panels) / 2), 2, squeeze=False).flat)
        for place, ((concept, form), runs) in zip(axes, panels.items(), strict=False):
            for number, (name, run) in enumerate(runs.items()):
                known = name in ("vanilla", KNOWS, NEVER)
                at = [math.log2(1 + step) for step in looks(run)]
                place.plot(
                    at, curves(run, "concept").mean(0), "-" if known else "--", marker=MARKERS[number % len(MARKERS)],
                    ms=4, lw=2.0 if known else 1.0, color=f"C{number % 10}", label=name,
                )  # fmt: skip
            place.set_title(f"{concept}, {form}")
            place.set_xticks([math.log2(1 + step) for step in (0, 1, 4, 16, 64)], ["0", "1", "4", "16", "64"])
            place.set_xlabel("steps of the lesson")
            place.set_ylabel("surprise, nats")
            place.grid(color="#eeeeee")
        for place in axes[len(panels) :]:
            place.set_axis_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(figure))
