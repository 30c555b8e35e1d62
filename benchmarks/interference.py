"""Erase each thing of the pictogram world, and see what became of all others: docs/results/interference.{md,jsonl}.

    python benchmarks/interference.py   # by UCE, about 20 minutes of one core

Every model is asked for the same held-out pictures from the same noise. Resumable: a model whose line is in the file is
not made again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from shown import concept_of, erased, packed, prompts, rates, shown, things, unpacked

from lit_memories.diffusion import Diffusion
from lit_memories.worlds.judge import WorldJudge
from lit_memories.worlds.pictograms import Pictogram

FAMILIES = {
    "chess": ("knight", "crown", "castle"),
    "cards": ("heart", "clover"),
    "solid": ("solid", "outline", "striped"),
    "colours": ("red", "yellow", "green", "blue", "white", "black"),
}
"""Things that are near to one another: glyphs of one set, and values of one factor that are not objects."""
NOTHING = "nothing"
"""The line of the model from which nothing was erased."""
Matrix = dict[str, dict[str, float]]


def main(
    method: str = "uce",
    each: int = 8,
    folder: Path = Path("runs/interference"),
    out: Path = Path("docs/results/interference"),
    figure: Path = Path("docs/figures/interference.png"),
) -> None:
    """Erase, draw, and write the page.

    Args:
        method: a recipe of recipes/pictograms/erase.
        each: pictures an object that every model is asked for.
        folder: for erased models.
        out: where page and lines go, without suffix.
        figure: where the matrix goes.
    """
    file, judge, pictures = out.with_suffix(".jsonl"), WorldJudge(Path("checkpoints/classifier")), prompts(each)
    lines = read(file, method, each)
    for factor, value in [("", NOTHING), *things()]:
        if value in lines:
            continue
        print(f"== {method}: {value}", flush=True)
        if value == NOTHING:
            model = Diffusion("checkpoints/pictograms")
        else:
            model = erased(method, concept_of(factor, value), folder / method / value)
        line = {"method": method, "each": each, "erased": value, **packed(shown(model, judge, pictures))}
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        lines = read(file, method, each)
    found = matrix(lines, pictures)
    draw(found, figure)
    out.with_suffix(".md").write_text(page(found, method, each, len(pictures)), encoding="utf-8")


def read(file: Path, method: str, each: int) -> dict[str, dict[str, Any]]:
    """The lines of a method, by what was erased."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    factors = ("object", "color", "background", "style")
    return {
        row["erased"]: {name: row[name] for name in factors}
        for row in rows
        if (row["method"], row["each"]) == (method, each)
    }


def matrix(lines: Mapping[str, Mapping[str, str]], pictures: list[Pictogram]) -> Matrix:
    """By what was erased, the rate at which each thing is drawn when asked for."""
    return {erased: rates(unpacked(line), pictures) for erased, line in lines.items()}


def near(one: str, other: str) -> bool:
    """Whether two things belong to one of the `FAMILIES`."""
    return any({one, other} <= set(family) for family in FAMILIES.values())


def losses(found: Matrix) -> list[tuple[float, str, str]]:
    """How much less often each thing is drawn after another was erased, the most first."""
    base = found[NOTHING]
    return sorted(
        ((base[other] - rate, erased, other) for erased, row in found.items() if erased != NOTHING
         for other, rate in row.items() if other != erased),
        reverse=True,
    )  # fmt: skip


def draw(found: Matrix, file: Path) -> None:
    """Rows: what was erased; columns: what was asked for; how much less often it is drawn than before."""
    base, names = found[NOTHING], list(found[NOTHING])
    change = np.array([[100 * (base[other] - found[erased][other]) for other in names] for erased in names])
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(change, cmap="RdBu_r", norm=TwoSlopeNorm(0, -100, 100))
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("asked for")
    axes.set_ylabel("erased")
    for row, line in enumerate(change):
        for column, value in enumerate(line):
            if abs(value) >= 10:
                ink = "white" if abs(value) > 60 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=ink)
    figure.colorbar(shown, label="drawn less often, percentage points", shrink=0.7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, pil_kwargs={"optimize": True})


def page(found: Matrix, method: str, each: int, count: int) -> str:
    """The page as Markdown."""
    base = found[NOTHING]
    lost = losses(found)
    sides = {
        kind: [loss for loss, one, other in lost if near(one, other) is (kind == "near")] for kind in ("near", "far")
    }
    text = [
        "# What erasing one thing does to every other\n",
        f"`python benchmarks/interference.py`, `{method}` by its recipe for the pictograms, seed 0: each object, "
        f"colour and style is erased by itself from `checkpoints/pictograms`; every model is asked for the same "
        f"{count} held-out pictures ({each} of each object) from the same noise, with 20 steps and guidance 3. A thing "
        "is drawn if the pictogram classifier sees it where it was asked for. One training each: a cell is about "
        f"{each} pictures of an object, {count // 6} of a colour, {count // 3} of a style.\n",
        "![who disturbs whom](../figures/interference.png)\n",
        f"- Erased things are drawn in {_mean([found[name][name] for name in found if name != NOTHING])} % of prompts "
        f"for them, {_mean(list(base.values()))} % before.",
        f"- Others lose {_mean(sides['near'])} percentage points where both are of one family "
        f"({'; '.join(', '.join(family) for family in FAMILIES.values())}), {_mean(sides['far'])} elsewhere.\n",
        "| erased | still drawn, % | other objects, % | colours, % | styles, % | most disturbed |",
        "|---|---|---|---|---|---|",
    ]
    kinds = {value: factor for factor, value in things()}
    for name in found:
        row = found[name]
        by = {
            factor: [rate for other, rate in row.items() if kinds[other] == factor and other != name]
            for factor in ("object", "color", "style")
        }
        worst = [f"{other} {100 * loss:+.0f}" for loss, one, other in lost if one == name and loss > 0.1][:3]
        text.append(
            f"| {name} | {'–' if name == NOTHING else _mean([row[name]])} | {_mean(by['object'])} | "
            f"{_mean(by['color'])} | {_mean(by['style'])} | {', '.join(worst) or '–'} |"
        )
    return "\n".join(text) + "\n"


def _mean(rates: list[float]) -> str:
    return f"{100 * sum(rates) / len(rates):.0f}" if rates else "–"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
