"""One self-contained page: no scripts, nothing from the network, every name and prompt escaped."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from lit_memories.attacks import ASKABLE
from lit_memories.numbers import Asked
from lit_memories.report.cautions import inverted
from lit_memories.report.doors import PROVEN, missing
from lit_memories.report.formats import Table, decimal
from lit_memories.report.results import ConceptLevel
from lit_memories.report.schema import Results
from lit_memories.report.tables import memory_tables, probe_tables, tables
from lit_memories.report.utility import HOW_TO_READ
from lit_memories.report.verdict import Verdict, limits
from lit_memories.statistics.image_level import Memories
from lit_memories.statistics.quantities import RunStatistics, Summary

SCALE_LOW, SCALE_HIGH = -0.25, 1.5  # the stretch of fractions that a card's scale shows
ORDER = ("erased", "control", "random", "vanilla")
TONES = {
    "remembers": "bad", "damaged": "bad", "not shown to forget": "bad", "partly forgot": "some",
    "mostly forgot": "some", "forgot": "good",
}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """A verdict and the scale under it; places are percentages of the scale's width."""

    verdict: Verdict
    role: str
    tone: str
    value: float | None
    low: float | None
    high: float | None
    label: str


class Found(NamedTuple):
    """A probe, what its numbers tell, and the table of them."""

    asked: Asked
    says: str
    table: Table


class Picture(NamedTuple):
    """A figure inside the page, and the width at which its text has the size of the page's, in CSS pixels."""

    source: str
    width: int


def render(
    found: Results,
    level: ConceptLevel | None,
    memories: Sequence[Memories],
    figures: Mapping[str, bytes],
    captions: Mapping[str, str],
) -> str:
    """The page.

    Args:
        found: the content of ``results.json``.
        level: the concept-level runs behind it, if there are any.
        memories: the image-level runs.
        figures: PNG files by name.
        captions: what must be said about gaps in a figure, by name.
    """
    environment = Environment(
        loader=PackageLoader("lit_memories", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [*(tables(level.summary) if level else ()), *memory_tables(memories)]
    image_level = found["memories"]
    every = [*found["runs"], *(image_level["runs"] if image_level else ())]
    return environment.get_template("report.html").render(
        results=found,
        cards=_cards(level) if level else [],
        anchors=(_place(0), _place(1)),
        tables={table.name: table for table in shown},
        images={
            name: Picture("data:image/png;base64," + b64encode(png).decode(), _width(png))
            for name, png in figures.items()
        },
        captions=captions,
        limits=limits(level.summary) if level else (),
        inverted=inverted(level.summary) if level else "",
        proven=PROVEN,
        missing=missing(level.summary) if level else (),
        utility=HOW_TO_READ,
        memories=[(f"memories-{number}", found.name, found.role) for number, found in enumerate(memories, 1)],
        settings=[
            (title, flatten(settings))
            for title, settings in (
                ("Settings of the audit, the same in every run", found["settings"]),
                ("Settings of the image-level audit", image_level["settings"] if image_level else None),
            )
            if settings is not None
        ],
        provenance=[(run["name"], run["role"], flatten(run["provenance"])) for run in every],
        factors=_factors(level.summary) if level else [],
        by_seeds=level is not None and level.summary.by_seeds,
        probes=_probes(level.summary) if level else [],
    )


def flatten(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as lines of dotted name and value."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += flatten(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", _text(value)))
    return lines


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def _probes(summary: Summary) -> list[Found]:
    named = {f"probe_{name}": asked for name, asked in summary.probes.items()}
    return [
        Found(asked, ASKABLE[asked.name].says if asked.name in ASKABLE else "", table)
        for table in probe_tables(summary)
        if (asked := named[table.name])
    ]


def _cards(level: ConceptLevel) -> list[Card]:
    scaled = level.summary.calibrated
    cards = [_card(verdict, run, scaled) for verdict, run in zip(level.verdicts, level.summary.runs, strict=True)]
    return sorted(cards, key=lambda card: ORDER.index(card.role))


def _card(verdict: Verdict, run: RunStatistics, scaled: bool) -> Card:
    fraction = run.fraction if scaled and run.role != "random" and verdict.category != "damaged" else None
    values = (None, None, None) if fraction is None else (fraction.value, fraction.low, fraction.high)
    value, low, high = (None if number is None or number != number else _place(number) for number in values)
    missing = "no scale for a damaged model" if verdict.category == "damaged" else "not calibrated"
    label = missing if fraction is None else f"{decimal(fraction.value, 2)} of the control"
    return Card(verdict, run.role, TONES.get(verdict.category, "plain"), value, low, high, label)


def _place(fraction: float) -> float:
    return round(100 * (min(max(fraction, SCALE_LOW), SCALE_HIGH) - SCALE_LOW) / (SCALE_HIGH - SCALE_LOW), 2)


def _width(png: bytes) -> int:
    """From the file's header, where bytes 16 to 19 are the width."""
    return round(int.from_bytes(png[16:20], "big") / 1.55)


def _factors(summary: Summary) -> list[tuple[str, list[str]]]:
    """Retained accuracy by factor: name of the run and one text a factor; the first row is the head."""
    names = sorted({name for run in summary.runs for name in run.retained_by_factor})
    if not names:
        return []
    rows = [("model", names)]
    for run in summary.runs:
        rates = [run.retained_by_factor.get(name) for name in names]
        rows.append((run.name, ["–" if rate is None else decimal(100 * rate.value, 0) for rate in rates]))
    return rows
