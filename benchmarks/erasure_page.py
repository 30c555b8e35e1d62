"""The page of benchmarks/erasure.py, and of benchmarks/replicates.py behind it.

python benchmarks/erasure_page.py  # makes docs/results/erasure.md again from what both left
"""

import json
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from replicates_page import section

from lit_memories.data.pictograms import FACTORS


def main(
    rows: Path = Path("docs/results/erasure.json"), replicates: Path = Path("docs/results/replicates.jsonl")
) -> None:
    """Write the page beside the rows.

    Args:
        rows: what benchmarks/erasure.py left.
        replicates: what benchmarks/replicates.py left.
    """
    found = json.loads(rows.read_text(encoding="utf-8"))
    rows.with_suffix(".md").write_text(page(found, replicates), encoding="utf-8")


def page(rows: list[dict[str, Any]], replicates: Path) -> str:
    """The page as Markdown.

    Args:
        rows: a model of benchmarks/erasure.py each.
        replicates: lines of benchmarks/replicates.py, if they are there.
    """
    lines = [
        "# All methods on the pictograms\n",
        "`make benchmark-erasure` (`python benchmarks/erasure.py`), seed 0: recipes of `recipes/pictograms/erase` on "
        "`checkpoints/pictograms`, audited with `recipes/pictograms/audit` and `--data.prompted=48`. Brackets are "
        "95 % intervals. *Prompted* is the share of prompts for the concept that show it, *others* that of other "
        "prompts met in every factor; *forgetting* and *damage* by the denoising bound in nats, *fraction* of the "
        "control's forgetting, *no prompt* the same without the prompt; *by seeds*: by the NLL of seeds; d is the "
        "paper's relative distance, with W1 and with the official squared W2; *changed* is how many numbers the "
        "artefact holds; *evaluations* are samples through the U-Net in training, *seconds* those of one thread on a "
        "machine that did other work beside it.\n",
    ]
    for concept in dict.fromkeys(row["concept"] for row in rows):
        mine = [row for row in rows if row["concept"] == concept]
        lines += [
            f"## {concept}\n",
            "| model | prompted, % | others, % | forgetting | fraction | no prompt | damage | by seeds | fraction "
            "| d (W1) | d (W2²) | verdict |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in mine:
            cells = [_cell(row["prompted"], 0, 100), _cell(row["retained"], 0, 100), _cell(row["forgetting"], 1)]
            cells += [_cell(row["fraction"], 2), _cell(row["fraction_empty"], 2), _cell(row["damage"], 1)]
            cells += [_cell(row["forgetting_seeds"], 1), _cell(row["fraction_seeds"], 2)]
            cells += [_cell(row["relative_distance"], 2)]
            cells += [_cell(row["relative_distance_w2_squared"], 2), row["verdict"]]
            lines.append(f"| {row['model']} | {' | '.join(cells)} |")
        lines += [
            "\n| model | object | colour | background | style | changed | size, MB | steps | evaluations | seconds |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in mine:
            rates = [_cell(row["retained_by_factor"].get(f), 0, 100, False) for f in FACTORS]
            cost = ["–"] * 5
            if "parameters" in row:
                cost = [f"{row['parameters']:,}", f"{row['bytes'] / 1e6:.2f}", str(row["steps"])]
                cost += [f"{row['evaluations']:,}", f"{row['seconds']:.0f}"]
            lines.append(f"| {row['model']} | {' | '.join([*rates, *cost])} |")
        lines.append(f"\n![samples](../figures/erasure-{concept}.png)\n")
    return "\n".join(lines) + section(replicates)


def _cell(estimate: dict[str, Any] | None, digits: int, scale: float = 1, interval: bool = True) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    value, low, high = (
        "–" if estimate[name] is None else f"{scale * estimate[name]:.{digits}f}" for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]" if interval else value


if __name__ == "__main__":
    auto_cli(main)
