"""The figures of a report, drawn without a display; colours are Okabe and Ito's, safe for colour-blind readers."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.intervals import mean_interval
from lit_memories.metrics.null import Null
from lit_memories.records import SetName
from lit_memories.report.formats import decimal
from lit_memories.statistics.criteria import scale
from lit_memories.statistics.pairing import Comparison
from lit_memories.statistics.quantities import RunStatistics, Summary, beyond
from lit_memories.statistics.shifts import shifts
from lit_memories.terminal import printable

CONCEPT, REFERENCE, NULL, FAINT = "#d55e00", "#0072b2", "#4a4a4a", "#d9d9d9"
ROLE_COLOURS = {"vanilla": "#4a4a4a", "erased": "#d55e00", "control": "#009e73", "random": "#999999"}
MARKERS = "osD^vP*X"
WIDTH = 9.0
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#8a8a8a", "axes.linewidth": 0.8, "axes.titlesize": 9.5,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelcolor": "#333333", "text.color": "#222222",
    "xtick.color": "#555555", "ytick.color": "#555555", "xtick.labelsize": 8, "ytick.labelsize": 9,
    "legend.frameon": False, "legend.fontsize": 8.5, "figure.dpi": 100, "savefig.dpi": 180, "axes.axisbelow": True,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib in the report's dress, silent about characters the font lacks (names and prompts are anyone's)."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure that belongs to no window system."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def shorten(text: str, length: int = 26) -> str:
    """Text on one line, cut to a length."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def forgetting_figure(summary: Summary) -> bytes:
    """Forgetting with intervals, between vanilla's 0 and the control's; beside it the prompted concept rate."""
    with style():
        runs = summary.runs
        figure = blank(WIDTH, 1.25 + 0.42 * len(runs))
        left, right = figure.subplots(1, 2, width_ratios=(2.2, 1), sharey=True)
        for row, run in enumerate(runs):
            _point(left, row, run.forgetting, run)
            if beyond(run.damage, scale(summary)):
                left.text(run.forgetting.value, row - 0.28, "damaged: says nothing", ha="center", fontsize=7.5)
            if run.prompted is not None:
                _point(right, row, run.prompted, run, scale=100)
            else:
                right.text(2, row, "not measured", va="center", fontsize=8, color="#777777")
        _anchors(left, summary)
        _off_scale(left, summary)
        left.set_yticks(range(len(runs)), [shorten(run.name) for run in runs])
        left.set_ylim(len(runs) - 0.5, -0.5)
        left.set_title("Does the memory remain?", pad=20)
        left.set_xlabel("forgetting, nats (95 % interval)")
        right.set_title("Does the prompt still work?", pad=20)
        right.set_xlabel("samples that show the concept, %")
        right.set_xlim(-4, 104)
        for axes in (left, right):
            axes.grid(axis="x", color="#eeeeee")
            axes.tick_params(axis="y", length=0)
        return png(figure)


def _point(axes: Axes, row: int, estimate: Estimate, run: RunStatistics, scale: float = 1) -> None:
    colour = ROLE_COLOURS[run.role]
    value, low, high = (scale * bound for bound in (estimate.value, estimate.low, estimate.high))
    axes.plot([low, high], [row, row], color=colour, lw=2.4, solid_capstyle="round", alpha=0.55)
    axes.plot([value], [row], "o", color=colour, ms=7, mec="white", mew=1)


def _anchors(axes: Axes, summary: Summary) -> None:
    goal = None if summary.control_run is None else summary.control_run.forgetting.value
    axes.axvline(0, color=ROLE_COLOURS["vanilla"], lw=1, ls=(0, (4, 3)))
    if goal is None:
        return
    axes.axvline(goal, color=ROLE_COLOURS["control"], lw=1, ls=(0, (4, 3)))
    axes.axvspan(min(0, goal), max(0, goal), color="#f4f4f4", zorder=0)
    top = axes.secondary_xaxis("top")
    top.set_xticks([0, goal], ["0 remembers", "1 never knew"])
    top.tick_params(length=0, labelsize=7.5, labelcolor="#555555")
    top.spines["top"].set_visible(False)


def _off_scale(axes: Axes, summary: Summary) -> None:
    """Keep random weights, which move as far as they like, from squeezing everything else."""
    trained = [run.forgetting for run in summary.runs if run.role != "random"]
    bounds = [bound for e in trained for bound in (e.low, e.high, e.value) if math.isfinite(bound)]
    reach = 0.5 * (max(bounds) - min(bounds))
    low, high = min(bounds) - reach, max(bounds) + reach
    bounds += [run.forgetting.value for run in summary.runs if low < run.forgetting.value < high]
    margin = 0.08 * (max(bounds) - min(bounds)) or 1.0
    low, high = min(bounds) - margin, max(bounds) + margin
    axes.set_xlim(low, high)
    for row, run in enumerate(summary.runs):
        value = run.forgetting.value
        if not low < value < high:
            arrow, side = (f"◂ {decimal(value, 0)}", "left") if value <= low else (f"{decimal(value, 0)} ▸", "right")
            place = low + margin / 4 if side == "left" else high - margin / 4
            axes.text(place, row, arrow, ha=side, va="center", fontsize=8, color=ROLE_COLOURS[run.role])


