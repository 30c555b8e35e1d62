"""Models that were shown exactly so many pictures of a concept, in several trainings, and every number of an audit.

Appends to docs/results/worlds.jsonl, a line a model.

    python benchmarks/worlds.py

Six concepts, three training seeds, and a ladder of 0, 1, 4, 16, 64, 256 and all pictures. A seed has one trunk, which
saw none of the concepts, and seven models that go on from it, each shown 6144 pictures once. The models are the rows of
a Latin square: each shows every concept at another rung, so that seven trainings give six ladders. The rest of a ladder
is not quite equal for one concept, as the other five stand at other rungs; how much that matters is in the scatter
between seeds, whose squares differ.

Resumable: a model that has its line is not trained again, a trunk goes on from its last checkpoint. A model is deleted
when its line is written, so that there are never more than a trunk and a model of each process on disk. Two processes
may share the work: give them different seeds.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from worlds_models import CONCEPTS, DOSES, World, branch, pictures_of, trunk
from worlds_truth import denoising_error

from lit_memories.recipes import run
from lit_memories.runs import Run, read_run
from lit_memories.statistics.exposure import settings_mark, world_of

ASKED = {
    "concept": ("denoising.surprise", "denoising.surprise_empty", "seed.nll", "seed.psnr"),
    "reference": ("denoising.surprise", "denoising.surprise_empty", "seed.nll", "seed.psnr"),
    "prompted": ("samples.shows_concept", "samples.probability"),
}
"""Numbers kept of every image, by set."""


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    folder: Path = Path("runs/worlds"),
    out: Path = Path("docs/results/worlds.jsonl"),
    images: int = 24,
    inverted: int = 8,
    prompted: int = 16,
) -> None:
    """Train and audit what has no line yet.

    Args:
        seeds: of training.
        folder: for models and audits while they are needed.
        out: the file with a line a model.
        images: of the concept, and as many that show none of the six.
        inverted: of these.
        prompted: samples under the concept's prompts.
    """
    torch.set_num_threads(1)
    for seed in seeds:
        for number in range(len(DOSES)):
            world = World(seed, number)
            if (seed, number) in _done(out):
                continue
            model = branch(world, trunk(seed, folder), folder)
            line = _measured(world, model, folder / "audits", images, inverted, prompted)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            for rest in (model, folder / "logs" / world.name):
                shutil.rmtree(rest, ignore_errors=True)
            print(f"== {world.name}: its line is written", flush=True)


def _done(out: Path) -> set[tuple[int, int]]:
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    found = [json.loads(line) for line in lines]
    return {(line["seed"], line["number"]) for line in found}


def _measured(world: World, model: Path, audits: Path, images: int, inverted: int, prompted: int) -> dict[str, Any]:
    shown = pictures_of(world)
    line: dict[str, Any] = {"seed": world.seed, "number": world.number, "shown": shown, "concepts": {}}
    for concept in CONCEPTS:
        place = audits / world.name / concept
        audit(concept, model, place, images, inverted, prompted)
        found = read_run(place)
        line["world"] = world_of(found.info)
        line["marks"] = {probe: settings_mark(found.info, probe) for probe in sorted(found.info.probes)}
        numbers = {name: numbers_of(found, name, paths) for name, paths in ASKED.items()}
        line["concepts"][concept] = numbers | {"denoising_error": denoising_error(model, concept)}
        shutil.rmtree(place)
    return line


def audit(concept: str, model: Path, place: Path, images: int, inverted: int, prompted: int, *options: str) -> None:
    """Audit a model for one of the six concepts.

    Args:
        concept: its name.
        model: its folder.
        place: the run's.
        images: of the concept that show none of the others, and as many that show none of the six.
        inverted: of these.
        prompted: samples under the concept's prompts, and as many under others.
        *options: more of the command line, which win.
    """
    others = [factors for name, factors in CONCEPTS.items() if name != concept]
    probes = [
        {"class_path": "lit_memories.probes.denoising.Denoising"},
        {"class_path": "lit_memories.probes.samples.Samples", "init_args": {"guidance_scale": 3.0}},
        {"class_path": "lit_memories.probes.seed.Seed", "init_args": {"limit": inverted}},
    ]
    run(
        [
            "predict",
            "--config=recipes/pictograms/audit/umbrella.yaml",
            f"--model.concept=recipes/pictograms/concepts/{concept}.yaml",
            f"--model.diffusion.base={model}",
            "--model.role=erased",
            f"--model.probes={probes}",
            f"--data.concept_images.keep={CONCEPTS[concept]}",
            f"--data.concept_images.withhold={others}",
            f"--data.reference_images.withhold={[*CONCEPTS.values()]}",
            *(f"--data.{side}_images.limit={images}" for side in ("concept", "reference")),
            "--data.batch_size=24",
            "--data.known=0",
            f"--data.prompted={prompted}",
            "--model.keep_images=0",
            "--trainer.callbacks=[]",
            "--trainer.enable_progress_bar=false",
            f"--trainer.default_root_dir={place}",
            *options,
        ]
    )


def numbers_of(found: Run, name: str, paths: Sequence[str]) -> dict[str, list[Any]]:
    """Numbers of a set's images, or lists of them, in the order of the images."""
    records = sorted((r for r in found.records if r.set == name and r.conditioning is None), key=lambda r: r.index)
    tables = {path: [record.value(path) for record in records] for path in paths}
    return {path: [_rounded(x) for x in values if x is not None] for path, values in tables.items()}


def _rounded(value: Any) -> Any:
    return [_rounded(part) for part in value] if isinstance(value, list) else round(float(value), 4)


if __name__ == "__main__":
    auto_cli(main)
