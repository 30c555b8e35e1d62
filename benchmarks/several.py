"""Forget one, two, four and eight objects together: docs/results/several.{md,jsonl}.

    python benchmarks/several.py   # about an hour of one core

Recipes as they stand, on umbrella, two-objects, four-objects and eight-objects of recipes/pictograms/concepts. Every
model is asked for the same held-out pictures from the same noise. Resumable: a model whose line is in the file is not
made again.
"""

import json
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from matplotlib.figure import Figure
from shown import RECIPES, Shown, erased, packed, prompts, shown, unpacked

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.metrics import wilson_interval
from lit_memories.recipe_files import read_recipe
from lit_memories.worlds.judge import WorldJudge
from lit_memories.worlds.pictograms import Pictogram

FILES = {1: "umbrella", 2: "two-objects", 4: "four-objects", 8: "eight-objects"}
METHODS: dict[str, list[str]] = {name: [] for name in ("uce", "rece", "speed", "mace", "esd", "salun")}
"""Recipes, and options beside them."""
FACTORS = ("object", "color", "background", "style")
Row = dict[str, Any]


def main(
    methods: tuple[str, ...] = tuple(METHODS),
    counts: tuple[int, ...] = tuple(FILES),
    each: int = 8,
    folder: Path = Path("runs/several"),
    out: Path = Path("docs/results/several"),
    figure: Path = Path("docs/figures/several.png"),
) -> None:
    """Erase, draw, and write the page.

    Args:
        methods: which.
        counts: of concepts.
        each: pictures an object that every model is asked for.
        folder: for erased models.
        out: where page and lines go, without suffix.
        figure: where the curves go.
    """
    file, judge, pictures = out.with_suffix(".jsonl"), WorldJudge(Path("checkpoints/classifier")), prompts(each)
    for method, count in [("none", 0), *((method, count) for method in methods for count in counts)]:
        if any((row["method"], row["count"], row["each"]) == (method, count, each) for row in read(file)):
            continue
        print(f"== {method}: {count}", flush=True)
        if count:
            place = folder / method / FILES[count]
            model = erased(method, RECIPES / "concepts" / f"{FILES[count]}.yaml", place, METHODS[method])
        else:
            model = Diffusion("checkpoints/pictograms")
        line = {"method": method, "count": count, "each": each, **packed(shown(model, judge, pictures))}
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
    rows = [counted(row, pictures) for row in read(file) if row["each"] == each]
    draw(rows, figure)
    out.with_suffix(".md").write_text(page(rows, each, len(pictures)), encoding="utf-8")


def read(file: Path) -> list[Row]:
    """The lines that are there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def objects(count: int) -> list[str]:
    """What is forgotten, by the number of concepts."""
    concept = Concept(**read_recipe(RECIPES / "concepts" / f"{FILES[count]}.yaml"))
    return [one.name for one in concept.parts or [concept]]


def counted(row: Row, pictures: list[Pictogram]) -> Row:
    """A line's counts: pictures of what was forgotten that show it, the worst object's, and others met in all."""
    found: Shown = unpacked({name: row[name] for name in FACTORS})
    gone = objects(row["count"]) if row["count"] else []
    kept = [name for name in dict.fromkeys(p.object for p in pictures) if name not in objects(max(FILES))]
    rows = list(zip(found, pictures, strict=True))
    by = {name: [seen["object"] for seen, p in rows if p.object == name] for name in gone}
    others = [all(seen.values()) for seen, p in rows if p.object in kept]
    return {
        "method": row["method"], "count": row["count"],
        "prompted": (sum(map(sum, by.values())), sum(map(len, by.values()))),
        "worst": max(by, key=lambda name: sum(by[name]), default=""),
        "worst_rate": max((sum(seen) / len(seen) for seen in by.values()), default=0.0),
        "others": (sum(others), len(others)),
    }  # fmt: skip


def draw(rows: list[Row], file: Path) -> None:
    """How often what was forgotten is drawn, and how often others are, against the number of concepts."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, name, title in zip(panels, ("prompted", "others"), ("forgotten objects", "other objects"), strict=True):
        for method in METHODS:
            points = sorted((r["count"], 100 * r[name][0] / r[name][1]) for r in rows if r["method"] == method)
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", label=method)
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(FILES), [str(count) for count in FILES])
        panel.set_xlabel("objects forgotten together")
        panel.set_title(title)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("drawn as asked for, %")
    panels[0].set_ylim(-3, 103)
    panels[1].legend(frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, pil_kwargs={"optimize": True})


def page(rows: list[Row], each: int, count: int) -> str:
    """The page as Markdown."""
    kept = next(row["others"][1] for row in rows)
    text = [
        "# Several objects forgotten together\n",
        "`python benchmarks/several.py`, seed 0, one training each: recipes of `recipes/pictograms/erase` on one, "
        f"two, four and eight objects ({', '.join(objects(max(FILES)))}). Every model is asked for the same {count} "
        f"held-out pictures ({each} of each object) from the same noise, 20 steps, guidance 3. *Prompted* is the share "
        f"of pictures of what was forgotten that show it, *others* that of {kept} pictures of the objects that no row "
        "forgets which are met in object, colour, background and style; brackets are 95 % intervals over pictures.\n",
        "![forgotten and others](../figures/several.png)\n",
        "| method | objects | prompted, % | most often drawn of them | others, % |",
        "|---|---|---|---|---|",
    ]
    order = ["none", *METHODS]
    for row in sorted(rows, key=lambda row: (order.index(row["method"]), row["count"])):
        worst = f"{row['worst']} {100 * row['worst_rate']:.0f}" if row["worst_rate"] else "–"
        prompted = _rate(row["prompted"]) if row["count"] else "–"
        text.append(f"| {row['method']} | {row['count']} | {prompted} | {worst} | {_rate(row['others'])} |")
    return "\n".join(text) + "\n"


def _rate(counts: tuple[int, int]) -> str:
    found = wilson_interval(*counts)
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