def nll_figure(summary: Summary, comparison: Comparison) -> bytes:
    """NLL of the seeds of E and R in each model against the exact law under the prior (the paper's figure 2)."""
    with style():
        columns = min(3, len(summary.runs))
        rows = -(-len(summary.runs) // columns)
        figure = blank(WIDTH, 0.7 + 2.1 * rows)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        sets = [
            (_nll(comparison, "concept", row), _nll(comparison, "reference", row)) for row in range(len(summary.runs))
        ]
        common = [pair for pair, run in zip(sets, summary.runs, strict=True) if run.role != "random"]
        for axes, run, pair in zip(grid.flat, summary.runs, sets, strict=False):
            alone = run.role == "random"
            _histogram(axes, *pair, _edges(summary, [pair] if alone else common), Null(summary.dimension))
            axes.set_title(shorten(run.name) + (" (own scale)" if alone else ""))
            axes.set_xlabel("NLL of the seed, nats")
        for axes in list(grid.flat)[len(summary.runs) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("density, 1/nat")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3)
        return png(figure)


def _histogram(axes: Axes, concept: np.ndarray, reference: np.ndarray, edges: np.ndarray, null: Null) -> None:
    bins = edges.tolist()
    for values, colour, label in ((reference, REFERENCE, "reference R"), (concept, CONCEPT, "concept E")):
        axes.hist(values, bins, density=True, color=colour, alpha=0.45, label=label, histtype="stepfilled")
        axes.hist(values, bins, density=True, color=colour, lw=1.1, histtype="step")
    line = np.linspace(edges[0], edges[-1], 400)
    axes.plot(line, null.density(torch.from_numpy(line)).numpy(), color=NULL, lw=1.4, label="prior N, exact")


def _edges(summary: Summary, values: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    every = np.concatenate([part for pair in values for part in pair])
    low = min(every.min(), summary.null_mean - 3.5 * summary.null_sd)
    high = max(every.max(), summary.null_mean + 3.5 * summary.null_sd)
    bins = int(np.clip((high - low) / (summary.null_sd / 2), 20, 120))
    return np.linspace(low, high, bins + 1)


def _nll(comparison: Comparison, name: SetName, row: int) -> np.ndarray:
    used = comparison.used(row, name, "seed.nll")
    return np.array([record.number("seed.nll") for record in used], dtype=float)


def shift_figure(summary: Summary, comparison: Comparison) -> bytes:
    """Shift of every single image against vanilla, E above R, with means and intervals; random weights are left out."""
    with style():
        runs = [(row, run) for row, run in enumerate(summary.runs) if run.role in ("erased", "control")]
        figure = blank(WIDTH, 1.2 + 0.62 * max(1, len(runs)))
        axes = figure.subplots()
        for place, (row, _) in enumerate(runs):
            moved = shifts(comparison, row, summary.headline)
            if moved is None:
                continue
            for values, offset, colour, label in (
                (moved.concept, -0.17, CONCEPT, "concept E"),
                (moved.reference, 0.17, REFERENCE, "reference R"),
            ):
                mean = mean_interval(values)
                _strip(axes, place + offset, values.numpy(), mean, colour, label if place == 0 else None)
        axes.axvline(0, color=ROLE_COLOURS["vanilla"], lw=1, ls=(0, (4, 3)))
        axes.set_yticks(range(len(runs)), [shorten(run.name) for _, run in runs])
        axes.set_ylim(max(1, len(runs)) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#eeeeee")
        what = "NLL of the seed" if summary.by_seeds else "surprise"
        axes.set_xlabel(f"{what} less vanilla's on the same image, nats (diamond: mean and 95 % interval)")
        if runs:
            figure.legend(loc="outside upper right", ncols=2)
        else:
            axes.text(
                0.5, 0.5, "neither an erased model nor a control was given", transform=axes.transAxes, ha="center"
            )
        return png(figure)


def profile_figure(summary: Summary) -> bytes | None:
    """Where a memory sits: surprise by noise level less vanilla's, on concept images and on reference images.

    Returns:
        None if no run but vanilla has a profile.
    """
    found = [(run, run.profile) for run in summary.runs if run.profile is not None and run.role != "vanilla"]
    if not found:
        return None
    with style():
        figure = blank(WIDTH, 3.4)
        panels = figure.subplots(1, 2, sharey=True)
        shown = [profile for run, profile in found if run.role != "random"] or [profile for _, profile in found]
        values = [value for profile in shown for name in ("concept", "reference") for value in profile[name]]
        for axes, name, title in zip(
            panels, ("concept", "reference"), ("concept images", "reference images"), strict=True
        ):
            for number, (run, profile) in enumerate(found):
                random = run.role == "random"
                axes.plot(
                    profile["log_snr"], profile[name], ":" if random else "-", marker=MARKERS[number % len(MARKERS)],
                    ms=4, lw=1.4, color=ROLE_COLOURS[run.role], label=shorten(run.name) + (" (off the scale)" * random),
                )  # fmt: skip
            axes.axhline(0, color=ROLE_COLOURS["vanilla"], lw=1, ls=(0, (4, 3)))
            axes.set_title(title)
            axes.set_xlabel("log SNR: noise on the left, the picture on the right")
            axes.grid(color="#eeeeee")
        margin = 0.1 * (max(values) - min(values)) or 1.0
        panels[0].set_ylim(min(0, *values) - margin, max(0, *values) + margin)
        panels[0].set_ylabel("nats by unit of log SNR, less vanilla's")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=min(5, len(found)))
        return png(figure)


def _strip(axes: Axes, place: float, shift: np.ndarray, mean: Estimate, colour: str, label: str | None) -> None:
    jitter = np.random.default_rng(0).uniform(-0.09, 0.09, len(shift))
    axes.plot(shift, place + jitter, "o", color=colour, ms=3.4, alpha=0.4, mew=0, label=label)
    axes.plot([mean.low, mean.high], [place, place], color="#111111", lw=1.6)
    axes.plot([mean.value], [place], "D", color=colour, ms=6, mec="#111111", mew=0.9)
