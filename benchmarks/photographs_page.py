"""The page of benchmarks/photographs.py."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from validity_families import side

PICTOGRAM = "umbrella"
"""The object beside which kinds of clothing are put."""
Interval = Sequence[float | None] | Mapping[str, Any] | None


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page in Markdown.

    Args:
        results: of `photographs.score`, by concept.
    """
    lines = [
        "# Do the findings hold on photographs?\n",
        "`python benchmarks/photographs.py`, seed 0: Fashion-MNIST's base model and controls (`make fashion`), the "
        "recipes of `recipes/fashion`, `--data.prompted=48`, doors on 8 pictures with 8 draws each. Brackets are 95 % "
        "intervals over pictures; every model is one training. *Pictograms*: the same of umbrella, in "
        "[erasure](erasure.md) and [validity](validity.md).\n",
    ]
    for concept, found in results.items():
        lines += [f"## {concept}\n", *_models(found), "", *_doors(found), "", *_numbers(found), ""]
        lines += [f"![samples](../figures/photographs-{concept}.png)\n"]
    return "\n".join(lines)


def _models(found: Mapping[str, Any]) -> list[str]:
    there = json.loads(Path("docs/results/erasure.json").read_text(encoding="utf-8"))
    pictograms = {row["model"]: row for row in there if row["concept"] == PICTOGRAM}
    lines = [
        "| model | prompted, % | others, % | forgetting, nats | fraction | pictograms | damage, nats | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["models"]:
        other = pictograms.get(row["model"], {}).get("fraction")
        cells = [row["model"], _percent(row["prompted"]), _percent(row["retained"]), _cell(row["forgetting"], 1)]
        cells += [_cell(row["fraction"], 2), _cell(other, 2), _cell(row["damage"], 1), row["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _doors(found: Mapping[str, Any]) -> list[str]:
    attacks = list(dict.fromkeys(row["attack"] for row in found["doors"]))
    models = list(dict.fromkeys(row["model"] for row in found["doors"]))
    rows = {(row["model"], row["attack"]): row for row in found["doors"]}
    lines = [
        "Doors: pictures that showed the concept, of those attacked; the last row: AUC of how far each opened a model "
        "that knows, against one that never knew.\n",
        f"| model | {' | '.join(attacks)} |",
        "|---" * (len(attacks) + 1) + "|",
    ]
    for model in models:
        cells = [rows.get((model, attack)) for attack in attacks]
        lines.append(f"| {model} | " + " | ".join(f"{c['hits']} of {c['count']}" if c else "–" for c in cells) + " |")
    proofs = {row["attack"]: row["told_apart"] for row in found["proofs"]}
    return [*lines, "| AUC | " + " | ".join(_cell(proofs.get(attack), 2) for attack in attacks) + " |"]


def _numbers(found: Mapping[str, Any]) -> list[str]:
    there = json.loads(Path("docs/results/validity.json").read_text(encoding="utf-8"))[PICTOGRAM]["known"]
    pictograms = {row["measure"]: row for row in there}
    lines = [
        "Numbers of an audit, by how well one picture of the concept tells a model that knows from one that never "
        "knew, by the number itself and by its difference from vanilla's of the same picture (*paired*), which is what "
        "audits compare; *kept*: both intervals leave out 0.5 on the same side, or neither does.\n",
        "| number | AUC | pictograms | kept | paired | pictograms | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    forms = ("concept", "concept, paired")
    kept = dict.fromkeys(forms, 0)
    shared = [row for row in found["known"] if all(row[f] and pictograms.get(row["measure"], {}).get(f) for f in forms)]
    for row in shared:
        cells = [row["measure"]]
        for form in forms:
            own, other = row[form], pictograms[row["measure"]][form]
            same = side(own) == side(other)
            kept[form] += same
            cells += [_cell(own, 2), _cell(other, 2), "yes" if same else "**no**"]
        lines.append(f"| {' | '.join(cells)} |")
    said = f"\nOf {len(shared)} numbers {kept[forms[0]]} keep what their AUC tells, paired {kept[forms[1]]}.\n"
    return [*lines, said]


def _percent(estimate: Interval) -> str:
    if not isinstance(estimate, Mapping):
        return "–"
    return f"{100 * estimate['value']:.0f} [{100 * estimate['low']:.0f}, {100 * estimate['high']:.0f}]"


def _cell(estimate: Interval, digits: int) -> str:
    if estimate is None:
        return "–"
    values = [estimate[name] for name in ("value", "low", "high")] if isinstance(estimate, Mapping) else [*estimate]
    value, low, high = ("–" if one is None else f"{round(one, digits) + 0:.{digits}f}" for one in values)
    return f"{value} [{low}, {high}]"
