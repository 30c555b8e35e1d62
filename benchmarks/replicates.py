"""Every method erased again: other seeds of the erasure, other trainings of the model that it is erased from.

Appends to docs/results/replicates.jsonl, a line an audited model.

    python benchmarks/replicates.py
    python benchmarks/replicates_page.py

Three trainings of the base, each with a control for every concept, from a trunk that saw none of the concepts. From the
first training every method erases with three seeds, from the others with one: what erasures of one model scatter by is
told from what trainings do. The first erasure of each method is taught the concept again too. Nothing was tuned on any
of these models, nor any recipe on castle.

Resumable: what has its line is not trained again. Erased models are deleted when their line is written; trunks, bases
and controls stay. Two processes may share the work: give them different trainings.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from erasure import METHODS, OPTIONS, RECIPES
from jsonargparse import auto_cli
from replicates_numbers import ROWS
from worlds import audit, numbers_of
from worlds_models import grown, trunk

from lit_memories.erasers.cost import COST_FILE
from lit_memories.recipes import run
from lit_memories.runs import read_run

CONCEPTS = ("umbrella", "anchor", "striped", "castle")
SEEDS: dict[int, tuple[int, ...]] = {0: (0, 1, 2), 1: (0,), 2: (0,)}
"""Seeds of the erasures, by training."""
IMAGES = "concept", "reference"
NUMBERS = {
    **dict.fromkeys(IMAGES, ("denoising.surprise",)),
    "prompted": ("samples.shows_concept",),
    "retained": ("samples.met",),
}
"""Numbers kept of every sample, by set."""
PROBES = [
    {"class_path": "lit_memories.probes.denoising.Denoising", "init_args": {"empty": False}},
    {"class_path": "lit_memories.probes.samples.Samples", "init_args": {"guidance_scale": 3.0}},
]
LESSON = [{"class_path": "lit_memories.probes.relearning.Relearning", "init_args": {"draw": False}}]


@dataclass(frozen=True)
class Cell:
    """One audited model.

    Args:
        training: seed of the base.
        concept: that is erased and asked about.
        model: vanilla, never-knew or a method.
        seed: of the erasure; 0 where nothing is erased.
    """

    training: int
    concept: str
    model: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.training}-{self.concept}-{self.model}-{self.seed}"

    @property
    def relearns(self) -> bool:
        """Whether it is taught the concept again: the first erasure of the first training."""
        return self.training == 0 and self.seed == 0


def cells(trainings: tuple[int, ...], concepts: tuple[str, ...], methods: tuple[str, ...]) -> Iterator[Cell]:
    """All models that the page is made of, in the order in which they are of use."""
    for number in range(max(map(len, SEEDS.values()))):
        for training in trainings:
            for concept in concepts:
                if number == 0:
                    yield from (Cell(training, concept, model) for model in ("vanilla", "never-knew"))
                if number < len(SEEDS[training]):
                    yield from (Cell(training, concept, method, SEEDS[training][number]) for method in methods)


def main(
    trainings: tuple[int, ...] = tuple(SEEDS),
    concepts: tuple[str, ...] = CONCEPTS,
    methods: tuple[str, ...] = tuple(METHODS),
    folder: Path = Path("runs/replicates"),
    out: Path = Path("docs/results/replicates.jsonl"),
    images: int = 24,
    prompted: int = 24,
) -> None:
    """Train and audit what has no line yet.

    Args:
        trainings: seeds of the bases.
        concepts: of `CONCEPTS`.
        methods: rows of benchmarks/erasure.py.
        folder: for models and audits.
        out: the file with a line a model.
        images: of the concept, and as many that show none of the six of benchmarks/worlds.py.
        prompted: samples under the concept's prompts, and as many under others.
    """
    torch.set_num_threads(1)
    for cell in cells(trainings, concepts, methods):
        if cell in done(out):
            continue
        base, options, line = _model(cell, folder)
        place = folder / "audits" / cell.name
        audit(cell.concept, base, place, images, 0, prompted, f"--model.probes={PROBES}", *options)
        found = read_run(place)
        line["numbers"] = {name: numbers_of(found, name, paths) for name, paths in NUMBERS.items()}
        if cell.relearns:
            lesson = folder / "audits" / f"{cell.name}-relearning"
            audit(cell.concept, base, lesson, images, 0, 0, f"--model.probes={LESSON}", *options)
            taught = read_run(lesson)
            line["relearning"] = {side: numbers_of(taught, side, ("relearning.curve",)) for side in IMAGES}
            shutil.rmtree(lesson)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(cell) | line) + "\n")
        for rest in (place, folder / "erasures" / cell.name):
            shutil.rmtree(rest, ignore_errors=True)
        print(f"== {cell.name}: its line is written", flush=True)


def done(out: Path) -> set[Cell]:
    """Cells that have their line."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    return {Cell(*(line[name] for name in ("training", "concept", "model", "seed"))) for line in map(json.loads, lines)}


def _model(cell: Cell, folder: Path) -> tuple[Path, list[str], dict[str, Any]]:
    """The base's folder, options of the audit, and what the line says of training."""
    withheld = (cell.concept,) if cell.model == "never-knew" else ()
    name = f"seed{cell.training}-without-{cell.concept}" if withheld else f"seed{cell.training}"
    base = grown(name, cell.training, trunk(cell.training, folder), folder, withheld, rows=ROWS)
    if cell.model not in METHODS:
        return base, [f"--model.role={'control' if withheld else 'vanilla'}"], {}
    place = folder / "erasures" / cell.name
    if not (place / COST_FILE).is_file():
        shutil.rmtree(place, ignore_errors=True)
        method, more = METHODS[cell.model]
        recipe = RECIPES / "erase" / f"{method}.yaml"
        if "data" in yaml.safe_load(recipe.read_text(encoding="utf-8")):
            more = [f"--data.seed={cell.seed}", f"--data.cache={folder / 'cache'}", *more]
        run(
            [
                "fit",
                f"--config={recipe}",
                f"--seed_everything={cell.seed}",
                f"--model.concept={RECIPES}/concepts/{cell.concept}.yaml",
                f"--model.diffusion.base={base}",
                "--trainer.enable_progress_bar=false",
                "--trainer.callbacks=[lit_memories.erasers.cost.Cost]",
                f"--trainer.default_root_dir={place}",
                *more,
                *OPTIONS.get((cell.model, cell.concept), []),
            ]
        )
    return base, [f"--model.diffusion.erasure={place}"], {"cost": json.loads((place / COST_FILE).read_text())}


if __name__ == "__main__":
    auto_cli(main)
