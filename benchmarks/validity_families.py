"""What both families of models say of each number of an audit, side by side: docs/results/validity-families.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erasure import FAMILIES

Interval = Sequence[float | None] | None


def write(out: Path) -> None:
    """Write the page if both families have been scored.

    Args:
        out: where the U-Net's tables are, without suffix; the other family's lie beside them.
    """
    files = {family.title: family.own(out).with_suffix(".json") for family in FAMILIES.values()}
    if all(file.is_file() for file in files.values()):
        found = {title: json.loads(file.read_text(encoding="utf-8")) for title, file in files.items()}
        out.with_name(f"{out.name}-families.md").write_text(page(found), encoding="utf-8")


def page(found: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown.

    Args:
        found: tables of `validity_scores.score` by concept, by family.
    """
    concepts = [
        concept for concept in next(iter(found.values())) if all(concept in tables for tables in found.values())
    ]
    lines = [
        "# Numbers of an audit on two architectures and paths\n",
        "`python benchmarks/validity.py` and the same with `--family flow`, seed 0: the tables of known truth and of "
        "taught models, [U-Net](../results/validity.md) and [flow](../results/validity-flow.md), side by side. *AUC*: "
        "never knew against knows, by one image of the concept. *Order*: how often a number orders two taught models, "
        "or one and the control, as the lessons' length does. Brackets are 95 % intervals over images. *Kept*: on both "
        "the interval leaves out 0.5 on the same side, or on neither does it.\n",
    ]
    for concept in concepts:
        tables = {title: by_concept[concept] for title, by_concept in found.items()}
        lines += [f"## {concept}\n", *_table(tables), ""]
    return "\n".join(lines)


def _table(tables: dict[str, dict[str, Any]]) -> list[str]:
    head = ["number", *(f"AUC, {title}" for title in tables), "kept", *(f"order, {title}" for title in tables), "kept"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    asked = {
        part: [{row["measure"]: row["concept"] for row in table[part]} for table in tables.values()]
        for part in ("known", "taught")
    }
    shared = [name for name in asked["known"][0] if all(by_name.get(name) for by_name in asked["known"])]
    kept = dict.fromkeys(asked, 0)
    for name in shared:
        cells = [name]
        for part, by_family in asked.items():
            pair = [by_name.get(name) for by_name in by_family]
            same = None if None in pair else len({side(one) for one in pair}) == 1
            kept[part] += bool(same)
            cells += [*(_cell(one) for one in pair), "–" if same is None else "yes" if same else "**no**"]
        lines.append(f"| {' | '.join(cells)} |")
    orders = [name for name in shared if all(by_name.get(name) for by_name in asked["taught"])]
    said = f"\nOf {len(shared)} numbers {kept['known']} keep what their AUC tells"
    return [*lines, said + (f", of {len(orders)} numbers {kept['taught']} the order.\n" if orders else ".\n")]


def side(interval: Interval) -> int:
    """On which side of chance a number lies: 1 or -1, or 0 if its interval holds 0.5.

    Args:
        interval: value, low and high of an AUC or a rate.
    """
    if interval is None or interval[1] is None or interval[2] is None:
        return 0
    return int(interval[1] > 0.5) - int(interval[2] < 0.5)


def _cell(interval: Interval) -> str:
    if interval is None:
        return "–"
    value, low, high = ("–" if number is None else f"{round(number, 2) + 0:.2f}" for number in interval)
    return f"{value} [{low}, {high}]"
