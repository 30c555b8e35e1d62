"""The page of benchmarks/erasure.py, and of benchmarks/replicates.py behind it.

python benchmarks/erasure_page.py  # makes docs/results/erasure.md again from what both left
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from replicates_numbers import HELD_BACK, Replicates
from replicates_page import section

from lit_memories.worlds.pictograms import FACTORS

Row = dict[str, Any]
BOTH: dict[str, tuple[str, tuple[int, float]]] = {
    "prompted, %": ("prompted", (0, 100)),
    "others, %": ("retained", (0, 100)),
    "fraction": ("fraction", (2, 1)),
    "no prompt": ("fraction_empty", (2, 1)),
    "by seeds": ("fraction_seeds", (2, 1)),
}
"""Columns of both families: the row's entry, its digits and its scale."""
AUDITED = (
    *("model", "prompted, %", "others, %", "forgetting", "fraction", "no prompt", "damage", "by seeds", "fraction"),
    *("d (W1)", "d (W2²)", "verdict"),
)
COST = ("changed", "size, MB", "steps", "evaluations", "seconds")


def main(page: Path = Path("docs/results/erasure.md")) -> None:
    """Write the page.

    Args:
        page: where it goes; rows of benchmarks/erasure.py and lines of benchmarks/replicates.py lie beside it.
    """
    write(page)


def write(file: Path) -> None:
    """Write the page of all that lies beside it.

    Args:
        file: the page.
    """
    rows, flow = (_rows(file.with_name(name)) for name in ("erasure.json", "erasure-flow.json"))
    lines = file.with_name("replicates.jsonl")
    # while what was held back from tuning is missing, the others' lines are not the answer yet
    others = section(lines) if lines.is_file() and set(HELD_BACK) <= set(Replicates(lines).concepts) else ""
    text = page(rows) + others + (flow_section(rows, flow) if flow else "")
    file.write_text(text, encoding="utf-8")


def _rows(file: Path) -> list[Row]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def page(rows: list[Row]) -> str:
    """The page of the U-Net's rows as Markdown.

    Args:
        rows: a model of benchmarks/erasure.py each.
    """
    lines = [
        "# All methods on the pictograms\n",
        "`make benchmark-erasure` (`python benchmarks/erasure.py`), seed 0: recipes of `recipes/pictograms/erase` on "
        "`checkpoints/pictograms`, audited with `recipes/pictograms/audit` and `--data.prompted=48`. Brackets are "
        "95 % intervals. *Prompted* is the share of prompts for the concept that show it, *others* that of other "
        "prompts met in every factor; *forgetting* and *damage* by the denoising bound in nats, *fraction* of the "
        "control's forgetting, *no prompt* the same without the prompt; *by seeds*: by the NLL of seeds; d is the "
        "paper's relative distance, with W1 and with the official squared W2; *changed* is how many numbers the "
        "artefact holds; *evaluations* are samples through the network in training, *seconds* those of one thread on a "
        "machine that did other work beside it.\n",
    ]
    for concept in _concepts(rows):
        lines += [f"## {concept}\n", *_tables(_of(rows, concept))]
        lines.append(f"\n![samples](../figures/erasure-{concept}.png)\n")
    return "\n".join(lines)


def flow_section(rows: list[Row], flow: list[Row]) -> str:
    """The rectified flow's rows as Markdown, first beside the U-Net's.

    Args:
        rows: a model of the U-Net's family each.
        flow: a model of the flow's.
    """
    lines = [
        "\n## On the flow pictograms\n",
        "`python benchmarks/erasure.py --family flow`, seed 0: recipes of `recipes/pictograms/flow/erase` on "
        "`checkpoints/flow-pictograms`, the rest as above. Methods that both have, with the same columns as above, of "
        "the U-Net and of the flow:\n",
    ]
    for concept in _concepts(flow):
        both = {row["model"]: row for row in _of(rows, concept)}
        names = [f"{name}, {of}" for name in (*BOTH, "verdict") for of in ("U-Net", "flow")]
        lines += [f"**{concept}**\n", *_head(["model", *names])]
        for row in _of(flow, concept):
            if pair := both.get(row["model"]):
                cells = [_cell(one[key], *form) for key, form in BOTH.values() for one in (pair, row)]
                lines.append(f"| {row['model']} | {' | '.join([*cells, pair['verdict'], row['verdict']])} |")
        lines.append("")
    for concept in _concepts(flow):
        lines += [f"### {concept}, flow\n", *_tables(_of(flow, concept))]
        lines.append(f"\n![samples](../figures/erasure-flow-{concept}.png)\n")
    return "\n".join(lines)


def _concepts(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["concept"] for row in rows))


def _of(rows: list[Row], concept: str) -> list[Row]:
    return [row for row in rows if row["concept"] == concept]


def _head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _tables(rows: list[Row]) -> list[str]:
    """What audits of a concept found, and what the erasures cost."""
    lines = _head(AUDITED)
    for row in rows:
        cells = [_cell(row["prompted"], 0, 100), _cell(row["retained"], 0, 100), _cell(row["forgetting"], 1)]
        cells += [_cell(row["fraction"], 2), _cell(row["fraction_empty"], 2), _cell(row["damage"], 1)]
        cells += [_cell(row["forgetting_seeds"], 1), _cell(row["fraction_seeds"], 2)]
        cells += [_cell(row["relative_distance"], 2)]
        cells += [_cell(row["relative_distance_w2_squared"], 2), row["verdict"]]
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    lines += ["", *_head(["model", "object", "colour", "background", "style", *COST])]
    for row in rows:
        rates = [_cell(row["retained_by_factor"].get(f), 0, 100, False) for f in FACTORS]
        cost = ["–"] * len(COST)
        if "parameters" in row:
            cost = [f"{row['parameters']:,}", f"{row['bytes'] / 1e6:.2f}", str(row["steps"])]
            cost += [f"{row['evaluations']:,}", f"{row['seconds']:.0f}"]
        lines.append(f"| {row['model']} | {' | '.join([*rates, *cost])} |")
    return lines


def _cell(estimate: dict[str, Any] | None, digits: int, scale: float = 1, interval: bool = True) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    value, low, high = (
        "–" if estimate[name] is None else f"{scale * estimate[name]:.{digits}f}" for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]" if interval else value


if __name__ == "__main__":
    auto_cli(main)
