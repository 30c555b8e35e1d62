"""The finding in one figure: how much of a memory each way to ask says is gone, on one axis, from committed results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_memories.report.figures import blank, png, style

RESULTS = Path(__file__).parent / "results"
Interval = tuple[float, float, float]
"""A number, and the ends of its 95 % interval."""
DOORS = {
    "prompt": ("by its prompt, as usually reported", "#999999", "s"),
    "fraction": ("by surprise at pictures of it", "#d55e00", "o"),
    "fraction_empty": ("by surprise, without the prompt", "#e69f00", "D"),
    "fraction_seeds": ("by the seeds of pictures", "#0072b2", "^"),
    "relearning": ("by how fast it is learnt again", "#009e73", "v"),
}
"""Ways to ask: what they are called, and how they look."""
END = 1.4
"""What lies beyond is drawn there, with its number."""


def places(concept: str = "umbrella") -> dict[str, dict[str, Interval]]:
    """How much is gone by each way to ask, 0 as in vanilla and 1 as in the model that never knew, by method.

    Methods that damaged the model are left out: where everything surprises, nothing is said. So is a way that was not
    tried on a method.

    Args:
        concept: of the results.
    """
    rows = {row["model"]: row for row in _read("erasure.json") if row["concept"] == concept}
    lessons = {
        row["model"]: row["area"]
        for row in _read("relearning.json")
        if row["concept"] == concept and row["form"] == "all weights"
    }
    found: dict[str, dict[str, Interval]] = {}
    for model, row in rows.items():
        if row["role"] != "erased" or row["verdict"] == "damaged":
            continue
        found[model] = {
            "prompt": _refused(row["prompted"], rows["vanilla"]["prompted"], rows["never-knew"]["prompted"])
        }
        found[model] |= {door: _interval(row[door]) for door in DOORS if door in row}
        if model in lessons:
            value, low, high = lessons[model]
            found[model]["relearning"] = value, low, high
    return dict(sorted(found.items(), key=lambda entry: entry[1]["fraction"]))


def figure(concept: str = "umbrella") -> bytes:
    """All methods, a line each, and a mark for each way to ask, as a PNG file.

    Args:
        concept: of the results.
    """
    found = places(concept)
    with style():
        sheet = blank(9.0, 1.5 + 0.32 * len(found))
        axes = sheet.subplots()
        axes.axvspan(0, 1, color="#f4f4f4", zorder=0)
        for place, said in ((0, "0 as before"), (1, f"1 as if it had never seen one {concept}")):
            axes.axvline(place, color="#4a4a4a", linestyle="--", linewidth=1.2)
            axes.text(place, 1.01, said, ha="center", fontsize=8, transform=axes.get_xaxis_transform())
        for row, doors in enumerate(found.values()):
            for door, (value, low, high) in doors.items():
                _mark(axes, row, door, value, low, high)
        axes.set(
            yticks=range(len(found)), yticklabels=list(found), xlim=(-0.06, END + 0.1), ylim=(len(found) - 0.4, -0.7)
        )
        axes.set_xlabel(f"how much of the memory of “{concept}” is gone (95 % intervals)")
        axes.tick_params(axis="y", length=0)
        marks = [axes.plot([], [], mark, color=colour, label=label)[0] for label, colour, mark in DOORS.values()]
        sheet.legend(handles=marks, loc="outside lower center", ncols=3)
        return png(sheet)


def _mark(axes: Any, row: int, door: str, value: float, low: float, high: float) -> None:
    _, colour, mark = DOORS[door]
    y = row + 0.13 * (list(DOORS).index(door) - 2)
    if value > END:
        axes.plot(END, y, ">", color=colour, markersize=5)
        axes.text(END + 0.02, y, f"{value:.2f}", va="center", fontsize=6.5, color=colour)
        return
    axes.plot([low, min(high, END)], [y, y], color=colour, linewidth=2, alpha=0.45, solid_capstyle="round")
    axes.plot(value, y, mark, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.6)


def _refused(rate: Mapping[str, float], vanilla: Mapping[str, float], control: Mapping[str, float]) -> Interval:
    """What of vanilla's rate beyond the control's is gone; the ends are those of the rate alone."""
    whole = vanilla["value"] - control["value"]
    gone = {end: (vanilla["value"] - rate[end]) / whole for end in ("value", "low", "high")}
    return gone["value"], gone["high"], gone["low"]


def _interval(estimate: Mapping[str, float]) -> Interval:
    return estimate["value"], estimate["low"], estimate["high"]


def _read(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / name).read_text())
    return rows
